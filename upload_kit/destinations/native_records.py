"""What our own server says, as far as it is of use: docs/dev/native-protocol.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upload_kit.models import Receipt  # noqa: TC001 (msgspec reads it)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much goes in one request for many small files."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the server says of itself."""

    protocol: str
    min_chunk: int
    max_chunk: int | None
    max_chunks: int | None
    max_size: int | None
    checksums: frozenset[str]
    encodings: frozenset[str]
    expires_after: float | None
    batch: BatchLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the server says of an upload."""

    session_id: str
    chunk_size: int
    location: str
    size: int | None
    sha256: str | None
    chunks: list[Receipt] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the server says of one file of a batch."""

    upload: Status | None
    problem: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What the server says of a batch."""

    files: list[Outcome]
