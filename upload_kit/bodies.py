"""
The bytes of one chunk, as often as they are needed.

Whatever may be retried must be able to start again, so a body is rewindable by
construction: `stream()` begins anew at every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ChunkBody(Protocol):
    """The bytes of one chunk as they travel: throttled, counted, rewindable."""

    @property
    def size(self) -> int:
        """Bytes on the wire: those of the chunk, or fewer when it is encoded."""
        ...

    @property
    def encoding(self) -> str | None:
        """Content coding that the bytes travel in: `gzip`, `zstd` or None."""
        ...

    def stream(self, skip: int = 0) -> AsyncIterator[memoryview]:
        """
        Yield the bytes on the wire, in pieces of at most 1 MiB.

        A piece is valid until the next one is asked for. Whoever iterates says by
        asking for the next piece that the last one was handed to the wire.

        Args:
            skip: Bytes of the wire form to leave out at the start.

        Raises:
            SourceError: The source cannot be read.
            SourceChanged: It changed since the chunk was planned.
        """
        ...

    async def read(self) -> bytes:
        """Return all bytes on the wire at once, as one piece; throttled and counted."""
        ...

    async def digest(self, algorithm: str) -> bytes:
        """
        Return a digest of the chunk's bytes before any content coding.

        Args:
            algorithm: A name that `hashlib.new` knows, for example `sha256`.
        """
        ...
