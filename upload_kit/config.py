"""Settings that are resolved once, at the edge, and never change afterwards."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from upload_kit.errors import ConfigurationError
from upload_kit.models import Layer
from upload_kit.units import KIB, MIB

DEFAULT_CHUNK_SIZE: Final = 5 * MIB
DEFAULT_PARALLEL: Final = 3
DEFAULT_MEMORY_BUDGET: Final = 64 * MIB
DEFAULT_CONNECT_TIMEOUT: Final = 15.0
DEFAULT_RESPONSE_TIMEOUT: Final = 120.0
DEFAULT_READ_TIMEOUT: Final = 120.0
DEFAULT_SESSION_TTL: Final = 48 * 3600.0
DEFAULT_CLEANUP_INTERVAL: Final = 3600.0

_TOKEN: Final = re.compile(r"[!-~]+")
# Source: RFC 9110, section 5.1, field names are tokens.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL: Final = re.compile(r"[\0\r\n]")


class Secret:
    """A string that never shows itself: its repr, str and format are `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself; only for the wire."""
        return self._value

    def __repr__(self) -> str:
        """Hide the string."""
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Compare what is hidden."""
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        """Hash what is hidden."""
        return hash(self._value)


class Compression(StrEnum):
    """Which content coding chunks may travel in."""

    OFF = "off"
    AUTO = "auto"
    GZIP = "gzip"
    ZSTD = "zstd"


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ConfigurationError(f"{name} must be above 0, not {value}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to try again. Attempts and time are counted anew after any progress."""

    attempts: int = 10
    """Tries in all without progress in between, the first one among them."""

    max_elapsed: float = 300.0
    """Seconds from the first failure without progress until we give up."""

    base_delay: float = 0.5
    """Seconds; the n-th wait is drawn from 0 to `base_delay * 2 ** (n - 1)`."""

    max_delay: float = 30.0
    """Seconds; no drawn wait is longer."""

    max_retry_after: float = 300.0
    """Seconds; a longer `Retry-After` ends the upload instead of waiting."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _positive(attempts=self.attempts, max_elapsed=self.max_elapsed)
        for seconds in (self.base_delay, self.max_delay, self.max_retry_after):
            if not seconds >= 0:
                raise ConfigurationError(f"A retry delay cannot be {seconds}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPolicy:
    """How one upload runs; each layer refines the one of the layer below."""

    layer: Layer = Layer.FOUNDATION
    """Which layer asked, for events and history."""

    chunk_size: int = DEFAULT_CHUNK_SIZE
    """Bytes; the destination's limits may change it."""

    max_parallel: int = 1
    """Chunks on the wire at once, never more."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """When a chunk is tried again."""

    whole_digest: bool = False
    """Compute the SHA-256 of the whole file and have the remote compare it."""

    compression: Compression = Compression.OFF
    """Content coding of chunks."""

    overwrite: bool = True
    """False: refuse when something already stands at the destination."""

    always_session: bool = False
    """Make a session of a small file too, though it is sent again sooner than it is
    remembered: the session also tells whether it has arrived."""

    stall_timeout: float = 30.0
    """Seconds in which at least `min_rate * stall_timeout` bytes must move."""

    min_rate: int = 1 * KIB
    """Bytes a second; a slower connection is given up for a fresh one."""

    response_timeout: float = DEFAULT_RESPONSE_TIMEOUT
    """Seconds for the remote to answer once it has a chunk's last byte."""

    read_timeout: float = DEFAULT_READ_TIMEOUT
    """Seconds for the disk to give the next bytes of a file."""

    pause_on_wire: float = 10.0
    """Seconds that a pause holds a chunk on the wire. Servers break off after about 30,
    and until then the chunk takes up a slot that another upload could use."""

    memory_budget: int = DEFAULT_MEMORY_BUDGET
    """Bytes of chunk buffers, over everything that shares one uploader."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _positive(
            chunk_size=self.chunk_size,
            max_parallel=self.max_parallel,
            stall_timeout=self.stall_timeout,
            min_rate=self.min_rate,
            response_timeout=self.response_timeout,
            read_timeout=self.read_timeout,
            pause_on_wire=self.pause_on_wire,
            memory_budget=self.memory_budget,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """What a destination needs besides its URL."""

    token: Secret | None = None
    """Bearer token."""

    headers: tuple[tuple[str, Secret], ...] = ()
    """Further request headers; their values are taken for secrets."""

    max_connections: int = 100
    """Open connections at most, over everything that shares one uploader."""

    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    """Seconds to resolve, connect and shake hands."""

    response_timeout: float = DEFAULT_RESPONSE_TIMEOUT
    """Seconds to wait for an answer once a request was sent."""

    options: tuple[tuple[str, str], ...] = ()
    """What only this destination understands, such as an S3 endpoint."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _positive(
            max_connections=self.max_connections,
            connect_timeout=self.connect_timeout,
            response_timeout=self.response_timeout,
        )
        if self.token is not None and not _TOKEN.fullmatch(self.token.reveal()):
            raise ConfigurationError(
                "A token has visible ASCII characters only, and at least one.",
                hint="Does it end with the line break of the file it was read from?",
            )
        for name, value in self.headers:
            if not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value.reveal()):
                raise ConfigurationError(f"Not a request header: {name!r}.")
