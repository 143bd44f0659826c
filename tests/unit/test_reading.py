"""The chunks of one source: in order, ahead of the wire, in one pass."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upload_kit.buffers import BufferPool
from upload_kit.compression import Compressor
from upload_kit.config import Compression
from upload_kit.engine.reading import ChunkReader, ReadingOptions
from upload_kit.errors import SourceChanged
from upload_kit.models import Receipt
from upload_kit.planning import Plan
from upload_kit.sources.memory import BytesSource
from upload_kit.sources.streams import IteratorSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from hashlib import _Hash as Hash

    from upload_kit.engine.reading import PreparedChunk
    from upload_kit.models import ChunkMetadata
    from upload_kit.sources.base import Source

CHUNK: Final = 100
DATA: Final = random.Random(11).randbytes(5 * CHUNK + 7)


async def pieces(data: bytes = DATA, step: int = 33) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


class Reading:
    """A reader, what it takes its buffers from, and what it told of."""

    def __init__(
        self,
        source: Source,
        *,
        size: int | None = len(DATA),
        held: dict[int, Receipt] | None = None,
        budget: int = 10 * CHUNK,
        compression: Compression = Compression.OFF,
        ahead: int = 1,
        **options: bool,
    ) -> None:
        self.pool = BufferPool(budget)
        self.already: list[ChunkMetadata] = []
        self.reader = ChunkReader(
            source,
            Plan(size=size, chunk_size=CHUNK),
            self.pool,
            options=ReadingOptions(
                **{
                    "streamed": False,
                    "digest_first": True,
                    "whole_digest": True,
                    **options,
                },
                ahead=ahead,
            ),
            held=held or {},
            on_held=lambda chunk, _receipt: self.already.append(chunk),
            compressor=Compressor(compression, frozenset({"gzip"})),
            wire_rate=lambda: None,
        )

    async def all(self) -> list[tuple[int, bytes]]:
        """Take every chunk, giving each buffer back before the next."""
        got = []
        async with asyncio.TaskGroup() as group:
            while (prepared := await self.reader.next(group)) is not None:
                got.append((prepared.chunk.index, bytes_of(prepared)))
                check(prepared)
                if prepared.buffer is not None:
                    self.pool.release(prepared.buffer, reuse=True)
        return got


def bytes_of(prepared: PreparedChunk) -> bytes:
    if prepared.buffer is None:
        return DATA[prepared.chunk.start : prepared.chunk.end]
    return bytes(memoryview(prepared.buffer)[: prepared.chunk.size])


def check(prepared: PreparedChunk) -> None:
    """Make sure that a chunk's digest is that of its bytes."""
    if prepared.chunk.sha256 is not None:
        found = hashlib.sha256(bytes_of(prepared)).hexdigest()
        assert prepared.chunk.sha256 == found


def receipt_of(index: int, data: bytes = DATA, *, by_prefix: bool = False) -> Receipt:
    part = data[index * CHUNK : (index + 1) * CHUNK]
    if by_prefix:
        return Receipt(index=index, size=len(part), prefix_sha256=prefix(index, data))
    return Receipt(index=index, size=len(part), sha256=hashlib.sha256(part).hexdigest())


def prefix(index: int, data: bytes = DATA) -> str:
    return hashlib.sha256(data[: (index + 1) * CHUNK]).hexdigest()


SOURCES: Final[dict[str, Callable[[], Source]]] = {
    "again": lambda: BytesSource(DATA, name="a"),
    "once": lambda: IteratorSource(pieces(), name="a"),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_every_chunk_comes_in_order_with_its_digest(
    kind: str, *, known: bool
) -> None:
    """And the digest of the whole file comes out of the same pass."""
    reading = Reading(SOURCES[kind](), size=len(DATA) if known else None)
    got = await reading.all()
    assert [index for index, _ in got] == [0, 1, 2, 3, 4, 5]
    assert b"".join(part for _, part in got) == DATA
    assert reading.reader.whole_sha256 == hashlib.sha256(DATA).hexdigest()
    assert reading.reader.size == len(DATA)
    assert reading.pool.used == 0


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_end_on_a_boundary(size: int, *, known: bool) -> None:
    """An empty source has one empty chunk; no other one is empty."""
    source = IteratorSource(pieces(DATA[:size]), name="a")
    reading = Reading(source, size=size if known else None)
    got = await reading.all()
    assert [len(part) for _, part in got] == [CHUNK] * (size // CHUNK) or (
        [len(part) for _, part in got] == [size % CHUNK]
    )
    assert b"".join(part for _, part in got) == DATA[:size]
    assert reading.pool.used == 0


@pytest.mark.parametrize("digest_first", [True, False], ids=["digest", "no-digest"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "parts"])
async def test_chunks_that_are_read_while_they_travel(
    *, digest_first: bool, whole: bool
) -> None:
    """They take no buffer; digests are made before only where somebody wants them."""
    reading = Reading(
        BytesSource(DATA, name="a"),
        streamed=True,
        digest_first=digest_first,
        whole_digest=whole,
    )
    async with asyncio.TaskGroup() as group:
        digests = []
        while (prepared := await reading.reader.next(group)) is not None:
            assert prepared.buffer is None
            check(prepared)
            digests.append(prepared.chunk.sha256)
    assert len(digests) == 6
    assert (None in digests) is not (digest_first or whole)
    expected = hashlib.sha256(DATA).hexdigest() if whole else None
    assert reading.reader.whole_sha256 == expected


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_one_digest_for_all(kind: str, *, known: bool) -> None:
    """Chunks have none of their own, but that of all bytes up to their ends."""
    size = len(DATA) if known else None
    reading = Reading(SOURCES[kind](), size=size, digest_first=False, by_prefix=True)
    async with asyncio.TaskGroup() as group:
        index = 0
        while (prepared := await reading.reader.next(group)) is not None:
            assert prepared.chunk.sha256 is None
            assert prepared.prefix_sha256 == prefix(index)
            index += 1
            assert prepared.buffer is not None
            reading.pool.release(prepared.buffer, reuse=True)
    assert index == 6
    assert reading.reader.whole_sha256 == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "parts"])
@pytest.mark.parametrize("proof", ["chunks", "prefixes", "both"])
@pytest.mark.parametrize("held", [{0}, {5}, {1, 2}, {0, 5}, set(range(6))], ids=str)
async def test_chunks_that_are_there_are_compared_and_left_out(
    held: set[int], proof: str, *, whole: bool
) -> None:
    """Each is told of, and counts for the whole digest, whatever proves it."""
    proofs: dict[str, set[int]] = {"chunks": set(), "prefixes": held, "both": {1, 5}}
    by_prefix = proofs[proof]
    reading = Reading(
        BytesSource(DATA, name="a"),
        held={each: receipt_of(each, by_prefix=each in by_prefix) for each in held},
        whole_digest=whole,
    )
    got = await reading.all()
    assert [index for index, _ in got] == [i for i in range(6) if i not in held]
    assert [chunk.index for chunk in reading.already] == sorted(held)
    needs_whole = whole or by_prefix & held
    expected = hashlib.sha256(DATA).hexdigest() if needs_whole else None
    assert reading.reader.whole_sha256 == expected
    assert reading.reader.size == len(DATA)


@pytest.mark.parametrize("by_prefix", [False, True], ids=["chunks", "prefixes"])
@pytest.mark.parametrize("index", [0, 3, 5])
async def test_chunk_that_is_there_and_differs(index: int, *, by_prefix: bool) -> None:
    """Nothing behind it is sent: the source is another one."""
    other = bytearray(DATA)
    other[index * CHUNK] ^= 1
    held = {
        each: receipt_of(each, bytes(other), by_prefix=by_prefix)
        for each in range(index + 1)
    }
    reading = Reading(BytesSource(DATA, name="a"), held=held)
    with pytest.raises(BaseException, match=r"changed since|unhandled") as raised:
        await reading.all()
    assert isinstance(innermost(raised.value), SourceChanged)
    assert len(reading.already) == index


def innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, 7 * CHUNK, CHUNK])
async def test_source_of_another_length_than_was_said(size: int) -> None:
    """Shorter or longer: the last chunk is never handed out as if all were well."""
    reading = Reading(IteratorSource(pieces(), name="a"), size=size)
    with pytest.raises(BaseException, match=r"ended after|said to|unhandled") as raised:
        await reading.all()
    assert isinstance(innermost(raised.value), SourceChanged)
    assert reading.reader.size <= len(DATA)


async def test_one_chunk_is_read_ahead_and_no_more() -> None:
    """While one is on the wire the next one is ready, and the third not begun."""
    read = []

    async def noted() -> AsyncIterator[bytes]:
        for index in range(6):
            read.append(index)
            yield DATA[index * CHUNK : (index + 1) * CHUNK]

    reading = Reading(IteratorSource(noted(), name="a"), size=None)
    async with asyncio.TaskGroup() as group:
        first = await reading.reader.next(group)
        assert first is not None
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert read == [0, 1]
        reading.reader.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


class NotedSource(BytesSource):
    """Bytes that tell which chunks of them were read."""

    def __init__(self) -> None:
        super().__init__(DATA, name="a")
        self.read_chunks: list[int] = []

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        self.read_chunks.append(start // CHUNK)
        return await super().read(buffer, start, digests)


async def test_several_chunks_are_read_ahead_in_order() -> None:
    """As many as is said, one after another, and each is handed out in its turn."""
    source = NotedSource()
    reading = Reading(source, streamed=True, ahead=3)
    got = []
    async with asyncio.TaskGroup() as group:
        while (prepared := await reading.reader.next(group)) is not None:
            check(prepared)
            got.append(prepared.chunk.index)
            for _ in range(50):
                await asyncio.sleep(0)
            assert source.read_chunks == list(range(min(6, len(got) + 3)))
    assert got == list(range(6))
    assert reading.reader.whole_sha256 == hashlib.sha256(DATA).hexdigest()


async def test_several_lanes_share_one_reader() -> None:
    """Each chunk goes to one of them."""
    reading = Reading(BytesSource(DATA, name="a"), budget=3 * CHUNK)
    got: list[int] = []

    async def lane(group: asyncio.TaskGroup) -> None:
        while (prepared := await reading.reader.next(group)) is not None:
            got.append(prepared.chunk.index)
            await asyncio.sleep(0)
            assert prepared.buffer is not None
            reading.pool.release(prepared.buffer, reuse=True)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(lane(group))
    assert sorted(got) == list(range(6))
    assert reading.pool.used == 0


@pytest.mark.parametrize("steps", range(12))
async def test_broken_off_at_any_moment_gives_back_every_buffer(steps: int) -> None:
    """Whatever was being read, the pool is whole again."""
    reading = Reading(IteratorSource(pieces(step=10), name="a"), budget=3 * CHUNK)

    async def lane(group: asyncio.TaskGroup) -> None:
        while (prepared := await reading.reader.next(group)) is not None:
            try:
                await asyncio.sleep(0)
            finally:
                assert prepared.buffer is not None
                reading.pool.release(prepared.buffer, reuse=False)

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(lane(group))
        finally:
            reading.reader.close()

    task = asyncio.create_task(run())
    for _ in range(steps * 3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert reading.pool.used == 0


async def test_chunks_are_compressed_as_they_are_read() -> None:
    """Coded bytes beside the plain ones, whose digest stays."""
    data = b"0123456789" * 100
    reading = Reading(
        BytesSource(data, name="a"), size=len(data), compression=Compression.GZIP
    )
    async with asyncio.TaskGroup() as group:
        while (prepared := await reading.reader.next(group)) is not None:
            part = data[prepared.chunk.start : prepared.chunk.end]
            assert prepared.chunk.sha256 == hashlib.sha256(part).hexdigest()
            assert prepared.encoded is not None
            assert prepared.encoded[0] == "gzip"
            assert prepared.buffer is not None
            reading.pool.release(prepared.buffer, reuse=True)


@settings(max_examples=settings().max_examples // 2)
@given(
    size=st.integers(0, 12 * CHUNK),
    budget=st.integers(1, 5 * CHUNK),
    lanes=st.integers(1, 5),
    known=st.booleans(),
    step=st.integers(1, 3 * CHUNK),
)
def test_every_byte_is_handed_out_once(
    *, size: int, budget: int, lanes: int, known: bool, step: int
) -> None:
    """Whatever the size, the memory, the lanes and the pieces it comes in."""
    data = (DATA * 3)[:size]

    async def run() -> None:
        source = IteratorSource(pieces(data, step), name="a")
        reading = Reading(source, size=size if known else None, budget=budget)
        got: dict[int, bytes] = {}

        async def lane(group: asyncio.TaskGroup) -> None:
            while (prepared := await reading.reader.next(group)) is not None:
                buffer: Any = prepared.buffer
                part = bytes(memoryview(buffer)[: prepared.chunk.size])
                assert prepared.chunk.index not in got
                got[prepared.chunk.index] = part
                assert reading.pool.used <= max(budget, CHUNK)
                await asyncio.sleep(0)
                reading.pool.release(buffer, reuse=True)

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane(group))
        assert b"".join(got[index] for index in sorted(got)) == data
        assert sorted(got) == list(range(max(1, -(-size // CHUNK))))
        assert reading.reader.whole_sha256 == hashlib.sha256(data).hexdigest()
        assert (reading.reader.size, reading.pool.used) == (size, 0)

    asyncio.run(run())
