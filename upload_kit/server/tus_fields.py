"""tus's header fields, read strictly: what is not exactly right is refused."""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from upload_kit.server.append import CHECKSUMS, Checksum
from upload_kit.server.fields import (
    DEFAULT_MEDIA_TYPE,
    check_metadata,
    malformed,
    parse_coding,
    parse_media_type,
    parse_uint,
)
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.rules import NewUpload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.server.config import ServerConfig

VERSION: Final = "1.0.0"
BYTES: Final = "application/offset+octet-stream"
METADATA: Final = "Upload-Metadata"
CONCAT: Final = "Upload-Concat"

_METADATA_KEY: Final = re.compile(r"[!-+\--~]{1,128}", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:[!-~]*/)?([0-9a-f]{32})/?", re.ASCII)
_WANTED_DIGEST: Final = re.compile(r"(?:.*,)?\s*sha-256\s*=\s*[1-9][0-9]?\s*(?:,.*)?")
# Under which keys clients send a file's name and type.
_NAME_KEYS: Final = ("filename", "name")
_TYPE_KEYS: Final = ("filetype", "type", "contentType")


def check_version(headers: Mapping[str, str]) -> None:
    """Refuse a request in another version of the protocol, or in none."""
    version = headers.get("Tus-Resumable")
    if version != VERSION:
        raise UploadProblem(
            ProblemType.VERSION, f"tus {VERSION} is spoken here, not {version}."
        )


def read_creation(headers: Mapping[str, str], config: ServerConfig) -> NewUpload:
    """
    Read what a client says of an upload that is to begin.

    Raises:
        UploadProblem: It says it wrongly, or says too much.
    """
    joins, is_part = _read_concat(headers.get(CONCAT))
    size = _read_length(headers, joined=bool(joins))
    raw = headers.get(METADATA, "").strip()
    metadata = read_metadata(raw, config)
    texts = _texts(metadata)
    traits = {METADATA: raw, CONCAT: headers.get(CONCAT, "")}
    return NewUpload(
        name=_first(texts, _NAME_KEYS),
        size=size,
        content_type=parse_media_type(_first(texts, _TYPE_KEYS) or DEFAULT_MEDIA_TYPE),
        metadata=texts,
        whole_digest=_wants_digest(headers),
        is_part=is_part,
        joins=joins,
        traits={name: value for name, value in traits.items() if value},
    )


def _read_length(headers: Mapping[str, str], *, joined: bool) -> int | None:
    """Return the length; None where it is deferred, or that of what is joined."""
    length, deferred = headers.get("Upload-Length"), headers.get("Upload-Defer-Length")
    if joined:
        if length is not None or deferred is not None:
            raise malformed("A final upload has the length of its parts.")
        return None
    if deferred not in {None, "1"}:
        raise malformed("Upload-Defer-Length can only be 1.")
    if (length is None) == (deferred is None):
        raise malformed("Either Upload-Length or Upload-Defer-Length is wanted.")
    return None if length is None else parse_uint(length, "Upload-Length")


def _read_concat(text: str | None) -> tuple[tuple[str, ...], bool]:
    """Return the IDs of the parts of a final upload, and whether it is a part."""
    if text is None:
        return (), False
    if text == "partial":
        return (), True
    kind, _, addresses = text.partition(";")
    matches = [_ADDRESS.fullmatch(one) for one in addresses.split()]
    # Whatever host and path they name, only the ID counts, and it has to be of ours.
    found = tuple(match[1] for match in matches if match is not None)
    if kind != "final" or not found or len(found) != len(matches):
        raise malformed("Upload-Concat is 'partial', or 'final;' and uploads of ours.")
    return found, False


def read_metadata(text: str, config: ServerConfig) -> dict[str, bytes]:
    """
    Read `Upload-Metadata`; its values may be any bytes, or none.

    Raises:
        UploadProblem: It is broken, a key comes twice, or it is too much.
    """
    metadata: dict[str, bytes] = {}
    for pair in text.split(",") if text else ():
        key, _, value = pair.strip(" ").partition(" ")
        if _METADATA_KEY.fullmatch(key) is None or key in metadata:
            raise malformed(f"Upload-Metadata has a bad or repeated key: {key[:40]!r}.")
        try:
            metadata[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise malformed(f"Upload-Metadata: no base64 at {key!r}.") from error
    check_metadata(
        metadata,
        max_keys=config.max_metadata_keys,
        max_bytes=config.max_metadata_bytes,
    )
    return metadata


def _texts(metadata: Mapping[str, bytes]) -> dict[str, str]:
    """Return the values that are text; the others are only given back as they came."""
    texts = {}
    for key, value in metadata.items():
        with suppress(UnicodeDecodeError):
            texts[key] = value.decode()
    return texts


def _first(texts: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((texts[key] for key in keys if texts.get(key)), "")


def _wants_digest(headers: Mapping[str, str]) -> bool:
    """Return whether the digest of the whole is wanted (RFC 9530)."""
    return _WANTED_DIGEST.fullmatch(headers.get("Want-Repr-Digest", "")) is not None


def read_checksum(headers: Mapping[str, str]) -> Checksum | None:
    """
    Read `Upload-Checksum`; None where there is none.

    Raises:
        UploadProblem: It is broken, or of an algorithm that is not known here.
    """
    text = headers.get("Upload-Checksum")
    if text is None:
        return None
    algorithm, _, encoded = text.strip(" ").partition(" ")
    if algorithm not in CHECKSUMS:
        raise malformed(f"Upload-Checksum can be of {', '.join(CHECKSUMS)}.")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed("Upload-Checksum has no base64.") from error
    if len(digest) != len(CHECKSUMS[algorithm]().digest()):
        raise malformed(f"Upload-Checksum has no {algorithm}.")
    return Checksum(algorithm=algorithm, digest=digest)


def read_offset(headers: Mapping[str, str]) -> int:
    """Read `Upload-Offset`, which has to be there."""
    text = headers.get("Upload-Offset")
    if text is None:
        raise malformed("Upload-Offset is wanted.")
    return parse_uint(text, "Upload-Offset")


def read_new_length(headers: Mapping[str, str]) -> int | None:
    """Read the `Upload-Length` that a deferred one gets; None where there is none."""
    text = headers.get("Upload-Length")
    return None if text is None else parse_uint(text, "Upload-Length")


def check_bytes(headers: Mapping[str, str]) -> None:
    """Refuse a body that is not said to be plain bytes of an upload."""
    essence = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if essence != BYTES:
        raise UploadProblem(
            ProblemType.UNSUPPORTED_MEDIA, f"Bytes come as {BYTES} only."
        )
    if parse_coding(headers.get("Content-Encoding")) is not None:
        raise UploadProblem(
            ProblemType.UNSUPPORTED_MEDIA, "Bytes come without a Content-Encoding."
        )


def format_time(moment: float) -> str:
    """Write a time as HTTP has it."""
    return formatdate(moment, usegmt=True)
