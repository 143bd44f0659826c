"""
The bytes of one chunk, as often as they are needed.

Whatever may be retried must be able to start again, so a body is rewindable by
construction: `stream()` begins anew at every call.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.errors import SourceChanged
from upload_kit.threads import in_thread
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from upload_kit.models import ChunkMetadata
    from upload_kit.sources.base import Source

MAX_PIECE: Final = MIB
"""Bytes; of larger pieces, Python 3.11's transport copies what it cannot send."""


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

        Whoever iterates says by asking for the next piece that the last one was handed
        to the wire.

        Args:
            skip: Bytes of the wire form to leave out at the start.

        Raises:
            SourceError: The source cannot be read.
            SourceChanged: It changed since the chunk was planned.
        """
        ...

    async def read(self) -> memoryview:
        """Return all bytes on the wire at once; throttled and counted like a stream."""
        ...

    def hold(self) -> None:
        """
        Say that the bytes wait their turn now, for which they have no limit.

        Whoever says so limits the wait; the next call of `stream` or `read` ends it.
        """
        ...

    async def digest(self, algorithm: str, skip: int = 0) -> bytes:
        """
        Return a digest of the chunk's bytes before any content coding.

        Args:
            algorithm: A name that `hashlib.new` knows, for example `sha256`.

            skip: Bytes of the chunk to leave out at the start.
        """
        ...


class Flow(Protocol):
    """What a body asks before a piece goes, and tells after it went."""

    @property
    def piece_size(self) -> int:
        """Bytes of the next piece, at most `MAX_PIECE`."""
        ...

    async def admit(self, size: int) -> None:
        """Wait until so many bytes may go: for the throttle, and while paused."""
        ...

    def handed(self, wire: int, source: int) -> None:
        """
        Count bytes that went.

        Args:
            wire: Bytes on the wire.

            source: Bytes of the source that they stand for.
        """
        ...

    def restart(self, wire: int, source: int) -> None:
        """
        Take back what was counted for this chunk, and count so many as skipped.

        Args:
            wire: Bytes on the wire that are left out.

            source: Bytes of the source that they stand for.
        """
        ...

    def alive(self) -> None:
        """Say that the source is being read, though nothing goes over the wire."""
        ...

    def hold(self) -> None:
        """Say that the bytes wait their turn, for which they have no limit."""
        ...


class BufferedBody:
    """
    A chunk in memory.

    Args:
        chunk: Which chunk, with its digest.

        view: Its bytes.

        flow: Admits and counts its pieces.

        encoded: The bytes on the wire, where they differ from `view`, and their coding.
    """

    def __init__(
        self,
        chunk: ChunkMetadata,
        view: memoryview,
        flow: Flow,
        *,
        encoded: tuple[str, memoryview] | None = None,
    ) -> None:
        self._chunk = chunk
        self._view = view
        self._flow = flow
        self._encoding: str | None = None
        self._wire = view
        if encoded is not None:
            self._encoding, self._wire = encoded

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self._wire)

    @property
    def encoding(self) -> str | None:
        """Content coding on the wire."""
        return self._encoding

    async def stream(self, skip: int = 0) -> AsyncIterator[memoryview]:
        """Yield slices of the buffer; see `ChunkBody.stream`."""
        position = skip
        self._flow.restart(skip, self._source_bytes(skip))
        while position < len(self._wire):
            piece = self._wire[position : position + self._flow.piece_size]
            await self._flow.admit(len(piece))
            yield piece
            before, position = position, position + len(piece)
            self._flow.handed(
                len(piece), self._source_bytes(position) - self._source_bytes(before)
            )

    def _source_bytes(self, position: int) -> int:
        """Return how many bytes of the source the wire's first bytes stand for."""
        if self._encoding is None or not self._wire:
            return position
        return self._chunk.size * position // len(self._wire)

    async def read(self) -> memoryview:
        """Return the buffer; see `ChunkBody.read`."""
        self._flow.restart(0, 0)
        await self._flow.admit(len(self._wire))
        self._flow.handed(len(self._wire), self._chunk.size)
        return self._wire

    def hold(self) -> None:
        """Wait without a limit; see `ChunkBody.hold`."""
        self._flow.hold()

    async def digest(self, algorithm: str, skip: int = 0) -> bytes:
        """Return the digest that came out of reading, or compute another one."""
        if algorithm == "sha256" and skip == 0 and self._chunk.sha256 is not None:
            return bytes.fromhex(self._chunk.sha256)
        view = self._view[skip:]
        return await in_thread(lambda: hashlib.new(algorithm, view).digest())


class StreamedBody:
    """
    A chunk too big for memory, read from its source while it travels.

    Its SHA-256 is known from `sha256` after a whole pass, unless the chunk had one
    before; a chunk that reads differently the next time is a source that changed.
    """

    encoding: str | None = None

    def __init__(self, chunk: ChunkMetadata, source: Source, flow: Flow) -> None:
        self._chunk = chunk
        self._source = source
        self._flow = flow
        self.sha256 = chunk.sha256

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self._chunk.size

    async def stream(self, skip: int = 0) -> AsyncIterator[memoryview]:
        """Yield pieces as they are read; see `ChunkBody.stream`."""
        self._flow.restart(skip, skip)
        digest = hashlib.sha256()
        digests = (digest,) if skip == 0 else ()
        position = skip
        while position < self.size:
            wanted = min(self._flow.piece_size, self.size - position)
            # A new buffer each time: the transport may still hold the last one.
            piece = memoryview(bytearray(wanted))
            count = await self._source.read(
                piece, self._chunk.start + position, digests
            )
            if count < wanted:
                raise SourceChanged(f"{self._source.name} ended too early.")
            await self._flow.admit(wanted)
            yield piece
            position += wanted
            self._flow.handed(wanted, wanted)
        if digests:
            self._learn(digest.hexdigest())

    def _learn(self, sha256: str) -> None:
        if self.sha256 is not None and self.sha256 != sha256:
            raise SourceChanged(f"{self._source.name} changed while it was sent.")
        self.sha256 = sha256

    async def read(self) -> memoryview:
        """Return the whole chunk; see `ChunkBody.read`."""
        whole = bytearray()
        async for piece in self.stream():
            whole += piece
        return memoryview(whole)

    def hold(self) -> None:
        """Wait without a limit; see `ChunkBody.hold`."""
        self._flow.hold()

    async def digest(self, algorithm: str, skip: int = 0) -> bytes:
        """Return the digest that is known, or read the chunk once to compute it."""
        if algorithm == "sha256" and skip == 0 and self.sha256 is not None:
            return bytes.fromhex(self.sha256)
        digest = hashlib.new(algorithm)
        buffer = memoryview(bytearray(MAX_PIECE))
        position = skip
        while position < self.size:
            part = buffer[: min(len(buffer), self.size - position)]
            count = await self._source.read(
                part, self._chunk.start + position, [digest]
            )
            if count < len(part):
                raise SourceChanged(f"{self._source.name} ended too early.")
            self._flow.alive()
            position += len(part)
        if algorithm == "sha256" and skip == 0:
            self._learn(digest.hexdigest())
        return digest.digest()
