"""
The chunks of one source, read in order, ahead of the wire, in one pass.

Chunk digests and the digest of the whole file come out of the same read. Chunks that
the remote holds already are read too, to prove that they are still the same, and then
left out. What proves it is the digest of a chunk, or that of all bytes up to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from upload_kit.errors import SourceChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from hashlib import _Hash as Hash

    from upload_kit.buffers import Buffer, BufferPool
    from upload_kit.compression import Compressor
    from upload_kit.models import ChunkMetadata, Receipt
    from upload_kit.planning import Plan
    from upload_kit.sources.base import Source


@dataclass(slots=True, kw_only=True)
class PreparedChunk:
    """A chunk that is ready to go."""

    chunk: ChunkMetadata
    """Which bytes; with their digest, where one is computed before they travel."""

    buffer: Buffer | None
    """Its bytes; None when it is too big for memory and is read while it travels."""

    encoded: tuple[str, memoryview] | None = None
    """Content coding and coded bytes, where that pays."""

    prefix_sha256: str | None = None
    """Digest of everything up to the chunk's end, where chunks have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How a source is read."""

    streamed: bool
    """Read chunks while they travel instead of holding them in memory."""

    digest_first: bool
    """The destination wants a chunk's digest before its bytes."""

    whole_digest: bool
    """Compute the digest of the whole file too."""

    by_prefix: bool = False
    """Compute that one only, and note how it stands at the end of each chunk."""

    ahead: int = 1
    """Chunks that are made ready while others travel."""


class ChunkReader:
    """
    Hands out the chunks of a source to whichever lane asks next.

    Args:
        source: Opened.

        plan: Its chunks.

        pool: Where buffers come from.

        options: How to read.

        held: Receipts of what the remote holds, by index.

        on_held: Called for each of those once the source was found to be the same.

        compressor: Decides about content coding.

        wire_rate: Bytes a second that the link takes now; None while not known.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        pool: BufferPool,
        *,
        options: ReadingOptions,
        held: Mapping[int, Receipt],
        on_held: Callable[[ChunkMetadata, Receipt], None],
        compressor: Compressor,
        wire_rate: Callable[[], float | None],
    ) -> None:
        self._source = source
        self._plan = plan
        self._pool = pool
        self._options = options
        self._held = held
        self._on_held = on_held
        self._compressor = compressor
        self._wire_rate = wire_rate
        needs_whole = options.whole_digest or any(
            receipt.prefix_sha256 is not None for receipt in held.values()
        )
        self._whole = hashlib.sha256() if needs_whole else None
        self._turn = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._ahead: deque[asyncio.Task[PreparedChunk | None]] = deque()
        self._next_index = 0
        self._ended = False
        self.size = 0

    @property
    def whole_sha256(self) -> str | None:
        """Digest of the whole file, once everything was read."""
        return None if self._whole is None else self._whole.hexdigest()

    async def next(self, group: asyncio.TaskGroup) -> PreparedChunk | None:
        """
        Return the next chunk that has to be sent, or None after the last one.

        Args:
            group: Owns the tasks that read ahead.

        Raises:
            SourceError: It cannot be read.
            SourceChanged: It is not what it was, or not as long as was said.
        """
        async with self._turn:
            prepared = await (self._ahead[0] if self._ahead else self._prepare())
            # Not before: whoever is cancelled while waiting leaves it to `close`.
            if self._ahead:
                self._ahead.popleft()
            while not self._ended and len(self._ahead) < self._options.ahead:
                self._ahead.append(group.create_task(self._prepare()))
            return prepared

    def close(self) -> None:
        """Give back the buffers of chunks that were read ahead and are not wanted."""
        while self._ahead:
            ahead = self._ahead.popleft()
            if ahead.cancelled() or ahead.exception() is not None:
                continue
            prepared = ahead.result()
            if prepared is not None and prepared.buffer is not None:
                self._pool.release(prepared.buffer, reuse=True)

    async def _prepare(self) -> PreparedChunk | None:
        """Read on until a chunk comes that the remote does not hold."""
        async with self._reading:
            while not self._ended:
                chunk = self._plan.chunk(self._next_index)
                self._next_index += 1
                receipt = self._held.get(chunk.index)
                if receipt is None:
                    return await self._read_to_send(chunk)
                await self._read_to_compare(chunk, receipt)
            return None

    async def _read_to_send(self, chunk: ChunkMetadata) -> PreparedChunk | None:
        if self._options.streamed:
            return await self._read_ahead_of_stream(chunk)
        buffer = await self._pool.acquire(chunk.size)
        try:
            view = memoryview(buffer)
            chunk, view = await self._fill(chunk, view)
            if chunk.size == 0 and chunk.index > 0:
                self._pool.release(buffer, reuse=True)
                return None
            prefix = self.whole_sha256 if self._options.by_prefix else None
            encoded = None
            if not self._compressor.is_off:
                encoded = await self._compressor.encode(view, self._wire_rate())
        except BaseException:
            # A thread may still be filling it.
            self._pool.release(buffer, reuse=False)
            raise
        return PreparedChunk(
            chunk=chunk, buffer=buffer, encoded=encoded, prefix_sha256=prefix
        )

    async def _fill(
        self, chunk: ChunkMetadata, view: memoryview
    ) -> tuple[ChunkMetadata, memoryview]:
        """Read a chunk; return it as it turned out to be, and its bytes."""
        digest = None if self._options.by_prefix else hashlib.sha256()
        count = await self._source.read(view, chunk.start, self._digests(digest))
        if count < chunk.size and self._plan.size is not None:
            raise SourceChanged(
                f"{self._source.name} ended after {chunk.start + count} of"
                f" {self._plan.size} bytes."
            )
        sha256 = None if digest is None else digest.hexdigest()
        chunk = replace(chunk, size=count, sha256=sha256)
        await self._advance(chunk, short=count < len(view))
        return chunk, view[:count]

    def _digests(self, digest: Hash | None) -> tuple[Hash, ...]:
        return tuple(each for each in (digest, self._whole) if each is not None)

    async def _advance(self, chunk: ChunkMetadata, *, short: bool = False) -> None:
        """Note how far we are, and whether that was the end."""
        self.size = max(self.size, chunk.end)
        total = self._plan.total_chunks
        self._ended = short if total is None else self._next_index >= total
        if self._ended and total is not None and not self._source.rereadable:
            await self._require_end()

    async def _require_end(self) -> None:
        """Refuse a stream that has more bytes than was said."""
        if await self._source.read(memoryview(bytearray(1)), self.size):
            raise SourceChanged(
                f"{self._source.name} has more than the {self.size} bytes it was said"
                " to have."
            )

    async def _read_ahead_of_stream(self, chunk: ChunkMetadata) -> PreparedChunk:
        """Read a chunk that does not fit into memory, for its digests only."""
        if self._options.digest_first or self._whole is not None:
            digest = hashlib.sha256()
            await self._read_through(chunk, digest)
            chunk = replace(chunk, sha256=digest.hexdigest())
        await self._advance(chunk)
        return PreparedChunk(chunk=chunk, buffer=None)

    async def _read_through(self, chunk: ChunkMetadata, digest: Hash | None) -> None:
        """Digest a chunk with little memory; also for the whole file."""
        position = chunk.start
        step = min(chunk.size, 4 * 1024 * 1024)
        buffer = await self._pool.acquire(step)
        try:
            while position < chunk.end:
                view = memoryview(buffer)[: min(step, chunk.end - position)]
                count = await self._source.read(view, position, self._digests(digest))
                if count < len(view):
                    raise SourceChanged(f"{self._source.name} ended too early.")
                position += count
        finally:
            self._pool.release(buffer, reuse=False)

    async def _read_to_compare(self, chunk: ChunkMetadata, receipt: Receipt) -> None:
        """Prove that a chunk the remote holds is still the one we have."""
        digest = None if receipt.sha256 is None else hashlib.sha256()
        await self._read_through(chunk, digest)
        sha256 = None if digest is None else digest.hexdigest()
        is_same = receipt.size == chunk.size and receipt.sha256 == sha256
        if receipt.prefix_sha256 is not None:
            is_same = is_same and receipt.prefix_sha256 == self.whole_sha256
        if not is_same:
            raise SourceChanged(
                f"{self._source.name} changed since chunk {chunk.index} was sent.",
                hint="Start a new upload of it.",
            )
        await self._advance(chunk)
        self._on_held(replace(chunk, sha256=sha256), receipt)
