"""The feature layer: chunks in parallel, many files, progress streamed live."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from upload_kit import (
    ConfigurationError,
    ParallelUploader,
    RetryPolicy,
    StreamingProgress,
)
from upload_kit.destinations.memory import memory_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from upload_kit import UploadProgress

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 200_000
COUNT: Final = 12
# Above what goes in one request.
DATA: Final = random.Random(5).randbytes(COUNT * CHUNK - 5)
AT_ONCE: Final = RetryPolicy(base_delay=0.0, attempts=4)


@pytest.fixture
async def server() -> AsyncIterator[KnobServer]:
    async with KnobServer() as server:
        yield server


def uploader(url: str, **options: Any) -> ParallelUploader:
    settings: dict[str, Any] = {
        "chunk_size": CHUNK,
        "retry": AT_ONCE,
        "history": False,
        **options,
    }
    return ParallelUploader(url, **settings)


async def turns(count: int = 300) -> None:
    """Let everybody who can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestLanes:
    @pytest.mark.parametrize("lanes", [1, 2, 3, 5, 12, 20])
    async def test_as_many_chunks_as_allowed_and_never_more(
        self, server: KnobServer, lanes: int
    ) -> None:
        """The limit is reached, and held until the end."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, times=None))
        transfer = uploader(server.url, max_parallel=lanes).start(DATA, name="a")
        expected = min(lanes, COUNT)
        await server.until(lambda: server.open_chunks == expected)
        await turns()
        assert server.open_chunks == expected
        gate.set()
        await transfer
        assert server.peak_chunks == expected
        assert server.published["a"] == DATA

    @pytest.mark.parametrize("lanes", [1, 3])
    async def test_limit_holds_over_all_files(
        self, server: KnobServer, lanes: int
    ) -> None:
        """Many files at once share the lanes, small ones too."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, times=None))
        up = uploader(server.url, max_parallel=lanes)
        files = {str(number): DATA for number in range(5)}
        task = asyncio.create_task(up.upload_files(files))
        await server.until(lambda: server.open_chunks == lanes)
        await turns()
        assert server.open_chunks == lanes
        gate.set()
        results = await task
        assert server.peak_chunks == lanes
        assert all(result.success for result in results)
        assert server.published == files

    async def test_limit_holds_over_single_uploads(self, server: KnobServer) -> None:
        """Those that one uploader was asked for one by one, too."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, times=None))
        up = uploader(server.url, max_parallel=3)
        tasks = [asyncio.create_task(up.upload_file(DATA, name=n)) for n in "abc"]
        await server.until(lambda: server.open_chunks == 3)
        await turns()
        assert server.open_chunks == 3
        gate.set()
        await asyncio.gather(*tasks)
        assert server.peak_chunks == 3

    async def test_chunks_begin_in_their_order(self, server: KnobServer) -> None:
        """Though they may end in any other; the result has them in order."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=0))
        up = uploader(server.url, max_parallel=3)
        transfer = up.start(DATA, name="a")
        await server.until(lambda: server.count(Step.CHUNK) == COUNT)
        gate.set()
        result = await transfer
        begun = [seen.chunk or 0 for seen in server.requests(Step.CHUNK)]
        assert sorted(begun) == list(range(COUNT))
        assert all(abs(chunk - place) <= 2 for place, chunk in enumerate(begun))
        assert [chunk.index for chunk in result.chunks] == list(range(COUNT))
        assert server.published["a"] == DATA

    async def test_one_slow_chunk_holds_up_no_other(self, server: KnobServer) -> None:
        """The other lanes go on; bytes of it are in flight, not confirmed."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=1))
        transfer = uploader(server.url, max_parallel=2).start(DATA)
        await server.until(
            lambda: server.count(Step.CHUNK) == COUNT and server.open_chunks == 1
        )
        await turns()
        state = transfer.progress
        assert state.chunks_confirmed == COUNT - 1
        assert state.confirmed == len(DATA) - CHUNK
        gate.set()
        await transfer

    @pytest.mark.parametrize("failures", [1, 2])
    async def test_every_chunk_fails(self, server: KnobServer, failures: int) -> None:
        """Out of order, twice, cut in the middle: the file is whole all the same."""
        for chunk in range(COUNT):
            fault = Fault(cut_after=chunk * 10_000, chunk=chunk, times=failures)
            server.fault(Step.CHUNK, fault)
        result = await uploader(server.url, max_parallel=4).upload_file(DATA, name="a")
        assert server.published["a"] == DATA
        assert result.retries == COUNT * failures
        assert result.bytes_sent >= len(DATA)

    async def test_replies_that_are_lost(self, server: KnobServer) -> None:
        """A chunk that the server has already is a duplicate, and counts once."""
        for chunk in range(COUNT):
            server.fault(Step.CHUNK, Fault(act_and_cut=True, chunk=chunk))
        result = await uploader(server.url, max_parallel=4).upload_file(DATA, name="a")
        assert server.published["a"] == DATA
        assert [chunk.index for chunk in result.chunks] == list(range(COUNT))

    async def test_failure_of_one_chunk_stops_the_others(
        self, server: KnobServer
    ) -> None:
        """The error is the first one, and nothing stays there."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=2, times=None))
        server.fault(Step.CHUNK, Fault(stall_after=0, times=None))
        with pytest.raises(Exception, match="413"):
            await uploader(server.url, max_parallel=3).upload_file(DATA)
        assert server.uploads == {}
        assert server.count(Step.CHUNK) == 3

    @pytest.mark.parametrize("connections", [1, 2])
    async def test_fewer_connections_than_lanes(
        self, server: KnobServer, connections: int
    ) -> None:
        """Waiting for a connection is no stall: nothing is sent twice."""
        server.fault(Step.CHUNK, Fault(rate=1_000_000.0, times=None))
        up = uploader(
            server.url,
            max_parallel=4,
            max_connections=connections,
            stall_timeout=0.25,
        )
        result = await up.upload_file(DATA[: 6 * CHUNK])
        assert result.retries == 0
        assert server.peak_chunks == connections

    async def test_chunks_of_unknown_number(self, server: KnobServer) -> None:
        """A stream is read in order and sent in parallel."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(DATA), 33_333):
                yield DATA[start : start + 33_333]

        result = await uploader(server.url).upload_file(pieces(), name="a")
        assert server.published["a"] == DATA
        assert len(result.chunks) == COUNT

    @pytest.mark.parametrize("lanes", [0, -1])
    def test_no_lanes(self, lanes: int) -> None:
        """Refused when the uploader is made."""
        with pytest.raises(ConfigurationError, match="max_parallel"):
            uploader("memory://x/", max_parallel=lanes)


class TestStreaming:
    async def lines(self, url: str, source: Any = DATA, **options: Any) -> list[str]:
        stream = uploader(url, **options).upload_file_streaming(source, name="a")
        return [line async for line in stream]

    async def test_every_line_is_json_and_the_last_has_the_result(
        self, server: KnobServer
    ) -> None:
        """NDJSON: an object a line, each line ended."""
        lines = await self.lines(server.url)
        states = [StreamingProgress.from_json(line) for line in lines]
        assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
        assert [state.is_final for state in states] == [False] * (len(lines) - 1) + [
            True
        ]
        result = states[-1].result
        assert result is not None
        assert (result.success, result.size) == (True, len(DATA))
        assert [state.kind for state in states].count("confirmed") == COUNT
        assert server.published["a"] == DATA

    async def test_line_has_what_a_reader_of_json_needs(
        self, server: KnobServer
    ) -> None:
        """Plain words and numbers, without this package."""
        last = json.loads((await self.lines(server.url))[-1])
        assert last["kind"] == "completed"
        assert last["progress"]["status"] == "complete"
        assert last["progress"]["confirmed"] == last["progress"]["total"] == len(DATA)
        assert last["result"]["success"] is True

    async def test_failed_upload_ends_its_stream_too(self, server: KnobServer) -> None:
        """Nothing is raised: the last line says why."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=3))
        last = StreamingProgress.from_json((await self.lines(server.url))[-1])
        assert last.is_final
        assert last.kind == "failed"
        assert last.result is not None
        assert last.result.error is not None
        assert "413" in last.result.error

    async def test_missing_file_ends_its_stream_too(self, tmp_path: Path) -> None:
        """Also an upload that never began has a last line."""
        lines = await self.lines("memory://streams/", tmp_path / "nowhere")
        last = StreamingProgress.from_json(lines[-1])
        assert last.result is not None
        assert last.result.error_type == "SourceError"

    async def test_slow_reader_does_not_slow_the_upload(
        self, server: KnobServer
    ) -> None:
        """Everything has arrived before the second line is read."""
        stream = uploader(server.url).upload_file_streaming(DATA, name="a")
        async with aclosing(stream):
            first = await anext(stream)
            assert json.loads(first)["kind"] == "started"
            await server.until(lambda: "a" in server.published)
            rest = [json.loads(line) async for line in stream]
        assert rest[-1]["kind"] == "completed"
        # Counts in between were merged: no more lines than other events, and a few.
        assert sum(line["kind"] == "bytes" for line in rest) <= COUNT + 1
        assert sum(line["kind"] == "confirmed" for line in rest) == COUNT

    async def test_reader_that_stops_early_cancels(self, server: KnobServer) -> None:
        """Closing the stream ends the upload, and clears up."""
        server.fault(Step.CHUNK, Fault(stall_after=0, chunk=4))
        stream = uploader(server.url).upload_file_streaming(DATA)
        async with aclosing(stream):
            async for line in stream:
                if json.loads(line)["kind"] == "confirmed":
                    break
        assert server.uploads == {}
        assert server.open_chunks <= 1

    async def test_nothing_runs_on_after_the_last_line(
        self, server: KnobServer
    ) -> None:
        """Connections are closed by then, not some time later."""
        before = asyncio.all_tasks()
        await self.lines(server.url, DATA)
        tasks = {task for task in asyncio.all_tasks() - before if is_ours(task)}
        assert tasks == set()

    async def test_records_instead_of_lines(self, server: KnobServer) -> None:
        """`stream_file` yields what the lines are made of."""
        stream = uploader(server.url).stream_file(DATA, name="a")
        states = [state async for state in stream]
        assert all(isinstance(state, StreamingProgress) for state in states)
        assert states[-1].result is not None

    async def test_server_sent_events(self, server: KnobServer) -> None:
        """An event line, a data line, an empty line; the same records."""
        stream = uploader(server.url).upload_file_sse(DATA, name="a")
        events = [event async for event in stream]
        for event in events:
            kind, data, *rest = event.split("\n")
            assert rest == ["", ""]
            state = StreamingProgress.from_json(data.removeprefix("data: "))
            assert kind == f"event: {state.kind}"
        assert events[-1].startswith("event: completed\n")

    async def test_name_that_is_no_unicode(self, tmp_path: Path) -> None:
        """A file name of arbitrary bytes breaks no line of the stream."""
        path = tmp_path / "\udcff\udcfe.bin"
        path.write_bytes(b"1")
        stream = uploader("memory://streams/").upload_file_streaming(path)
        lines = [line async for line in stream]
        assert StreamingProgress.from_json(lines[-1]).progress.name == path.name


def is_ours(task: asyncio.Task[Any]) -> bool:
    return "upload_kit" in repr(task.get_coro())


class TestManyFiles:
    async def test_results_come_in_the_order_of_the_files(
        self, server: KnobServer
    ) -> None:
        """Whichever is done first."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=0))
        files = {"slow": DATA, **{str(n): b"x" * n for n in range(20)}}
        task = asyncio.create_task(uploader(server.url).upload_files(files))
        await server.until(lambda: len(server.published) == 20)
        gate.set()
        results = await task
        assert [result.name for result in results] == list(files)
        assert server.published == files

    async def test_one_that_fails_stops_no_other(
        self, server: KnobServer, tmp_path: Path
    ) -> None:
        """Its result says why; the others are there."""
        (tmp_path / "a").write_bytes(DATA)
        (tmp_path / "c").write_bytes(b"c")
        paths = [tmp_path / "a", tmp_path / "missing", tmp_path, tmp_path / "c"]
        results = await uploader(server.url).upload_files(paths)
        assert [result.success for result in results] == [True, False, False, True]
        assert results[1].error_type == "SourceError"
        assert results[1].error is not None
        assert "missing" in results[1].error
        assert server.published == {"a": DATA, "c": b"c"}

    async def test_one_whose_data_raises_stops_no_other(
        self, server: KnobServer
    ) -> None:
        """Whatever a caller's own iterator raises."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"1"
            raise KeyError("bug")

        results = await uploader(server.url).upload_files(
            {"bad": broken(), "good": DATA}
        )
        assert [result.success for result in results] == [False, True]
        assert server.published == {"good": DATA}
        assert server.uploads.keys() <= {f"{2:032x}", f"{1:032x}"}

    async def test_no_files(self) -> None:
        """Nothing to do is nothing done."""
        assert await uploader("memory://x/").upload_files([]) == []

    async def test_any_iterable_of_any_sources(self, tmp_path: Path) -> None:
        """Paths, bytes, file objects; from a generator."""
        path = tmp_path / "path.bin"
        path.write_bytes(b"path")
        with path.open("rb") as file:
            sources: list[Any] = [path, str(path), b"bytes", file]
            up = uploader("memory://many/")
            results = await up.upload_files(source for source in sources)
        assert [result.size for result in results] == [4, 4, 5, 4]

    @pytest.mark.parametrize("wrong", ["big.bin", b"bytes"], ids=repr)
    async def test_one_file_where_many_are_wanted(self, wrong: Any) -> None:
        """A path is no list of one-letter paths."""
        with pytest.raises(ConfigurationError, match="upload_file"):
            await uploader("memory://x/").upload_files(wrong)

    async def test_one_that_is_no_source_at_all(self, server: KnobServer) -> None:
        """Told before any file is sent."""
        wrong: list[Any] = [b"fine", 7]
        with pytest.raises(ConfigurationError):
            await uploader(server.url).upload_files(wrong)
        assert server.seen == []

    async def test_cancelling_cancels_them_all(self, server: KnobServer) -> None:
        """And clears up each of them."""
        server.fault(Step.CHUNK, Fault(stall_after=0, times=None))
        up = uploader(server.url)
        task = asyncio.create_task(up.upload_files({"a": DATA, "b": DATA}))
        await server.until(lambda: server.open_chunks == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.uploads == {}
        assert {task.status for task in up.tracker.tasks} == {"cancelled"}

    async def test_no_more_files_are_open_than_are_needed(
        self, server: KnobServer
    ) -> None:
        """A thousand files do not mean a thousand open uploads."""
        gate = asyncio.Event()
        server.fault(Step.ONCE, Fault(gate=gate, times=None))
        up = uploader(server.url, max_parallel=2)
        files = {str(n): b"x" for n in range(60)}
        task = asyncio.create_task(up.upload_files(files))
        await server.until(lambda: server.count(Step.ONCE) == 2)
        await turns()
        assert len(up.tracker.tasks) <= 4
        gate.set()
        results = await task
        assert sum(result.success for result in results) == 60

    async def test_callback_hears_of_every_file(self, server: KnobServer) -> None:
        """One callback for all of them."""
        seen: list[UploadProgress] = []
        up = uploader(server.url, on_progress=seen.append)
        await up.upload_files({"a": DATA, "b": b"b", "c": b""})
        done = [state.name for state in seen if state.status == "complete"]
        assert sorted(done) == ["a", "b", "c"]

    async def test_leaked_memory_of_failed_files_stops_nobody(
        self, server: KnobServer
    ) -> None:
        """What a failed file had read ahead is given back to the others."""
        up = uploader(server.url, memory_budget=4 * CHUNK, max_parallel=2)
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=1, times=20))
        results = await asyncio.wait_for(
            up.upload_files({str(n): DATA for n in range(30)}), 30
        )
        assert sum(result.success for result in results) >= 10


class TestTracker:
    async def test_tasks_have_a_status_and_their_updates(
        self, server: KnobServer
    ) -> None:
        """Pending, uploading, complete, failed; the last 100 states of each."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=3))
        up = uploader(server.url, max_parallel=1)
        await up.upload_files({"bad": DATA, "good": b"1"})
        by_name = {task.name: task for task in up.tracker.tasks}
        assert by_name["bad"].status == "failed"
        assert by_name["bad"].error is not None
        assert by_name["good"].status == "complete"
        assert by_name["good"].error is None
        states = [state.status for state in by_name["good"].updates]
        assert states[0] == "pending"
        assert states[-1] == "complete"

    async def test_history_of_a_task_is_bounded(self) -> None:
        """A file of 500 chunks leaves 100 updates."""
        up = uploader("memory://many/", chunk_size=1000)
        await up.upload_file(bytes(500_000))
        (task,) = up.tracker.tasks
        assert len(task.updates) == 100
        assert task.updates[-1].status == "complete"

    async def test_sum_over_all_files(self, server: KnobServer) -> None:
        """Total, sent and confirmed agree at the end."""
        up = uploader(server.url)
        await up.upload_files({"a": DATA, "b": DATA[:100], "c": b""})
        total = up.total_progress
        assert total.sent == total.confirmed == total.total == len(DATA) + 100
        assert total.status == "complete"
        assert total.percent == 100.0
        assert total.eta == 0.0


async def test_memory_is_bounded_by_the_budget() -> None:
    """Chunks wait for buffers; nothing is read that there is no room for."""
    folder = memory_folder("bounded")
    up = uploader("memory://bounded/", chunk_size=1_000_000, memory_budget=2_000_000)
    peak = 0
    transfer = up.start(bytes(20_000_000), name="a")
    pool = up._resources._shared
    assert pool is not None
    async for _ in transfer:
        peak = max(peak, pool.pool.used)
    await transfer
    assert len(folder.objects["a"]) == 20_000_000
    assert 1_000_000 <= peak <= 2_000_000
    assert pool.pool.used == 0
