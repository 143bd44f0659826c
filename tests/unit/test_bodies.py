"""A chunk's bytes, as often as they are needed, and the memory they stand in."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flow import CountingFlow, body_of, chunk_of
from upload_kit.bodies import MAX_PIECE, BufferedBody, StreamedBody
from upload_kit.buffers import BufferPool
from upload_kit.errors import ConfigurationError, SourceChanged
from upload_kit.models import ChunkMetadata
from upload_kit.planning import Plan
from upload_kit.sources.file import FileSource
from upload_kit.sources.memory import BytesSource
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from upload_kit.bodies import ChunkBody
    from upload_kit.buffers import Buffer

DATA = random.Random(1).randbytes(3 * MIB + 17)
WHOLE = Plan(size=len(DATA), chunk_size=len(DATA))


async def collect(pieces: AsyncIterator[memoryview]) -> list[bytes]:
    return [bytes(piece) async for piece in pieces]


@pytest.fixture(params=["buffered", "streamed"])
def body(request: pytest.FixtureRequest) -> tuple[ChunkBody, CountingFlow]:
    flow = CountingFlow()
    chunk = chunk_of(DATA, WHOLE, 0)
    if request.param == "buffered":
        return body_of(DATA, chunk, flow), flow
    return StreamedBody(chunk, BytesSource(DATA, name="a"), flow), flow


Body = tuple["ChunkBody", CountingFlow]


class TestEveryBody:
    async def test_pieces_are_the_chunk(self, body: Body) -> None:
        """In order, none longer than allowed, and every byte is counted."""
        sent, flow = body
        pieces = await collect(sent.stream())
        assert b"".join(pieces) == DATA
        assert max(map(len, pieces)) <= MAX_PIECE
        assert flow.admitted == flow.wire == flow.source == len(DATA) == sent.size

    async def test_every_stream_begins_anew(self, body: Body) -> None:
        """Whatever became of the last one."""
        sent, flow = body
        first = sent.stream()
        await anext(first)
        assert b"".join(await collect(sent.stream())) == DATA
        assert b"".join(await collect(sent.stream())) == DATA
        assert flow.source == len(DATA)
        assert flow.restarts == 3

    @pytest.mark.parametrize("skip", [1, MIB, len(DATA) - 1, len(DATA)])
    async def test_skipped_bytes_are_left_out_and_counted(
        self, body: Body, skip: int
    ) -> None:
        """The remote has them already."""
        sent, flow = body
        assert b"".join(await collect(sent.stream(skip))) == DATA[skip:]
        assert flow.source == len(DATA)
        assert flow.admitted == len(DATA) - skip

    async def test_piece_size_is_asked_for_each_piece(self, body: Body) -> None:
        """A lane that grows slower sends smaller pieces."""
        sent, flow = body
        sizes = []
        async for piece in sent.stream():
            sizes.append(len(piece))
            flow.piece_size = 300_000
        assert sizes[0] == MAX_PIECE
        assert set(sizes[1:-1]) == {300_000}

    async def test_read_gives_everything_at_once(self, body: Body) -> None:
        """Counted like a stream."""
        sent, flow = body
        assert await sent.read() == DATA
        assert flow.admitted == flow.source == len(DATA)

    @pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512"])
    async def test_digest(self, body: Body, algorithm: str) -> None:
        """Any that hashlib knows, before and after the bytes went."""
        sent, _ = body
        expected = hashlib.new(algorithm, DATA).digest()
        assert await sent.digest(algorithm) == expected
        await collect(sent.stream())
        assert await sent.digest(algorithm) == expected


class TestBufferedBody:
    async def test_empty_chunk_has_no_pieces(self) -> None:
        """An empty file is a chunk of nothing, with a digest."""
        chunk = chunk_of(b"", Plan(size=0, chunk_size=5), 0)
        body = body_of(b"", chunk)
        assert await collect(body.stream()) == []
        assert bytes(await body.read()) == b""
        assert await body.digest("sha256") == hashlib.sha256(b"").digest()

    @pytest.mark.parametrize("piece_size", [1, 7, 100, MAX_PIECE])
    async def test_coded_chunk_counts_bytes_of_the_source(
        self, piece_size: int
    ) -> None:
        """Progress is about the file, whatever travels; the sums are exact."""
        data = b"0123456789" * 1000
        chunk = chunk_of(data, Plan(size=len(data), chunk_size=len(data)), 0)
        coded = gzip.compress(data)
        flow = CountingFlow(piece_size)
        body = BufferedBody(
            chunk, memoryview(data), flow, encoded=("gzip", memoryview(coded))
        )
        assert (body.encoding, body.size) == ("gzip", len(coded))
        assert b"".join(await collect(body.stream())) == coded
        assert (flow.wire, flow.source) == (len(coded), len(data))
        assert await body.digest("sha256") == hashlib.sha256(data).digest()
        assert await body.read() == coded
        assert (flow.wire, flow.source) == (len(coded), len(data))


class TestStreamedBody:
    async def test_digest_is_known_after_the_bytes_went(self) -> None:
        """A file in one piece is read once."""
        chunk = ChunkMetadata(index=0, start=0, size=len(DATA))
        body = StreamedBody(chunk, BytesSource(DATA, name="a"), CountingFlow())
        assert body.sha256 is None
        await collect(body.stream())
        assert body.sha256 == hashlib.sha256(DATA).hexdigest()

    async def test_part_that_was_skipped_gives_no_digest(self) -> None:
        """A digest of half a chunk proves nothing."""
        chunk = ChunkMetadata(index=0, start=0, size=len(DATA))
        body = StreamedBody(chunk, BytesSource(DATA, name="a"), CountingFlow())
        await collect(body.stream(5))
        assert body.sha256 is None

    async def test_chunk_of_a_file_stands_at_its_offset(self, tmp_path: Path) -> None:
        """Only its own bytes are read."""
        path = tmp_path / "a"
        path.write_bytes(DATA)
        source = FileSource(path)
        await source.open()
        chunk = chunk_of(DATA, Plan(size=len(DATA), chunk_size=MIB + 3), 2)
        body = StreamedBody(chunk, source, CountingFlow())
        assert b"".join(await collect(body.stream())) == DATA[chunk.start : chunk.end]
        await source.aclose()

    async def test_chunk_that_reads_differently_is_a_changed_source(self) -> None:
        """The server gets a broken body, never another file's bytes."""
        data = bytearray(DATA)
        chunk = ChunkMetadata(index=0, start=0, size=len(data))
        body = StreamedBody(chunk, BytesSource(data, name="a"), CountingFlow())
        await body.digest("sha256")
        data[MIB] ^= 1
        with pytest.raises(SourceChanged):
            await collect(body.stream())

    @pytest.mark.parametrize("verb", ["stream", "read", "digest"])
    async def test_source_that_ends_too_early(self, verb: str) -> None:
        """A chunk is whole or not there."""
        chunk = ChunkMetadata(index=0, start=0, size=len(DATA) + 1)
        body = StreamedBody(chunk, BytesSource(DATA, name="a"), CountingFlow())
        actions: dict[str, Callable[[], Awaitable[object]]] = {
            "stream": lambda: collect(body.stream()),
            "read": body.read,
            "digest": lambda: body.digest("sha256"),
        }
        with pytest.raises(SourceChanged, match="ended too early"):
            await actions[verb]()

    async def test_reading_for_a_digest_says_that_it_lives(self) -> None:
        """A big chunk that is digested first is no stalled connection."""
        flow = CountingFlow()
        chunk = ChunkMetadata(index=0, start=0, size=len(DATA))
        await StreamedBody(chunk, BytesSource(DATA, name="a"), flow).digest("sha256")
        assert flow.alive_calls == 4


class TestBufferPool:
    async def test_buffer_has_the_size_that_was_asked_for(self) -> None:
        """Small and large, and nothing at all."""
        pool = BufferPool(10 * MIB)
        for size in (0, 1, 100, MIB, 3 * MIB + 1):
            buffer = await pool.acquire(size)
            assert len(buffer) == size
            assert pool.used == size
            pool.release(buffer, reuse=True)
        assert pool.used == 0

    async def test_budget_holds_the_next_one_back(self) -> None:
        """Until something is given back."""
        pool = BufferPool(100)
        first = await pool.acquire(60)
        second = asyncio.ensure_future(pool.acquire(60))
        await asyncio.sleep(0)
        assert not second.done()
        pool.release(first, reuse=True)
        assert len(await second) == 60
        assert pool.used == 60

    async def test_turns_come_in_the_order_of_asking(self) -> None:
        """A small one does not overtake a large one that would starve."""
        pool = BufferPool(100)
        first = await pool.acquire(90)
        large = asyncio.ensure_future(pool.acquire(80))
        small = asyncio.ensure_future(pool.acquire(5))
        await asyncio.sleep(0)
        assert not small.done()
        pool.release(first, reuse=True)
        await asyncio.wait_for(asyncio.gather(large, small), 5)
        assert pool.used == 85

    async def test_buffer_above_the_budget_goes_alone(self) -> None:
        """A chunk larger than the budget is sent, one at a time."""
        pool = BufferPool(100)
        huge = await pool.acquire(1000)
        other = asyncio.ensure_future(pool.acquire(1))
        await asyncio.sleep(0)
        assert not other.done()
        pool.release(huge, reuse=True)
        await asyncio.wait_for(other, 5)

    @pytest.mark.parametrize("turn_has_come", [False, True])
    async def test_cancelled_wait_takes_nothing(self, turn_has_come: bool) -> None:  # noqa: FBT001 (a parameter)
        """Whoever waits behind gets the turn, even one just granted."""
        pool = BufferPool(100)
        first = await pool.acquire(100)
        given_up = asyncio.ensure_future(pool.acquire(100))
        behind = asyncio.ensure_future(pool.acquire(100))
        await asyncio.sleep(0)
        if turn_has_come:
            pool.release(first, reuse=True)
        given_up.cancel()
        if not turn_has_come:
            pool.release(first, reuse=True)
        assert len(await asyncio.wait_for(behind, 5)) == 100
        assert given_up.cancelled()
        assert pool.used == 100

    async def test_returned_buffer_is_used_again_only_if_nobody_can_see_it(
        self,
    ) -> None:
        """A broken connection may still hold a view of it."""
        pool = BufferPool(10 * MIB)
        seen = await pool.acquire(MIB)
        pool.release(seen, reuse=False)
        clean = await pool.acquire(MIB)
        assert clean is not seen
        pool.release(clean, reuse=True)
        assert await pool.acquire(MIB) is clean

    async def test_what_is_kept_for_later_stays_in_the_budget(self) -> None:
        """Buffers of many sizes do not pile up."""
        pool = BufferPool(6 * MIB)
        full = await pool.acquire(2 * MIB)
        pool.release(full, reuse=True)
        for extra in range(20):
            full, last = await pool.acquire(2 * MIB), await pool.acquire(MIB + extra)
            kept = [len(each) for free in pool._free.values() for each in free]
            assert sum(kept) + pool.used <= 6 * MIB
            pool.release(last, reuse=True)
            pool.release(full, reuse=True)
        assert await pool.acquire(2 * MIB) is full
        pool.clear()
        assert not pool._free

    @pytest.mark.parametrize("size", [2**50, 2**70])
    async def test_more_than_the_machine_has(self, size: int) -> None:
        """A typed error that says what to do, and the next one gets its turn."""
        pool = BufferPool(100)
        first = await pool.acquire(100)
        huge = asyncio.ensure_future(pool.acquire(size))
        behind = asyncio.ensure_future(pool.acquire(50))
        await asyncio.sleep(0)
        pool.release(first, reuse=True)
        with pytest.raises(ConfigurationError, match="smaller chunks"):
            await huge
        assert len(await asyncio.wait_for(behind, 5)) == 50

    @settings(max_examples=settings().max_examples // 2)
    @given(
        budget=st.integers(1, 50),
        jobs=st.lists(
            st.tuples(st.integers(0, 70), st.integers(0, 5), st.booleans()),
            min_size=1,
            max_size=25,
        ),
    )
    def test_budget_is_never_exceeded_and_nobody_waits_for_ever(
        self, budget: int, jobs: list[tuple[int, int, bool]]
    ) -> None:
        """Whatever is asked for and given up; a larger one only ever stands alone."""
        asyncio.run(asyncio.wait_for(self._work(budget, jobs), 10))

    async def _work(self, budget: int, jobs: list[tuple[int, int, bool]]) -> None:
        pool = BufferPool(budget)
        out: list[Buffer] = []

        async def job(size: int, steps: int) -> None:
            buffer = await pool.acquire(size)
            out.append(buffer)
            try:
                held = [len(each) for each in out if len(each)]
                assert sum(held) <= pool.used
                assert pool.used <= budget or len(held) <= 1
                for _ in range(steps):
                    await asyncio.sleep(0)
            finally:
                out.remove(buffer)
                pool.release(buffer, reuse=True)

        tasks: list[asyncio.Task[None]] = []
        for size, steps, give_up in jobs:
            tasks.append(asyncio.create_task(job(size, steps)))
            await asyncio.sleep(0)
            if give_up:
                tasks[len(tasks) // 2].cancel()
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        assert [r for r in results if isinstance(r, Exception)] == []
        assert pool.used == 0
