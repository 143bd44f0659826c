"""Header fields and parameters, read strictly: what is not exactly right is refused."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from upload_kit.checksums import parse_digests
from upload_kit.server.decoding import DECODERS
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.via import VIA, parse_via

if TYPE_CHECKING:
    from collections.abc import Mapping

_UINT: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
_METADATA_KEY: Final = re.compile(r"[!-+\--~]{1,128}", re.ASCII)
_MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}", re.ASCII
)
_EXTENDED_NAME: Final = re.compile(
    r"filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.ASCII | re.IGNORECASE
)
_QUOTED_NAME: Final = re.compile(
    r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]+))', re.IGNORECASE
)

DEFAULT_MEDIA_TYPE: Final = "application/octet-stream"


def malformed(detail: str) -> UploadProblem:
    """Return the problem of a request that is not as the protocol has it."""
    return UploadProblem(ProblemType.MALFORMED, detail)


def parse_uint(text: str, what: str) -> int:
    """
    Read digits, and nothing but digits.

    `int()` would also take signs, blanks, underscores and the digits of every script.

    Raises:
        UploadProblem: It is no such number, or above what 63 bits hold.
    """
    if _UINT.fullmatch(text) is None or (number := int(text)) > 2**63 - 1:
        raise malformed(f"{what} must be a whole number, not {text[:40]!r}.")
    return number


def parse_key(text: str | None) -> str | None:
    """Read an `Idempotency-Key`; None when there is none."""
    if text is not None and _KEY.fullmatch(text) is None:
        raise malformed("Idempotency-Key must be 16 to 64 of A-Z a-z 0-9 _ -.")
    return text


def parse_servers(text: str) -> tuple[str, ...]:
    """Read an `Upload-Kit-Via`."""
    try:
        return parse_via(text)
    except ValueError:
        raise malformed(f"{VIA} must be a list of server IDs.") from None


def parse_digest(text: str | None, what: str) -> bytes | None:
    """
    Read the SHA-256 out of a digest field; None when there is none.

    Raises:
        UploadProblem: The field is broken, or has no SHA-256.
    """
    if text is None:
        return None
    try:
        digest = parse_digests(text).get("sha256")
    except ValueError as error:
        raise malformed(f"{what}: {error}.") from error
    if digest is None:
        raise malformed(f"{what} has no sha-256, the one digest that is checked.")
    return digest


def digest_field(headers: Mapping[str, str], name: str) -> bytes | None:
    """Read the SHA-256 out of one of the headers; None when it is not there."""
    return parse_digest(headers.get(name), name)


def parse_coding(text: str | None) -> str | None:
    """
    Read a `Content-Encoding`; None for no coding.

    Raises:
        UploadProblem: It is a coding that nobody here can undo.
    """
    coding = (text or "identity").strip().lower()
    if coding == "identity":
        return None
    if coding not in DECODERS:
        raise UploadProblem(
            ProblemType.UNSUPPORTED_MEDIA,
            f"Content-Encoding may be {', '.join(sorted(DECODERS))}.",
        )
    return coding


def parse_media_type(text: str | None) -> str:
    """Return the media type without parameters, or the default for what is none."""
    essence = (text or "").partition(";")[0].strip().lower()
    return essence if _MEDIA_TYPE.fullmatch(essence) else DEFAULT_MEDIA_TYPE


def parse_disposition(text: str | None) -> str | None:
    """
    Return the file name in a `Content-Disposition`; None when there is none.

    Source: RFC 6266; `filename*` wins over `filename`.
    """
    if text is None:
        return None
    if match := _EXTENDED_NAME.search(text):
        return unquote_to_bytes(match[1]).decode("utf-8", errors="replace")
    if match := _QUOTED_NAME.search(text):
        quoted, plain = match.groups()
        name = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        # What is no UTF-8 came as lone surrogates, which could not be told on.
        return name.encode(errors="replace").decode()
    return None


def parse_metadata(
    text: str | None, *, max_keys: int, max_bytes: int
) -> dict[str, str]:
    """
    Read `Upload-Metadata`: comma-separated pairs of a key and a value in base64.

    Source: tus 1.0.0, creation, Upload-Metadata.
    """
    metadata: dict[str, str] = {}
    for pair in text.split(",") if text and text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if _METADATA_KEY.fullmatch(key) is None or key in metadata:
            raise malformed(f"Upload-Metadata has a bad or repeated key: {key[:40]!r}.")
        try:
            metadata[key] = base64.b64decode(value.strip(), validate=True).decode()
        except ValueError as error:
            raise malformed(
                f"Upload-Metadata: no text in base64 at {key!r}."
            ) from error
    check_metadata(metadata, max_keys=max_keys, max_bytes=max_bytes)
    return metadata


def check_metadata(
    metadata: Mapping[str, str | bytes], *, max_keys: int, max_bytes: int
) -> None:
    """Refuse metadata with too many keys or bytes."""
    size = sum(
        len(k.encode()) + len(v if isinstance(v, bytes) else v.encode())
        for k, v in metadata.items()
    )
    if len(metadata) > max_keys or size > max_bytes:
        raise UploadProblem(
            ProblemType.TOO_LARGE,
            f"Metadata may have {max_keys} keys and {max_bytes} bytes.",
        )
