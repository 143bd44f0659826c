"""What tus servers and clients say in header fields: read strictly, written exactly."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from yarl import URL

from upload_kit.checksums import parse_digests
from upload_kit.errors import AuthenticationFailed, ConfigurationError, RemoteRejected
from upload_kit.locations import redact

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from upload_kit.destinations.reply import Reply
    from upload_kit.models import UploadSpec

VERSION: Final = "1.0.0"
BYTES: Final = "application/offset+octet-stream"

# SHA-256 comes out of reading anyway; SHA-1 is what every server has to know.
_ALGORITHMS: Final = ("sha256", "sha1")
_UINT: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_METADATA_KEY: Final = re.compile(r"[!-+\--~]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TusServer:
    """What a server says that it can do."""

    extensions: frozenset[str] = frozenset({"creation"})
    """Names of protocol extensions."""

    checksums: tuple[str, ...] = ()
    """Digests that it checks and we can compute (hashlib names), the best one first."""

    max_size: int | None = None
    """Bytes of a whole file; None for no limit, or none that it tells."""


def read_server(reply: Reply) -> TusServer:
    """
    Read the answer to `OPTIONS`.

    Many proxies answer `OPTIONS` themselves, and tell nothing of tus. Such a server is
    taken for one that can do what every tus server can.

    Raises:
        RemoteUnavailable: Worth another try.
        RemoteRejected: It speaks other versions of tus only.
        AuthenticationFailed: It does not know us.
    """
    headers = reply.headers
    if "Tus-Version" not in headers:
        if reply.status in {401, 407}:
            raise AuthenticationFailed(str(reply.error()), status=reply.status)
        if reply.status >= 500 or reply.status == 429:
            raise reply.error()
        return TusServer()
    if VERSION not in _list(headers, "Tus-Version"):
        raise wrong_version(reply)
    extensions = frozenset(_list(headers, "Tus-Extension"))
    offered = _list(headers, "Tus-Checksum-Algorithm")
    return TusServer(
        extensions=extensions,
        checksums=tuple(
            name for name in _ALGORITHMS if "checksum" in extensions and name in offered
        ),
        max_size=read_size(reply, "Tus-Max-Size"),
    )


def wrong_version(reply: Reply) -> RemoteRejected:
    """Return the error of a server that does not speak our version of tus."""
    theirs = reply.headers.get("Tus-Version", "none that it names")
    return RemoteRejected(
        f"{reply.url} does not speak tus {VERSION}, but {theirs}.", status=reply.status
    )


def _list(headers: CIMultiDictProxy[str], name: str) -> list[str]:
    return [
        item.strip() for value in headers.getall(name, ()) for item in value.split(",")
    ]


def read_size(reply: Reply, name: str) -> int | None:
    """
    Read a field that holds bytes; None where there is none.

    Raises:
        RemoteRejected: It holds something else.
    """
    text = reply.headers.get(name)
    if text is None:
        return None
    if _UINT.fullmatch(text.strip()) is None:
        raise RemoteRejected(
            f"{reply.method} {reply.url} answered with {name}: {text[:40]!r}.",
            status=reply.status,
        )
    return int(text)


def read_sha256(reply: Reply) -> str | None:
    """Read what the server says of the whole file's SHA-256, if it says anything."""
    try:
        digest = parse_digests(reply.headers.get("Repr-Digest", "")).get("sha256")
    except ValueError:
        return None
    return None if digest is None else digest.hex()


def format_metadata(spec: UploadSpec) -> str:
    """
    Write `Upload-Metadata`; what the user gave wins over what we know ourselves.

    The keys `filename` and `filetype` are what servers and their users look for.

    Raises:
        ConfigurationError: A key cannot be sent.
    """
    facts = {"filename": spec.name, "filetype": spec.content_type, **spec.metadata}
    return ",".join(_pair(key, value) for key, value in facts.items())


def _pair(key: str, value: str) -> str:
    if _METADATA_KEY.fullmatch(key) is None:
        raise ConfigurationError(
            f"A tus server cannot keep metadata under {key[:80]!r}.",
            hint="A key has visible ASCII characters only, and no comma.",
        )
    # File names may hold bytes that are no UTF-8; they arrive as they are.
    encoded = base64.b64encode(value.encode(errors="surrogateescape")).decode()
    return f"{key} {encoded}" if encoded else key


def format_checksum(algorithm: str, digest: bytes) -> str:
    """Write `Upload-Checksum`."""
    return f"{algorithm} {base64.b64encode(digest).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TusOptions:
    """What a URL asks of the way its files go."""

    parts: int = 1
    """Partial uploads that a file is sent in at once; the server joins them."""

    checksum: str | None = None
    """Digest that each request carries: a name, `off`, or None for the best one."""

    query: str = field(default="", repr=False)
    """What is left for the server."""


# Each part's URL goes into one header field, of which servers take 8 KiB.
_MAX_PARTS: Final = 32
_OURS: Final = frozenset({"parts", "checksum"})


def read_options(query: str, given: dict[str, str]) -> TusOptions:
    """
    Take what is meant for us out of a URL's query.

    Args:
        query: As it stands in the URL.

        given: The same options, given elsewhere; they win.

    Raises:
        ConfigurationError: A value is none that is known.
    """
    pairs = [pair.partition("=") for pair in query.split("&")]
    ours = {name: value for name, _, value in pairs if name in _OURS} | {
        name: value for name, value in given.items() if name in _OURS
    }
    parts = ours.get("parts", "1")
    if _UINT.fullmatch(parts) is None or not 1 <= int(parts) <= _MAX_PARTS:
        raise ConfigurationError(
            f"parts must be 1 to {_MAX_PARTS}, not {parts[:40]!r}."
        )
    checksum = ours.get("checksum")
    if checksum not in {None, "off", *_ALGORITHMS}:
        raise ConfigurationError(
            f"checksum must be off or {' or '.join(_ALGORITHMS)}, not {checksum!r}."
        )
    rest = "&".join("".join(pair) for pair in pairs if pair[0] not in _OURS)
    return TusOptions(parts=int(parts), checksum=checksum, query=rest)


def resolve(base: str, reply: Reply) -> str:
    """
    Return the address in a `Location` field, which may be relative.

    Servers behind a proxy that ends TLS often do not know of it and answer with a plain
    `http` address; what began encrypted stays so.

    Raises:
        RemoteRejected: There is none, or it is none for HTTP.
    """
    location = reply.headers.get("Location", "")
    try:
        begun, url = URL(base), URL(base).join(URL(location, encoded=True))
        if begun.scheme == "https" and url.scheme == "http" and begun.host == url.host:
            url = url.with_scheme("https").with_port(begun.explicit_port)
    except ValueError:
        url = URL()
    is_upload = url.scheme in {"http", "https"} and url.host and url != URL(base)
    if not location or not is_upload:
        raise RemoteRejected(
            f"{reply.method} {reply.url} answered {reply.status} with the Location"
            f" {redact(location[:200])!r}.",
            status=reply.status,
            hint="Check that the URL is where the server takes new uploads.",
        )
    return str(url.with_fragment(None))


def is_address(text: str) -> bool:
    """Return whether it is an address that HTTP requests can go to."""
    try:
        url = URL(text, encoded=True)
    except ValueError:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


def same_origin(one: str, other: str) -> bool:
    """Return whether credentials for one address may be sent to the other."""
    return URL(one).origin() == URL(other).origin()
