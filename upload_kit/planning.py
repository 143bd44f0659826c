"""Which bytes go in which chunk: what a destination can take, and a plan that fits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from upload_kit.errors import ConfigurationError
from upload_kit.models import ChunkMetadata
from upload_kit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a destination is, asked once per upload; planner and engine read it."""

    min_chunk: int = 1
    """Bytes; the last chunk may be smaller."""

    max_chunk: int | None = None
    """Bytes; None for no limit."""

    chunk_multiple: int = 1
    """Bytes; every chunk but the last is a multiple of it."""

    max_chunks: int | None = None
    """None for no limit; 1 means that a file goes in one piece."""

    max_size: int | None = None
    """Bytes of a whole file; None for no limit."""

    lanes: int | None = None
    """
    Chunks that may be under way at once; None for as many as the policy allows.

    They begin in order, so 1 means strictly in order: an offset protocol. There are no
    several streams, each in order: what has such parts takes each for a chunk.
    """

    resumable: bool = True
    """Whether a half-done upload can be reopened by another process."""

    unknown_length: bool = False
    """Whether an upload may start before its size is known."""

    checksums: frozenset[str] = frozenset()
    """Digests of a chunk that the remote checks before it takes it (hashlib names)."""

    digest_first: bool = False
    """Whether a chunk's SHA-256 travels ahead of it, though nobody checks it."""

    whole_checksums: frozenset[str] = frozenset()
    """Digests of the whole file that the remote computes and compares."""

    encodings: frozenset[str] = frozenset()
    """Content codings that a chunk may travel in: `gzip`, `zstd`."""

    expires_after: float | None = None
    """Seconds that a half-done upload survives; None for ever."""

    def __post_init__(self) -> None:
        """Check what a server may say of itself."""
        for name in ("max_chunk", "chunk_multiple", "max_chunks", "lanes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"No destination has {name} {value}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    The chunks of one source, computed when asked for, never held in a list.

    An empty source has one chunk of 0 bytes, so that every upload has a last chunk.
    """

    size: int | None
    """Bytes of the source; None when it shows only at the end."""

    chunk_size: int
    """Bytes of every chunk but the last."""

    @property
    def total_chunks(self) -> int | None:
        """How many chunks there are; None while the size is not known."""
        if self.size is None:
            return None
        return max(1, -(-self.size // self.chunk_size))

    def chunk(self, index: int) -> ChunkMetadata:
        """
        Return the chunk of this index.

        Raises:
            IndexError: The source has no such chunk.
        """
        start = index * self.chunk_size
        if self.size is None:
            return ChunkMetadata(index=index, start=start, size=self.chunk_size)
        if index < 0 or (start >= self.size and index > 0):
            raise IndexError(index)
        size = min(self.chunk_size, self.size - start)
        return ChunkMetadata(index=index, start=start, size=size)

    def chunks(self) -> Iterator[ChunkMetadata]:
        """Yield the chunks in order; without end when the size is not known."""
        total = self.total_chunks
        indexes = count() if total is None else range(total)
        return (self.chunk(index) for index in indexes)


def plan_chunks(
    size: int | None, chunk_size: int, capabilities: Capabilities, *, where: str = ""
) -> Plan:
    """
    Fit the wanted chunk size to what the destination can take.

    The chunk grows when the file would need more chunks than the destination allows,
    and is then rounded to the destination's multiple.

    Args:
        size: Bytes of the source; None when it shows only at the end.

        chunk_size: Wanted bytes a chunk.

        capabilities: What the destination can take.

        where: The destination's name, for messages.

    Raises:
        ConfigurationError: No chunk size fits, the file is too big, or the size must be
            known there and is not.
    """
    if size is None:
        if not capabilities.unknown_length:
            raise ConfigurationError(
                f"The destination {where} must know the size before it starts.",
                hint="Give the size, or write the data to a file first.",
            )
        if capabilities.max_chunks == 1:
            raise ConfigurationError(
                f"The destination {where} takes a file in one piece only.",
                hint="Write the data to a file first.",
            )
    elif capabilities.max_size is not None and size > capabilities.max_size:
        raise ConfigurationError(
            f"{format_size(size)} is more than the {format_size(capabilities.max_size)}"
            f" that {where or 'the destination'} takes.",
            hint="Split the file, or choose another destination.",
        )
    return Plan(size=size, chunk_size=_fit(size, chunk_size, capabilities, where))


def _fit(size: int | None, wanted: int, limits: Capabilities, where: str) -> int:
    """Return the chunk size nearest to the wanted one that all limits allow."""
    fitted = max(wanted, limits.min_chunk)
    if size is not None and limits.max_chunks is not None:
        fitted = max(fitted, -(-size // limits.max_chunks))
    multiple = limits.chunk_multiple
    fitted = -(-fitted // multiple) * multiple
    if limits.max_chunk is None or fitted <= limits.max_chunk:
        return fitted
    fitted = limits.max_chunk // multiple * multiple
    needed = None if size is None else -(-size // max(fitted, 1))
    if fitted < limits.min_chunk or (
        needed is not None
        and limits.max_chunks is not None
        and needed > limits.max_chunks
    ):
        raise ConfigurationError(
            f"{'The file' if size is None else format_size(size)} does not fit"
            f" {where or 'the destination'}: {limits.max_chunks or 'its'} chunks of at"
            f" most {format_size(limits.max_chunk)}.",
            hint="Split the file, or choose another destination.",
        )
    return fitted
