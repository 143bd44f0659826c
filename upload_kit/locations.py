"""URLs of destinations: parsed once, shown without their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from upload_kit.config import Secret
from upload_kit.errors import ConfigurationError

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
# Where nothing can be hidden: thousands of files have such a location.
_PLAIN: Final = re.compile(r"[a-z0-9]+://[A-Za-z0-9.:-]+/[A-Za-z0-9/._-]*", re.ASCII)
# Query parameters whose values give access: signatures, keys, tokens.
_SECRET_PARAMETER: Final = re.compile(
    r"(?:^|[-_.])(?:sig|signature|key|token|secret|pass(?:word|wd)?|pwd|credentials?"
    r"|auth|upload_id)(?:$|[-_.])|^x-amz-|^x-goog-|apikey",
    re.ASCII | re.IGNORECASE,
)
_PARAMETER: Final = re.compile(r"([^&;=]+)=([^&;]+)")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A destination's URL in parts."""

    scheme: str
    """Lower case, for example `file` or `tus+https`."""

    host: str
    """Host name or bucket; empty for `file` and `memory`."""

    port: int | None
    """None for the scheme's own."""

    path: str
    """Decoded path, with its leading slash if it has one."""

    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    """Query parameters, decoded."""

    username: str | None = field(repr=False)
    """User name in the URL."""

    password: Secret | None
    """Password in the URL."""

    url: Secret
    """The URL as it was given."""

    def __str__(self) -> str:
        """Return the URL without its secrets."""
        return redact(self.url.reveal())


def parse_location(url: str) -> Location:
    """
    Parse a destination's URL.

    Raises:
        ConfigurationError: It is no URL, or it has no scheme.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"Not a URL: {redact(url)!r} ({error}).") from error
    scheme = parts.scheme.lower()
    if "://" not in url or not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(
            f"Not a destination: {redact(url)!r} has no scheme.",
            hint="Write it like http://host:8000/, file:///folder or s3://bucket/.",
        )
    if "\0" in unquote(url):
        raise ConfigurationError("A destination cannot hold a NUL character.")
    return Location(
        scheme=scheme,
        host=parts.hostname or "",
        port=port,
        path=unquote(parts.path),
        parameters=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        username=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
        url=Secret(url),
    )


def redact(url: str) -> str:
    """
    Return a URL that can be shown: no password, no signature, no key, no token.

    Args:
        url: Any string; what does not look like a URL comes back as it is.
    """
    if _PLAIN.fullmatch(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be parsed)"
    netloc = parts.netloc
    if "@" in netloc:
        netloc = "***@" + netloc.rpartition("@")[2]
    query = _PARAMETER.sub(_redact_parameter, parts.query)
    shown = urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    head = f"{parts.scheme}:"
    if url[len(head) :].startswith("//") and not shown.startswith(f"{head}//"):
        # `gemini://` has nothing else, and is still to be found by what is shown.
        return f"{head}//{shown.removeprefix(head)}"
    return shown


def _redact_parameter(parameter: re.Match[str]) -> str:
    """Hide the value if the name, in whatever style it is written, says secret."""
    name = parameter[1]
    if _SECRET_PARAMETER.search(_HUMP.sub("_", unquote(name))):
        return f"{name}=***"
    return parameter[0]


def require_unicode(name: str) -> str:
    """
    Check a file name that travels as text.

    Args:
        name: It may hold bytes of a file system that are no UTF-8, as lone surrogates.

    Raises:
        ConfigurationError: It does.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"Not a file name in Unicode: {name[:200]!r}.",
            hint="Give another one with name=...",
        ) from error
    return name


def safe_relative_name(name: str) -> str:
    """
    Check a file name that becomes a path below a destination's folder.

    Args:
        name: Parts separated by `/`.

    Raises:
        ConfigurationError: It is empty, absolute, or climbs out of the folder.
    """
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise ConfigurationError(
            f"Not a file name below a folder: {name[:200]!r}.",
            hint="Give another one with name=...",
        )
    return name
