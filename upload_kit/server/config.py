"""The server's settings, resolved once and never changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from upload_kit.config import (
    DEFAULT_CHUNK_SIZE,
    DEFAULT_CLEANUP_INTERVAL,
    DEFAULT_SESSION_TTL,
    Secret,
)
from upload_kit.errors import ConfigurationError
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from pathlib import Path

DISCARD: Final = "null:"
"""The `directory` of a server that counts, hashes and throws away."""

_POSITIVE: Final = (
    "workers",
    "max_chunk",
    "max_chunks",
    "default_chunk",
    "expires_after",
    "cleanup_interval",
    "idle_timeout",
    "rate_window",
    "header_timeout",
    "busy_timeout",
    "max_sessions",
    "memory_budget",
)
_POSITIVE_OR_NONE: Final = ("max_size", "quota", "rate_limit", "request_limit")


class Durability(StrEnum):
    """What an acknowledged byte survives."""

    FSYNC = "fsync"
    """Loss of power."""

    PAGE_CACHE = "page-cache"
    """The death of the server's process, but not loss of power."""


class ForwardName(StrEnum):
    """What a forwarded file is called at its destination."""

    NAME = "name"
    """As it was received; what stands there already is never replaced."""

    UNIQUE = "unique"
    """`ID/NAME`, with the upload's ID, so that no two files are ever the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """Where what was received goes on to."""

    url: Secret
    """URL of the destination; it may hold a password or a signature."""

    token: Secret | None = None
    """Bearer token, or API key, of the destination."""

    names: ForwardName = ForwardName.NAME
    """What files are called there."""

    remove: bool = False
    """Remove a received file once its digest was compared at the destination."""

    limit: float | None = None
    """Bytes a second over all forwards; None for no limit."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.limit is not None:
            _require_positive("limit", self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How one upload server runs."""

    directory: Path | str
    """Where files go; `null:` counts, hashes and throws away."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = 8000
    """TCP port; 0 takes a free one."""

    prefix: str = ""
    """Path before every route, such as `/store`."""

    workers: int = 1
    """Processes that share the port."""

    tokens: tuple[Secret, ...] = ()
    """Bearer tokens, each `name:token` or a bare token; none of them and no file
    means that everybody may upload."""

    token_file: Path | None = None
    """Further tokens, one a line; read again on SIGHUP."""

    allowed_origins: frozenset[str] = frozenset()
    """Origins of web pages that may use a server without tokens, and may speak tus to
    any server; `*` stands for all of them."""

    durability: Durability = Durability.FSYNC
    """What an acknowledged byte survives."""

    max_size: int | None = None
    """Bytes of one file; None for no limit."""

    max_chunk: int = 64 * MIB
    """Bytes of one chunk."""

    max_chunks: int = 100_000
    """Chunks of one file."""

    default_chunk: int = DEFAULT_CHUNK_SIZE
    """Bytes of a chunk where the client does not say."""

    quota: int | None = None
    """Bytes of all files, finished or announced; None for no limit."""

    max_sessions: int = 10_000
    """Unfinished uploads of one token."""

    max_metadata_keys: int = 64
    """Keys of one upload's metadata."""

    max_metadata_bytes: int = 16 * KIB
    """Bytes of one upload's metadata, keys and values."""

    rate_limit: float | None = None
    """Bytes a second of one token, or of one address without tokens."""

    request_limit: float | None = None
    """Requests a second of one token, or of one address without tokens."""

    idle_timeout: float = 30.0
    """Seconds without a byte of a body until its request is given up."""

    min_rate: float = 1 * KIB
    """Bytes a second of a body, measured over `rate_window`; 0 for no limit."""

    rate_window: float = 30.0
    """Seconds over which `min_rate` is measured."""

    header_timeout: float = 60.0
    """Seconds in which a connection must bring a request's headers."""

    busy_timeout: float = 30.0
    """Seconds to wait for another request that holds the same chunk."""

    expires_after: float = DEFAULT_SESSION_TTL
    """Seconds after which an untouched upload is removed."""

    cleanup_interval: float = DEFAULT_CLEANUP_INTERVAL
    """Seconds between two cleanups."""

    forward: Forwarding | None = None
    """Where what was received goes on to; None keeps it here."""

    grace: float = 5.0
    """Seconds that open requests get to end when the server stops."""

    memory_budget: int = 128 * MIB
    """Bytes of bodies that are held in memory at once, in one process."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in _POSITIVE:
            _require_positive(name, getattr(self, name))
        for name in _POSITIVE_OR_NONE:
            if (value := getattr(self, name)) is not None:
                _require_positive(name, value)
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port must be 0 to 65535, not {self.port}.")
        if self.grace < 0 or self.min_rate < 0:
            raise ConfigurationError("grace and min_rate cannot be negative.")
        if self.default_chunk > self.max_chunk:
            raise ConfigurationError(
                f"default_chunk {self.default_chunk} is above max_chunk."
            )
        if self.prefix and not _is_prefix(self.prefix):
            raise ConfigurationError(
                f"prefix must begin with / and not end with it: {self.prefix!r}."
            )
        if self.discards and self.workers > 1:
            raise ConfigurationError("null: keeps its records in one process only.")
        if self.discards and self.forward is not None:
            raise ConfigurationError("null: keeps nothing that could be forwarded.")

    @property
    def discards(self) -> bool:
        """Whether bytes are thrown away."""
        return str(self.directory) == DISCARD

    @property
    def is_open(self) -> bool:
        """Whether everybody may upload."""
        return not self.tokens and self.token_file is None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return _is_loopback(self.host)


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigurationError(f"{name} must be above 0, not {value}.")


def _is_prefix(prefix: str) -> bool:
    return prefix.startswith("/") and not prefix.endswith("/") and "{" not in prefix


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
