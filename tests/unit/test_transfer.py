"""The handle of one upload: awaited, watched, paused, cancelled, from anywhere."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from upload_kit import (
    ConfigurationError,
    EventKind,
    ParallelUploader,
    RemoteRejected,
    RetryPolicy,
    Transfer,
    TransferStalled,
    UploadCancelled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from upload_kit import UploadResult
    from upload_kit.config import TransferPolicy

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 500_000
DATA: Final = random.Random(6).randbytes(6 * CHUNK + 1)
# More than the buffers between two sockets hold.
BIG: Final = random.Random(7).randbytes(8_000_000)


class Impatient(ParallelUploader):
    """An uploader that waits for nothing longer than a moment."""

    changes: dict[str, Any] = {"response_timeout": 0.4, "pause_on_wire": 0.2}  # noqa: RUF012 (never changed)

    def policy(self) -> TransferPolicy:
        return replace(super().policy(), **self.changes)


def uploader(server: KnobServer, **options: Any) -> Impatient:
    settings: dict[str, Any] = {
        "chunk_size": CHUNK,
        "max_parallel": 1,
        "retry": RetryPolicy(base_delay=0.0, attempts=3),
        "history": False,
        **options,
    }
    return Impatient(server.url, **settings)


@pytest.fixture
async def server() -> AsyncIterator[KnobServer]:
    async with KnobServer() as server:
        yield server


@contextmanager
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run a second event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def outcome(transfer: Transfer) -> UploadResult:
    return await transfer


async def turns(count: int = 300) -> None:
    """Let everybody who can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestResult:
    async def test_awaited_in_its_own_loop_again_and_again(
        self, server: KnobServer
    ) -> None:
        """Always the same result."""
        transfer = uploader(server).start(DATA, name="a")
        first = await transfer
        assert await transfer is first
        assert transfer.result() is first
        assert transfer.done()
        assert server.published["a"] == DATA

    async def test_awaited_from_another_loop(self, server: KnobServer) -> None:
        """A notebook's cell awaits what runs elsewhere."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate))
        transfer = uploader(server).start(DATA)
        with other_loop() as loop:
            waiting = asyncio.run_coroutine_threadsafe(outcome(transfer), loop)
            await server.until(lambda: server.open_chunks == 1)
            gate.set()
            result = await asyncio.wrap_future(waiting)
        assert result is await transfer

    async def test_loop_that_waited_is_gone(
        self, server: KnobServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whoever waited elsewhere, and stopped, does the upload no harm."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate))
        transfer = uploader(server).start(DATA)

        async def wait_a_moment() -> None:
            await asyncio.wait_for(outcome(transfer), 0.05)

        with pytest.raises(TimeoutError):
            await asyncio.to_thread(asyncio.run, wait_a_moment())
        gate.set()
        assert (await transfer).success
        assert caplog.text == ""

    async def test_result_in_a_thread(self, server: KnobServer) -> None:
        """It blocks until the end, and takes no time once it is there."""
        transfer = uploader(server).start(DATA)
        result = await asyncio.to_thread(transfer.result, 10)
        assert result.success

    async def test_result_in_time_or_not_at_all(self, server: KnobServer) -> None:
        """The upload goes on."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate))
        transfer = uploader(server).start(DATA)
        with pytest.raises(TimeoutError, match="is not done"):
            await asyncio.to_thread(transfer.result, 0.05)
        gate.set()
        assert (await transfer).success

    async def test_result_in_its_own_loop_is_refused(self, server: KnobServer) -> None:
        """It would wait for itself."""
        transfer = uploader(server).start(DATA)
        with pytest.raises(ConfigurationError, match="await transfer"):
            transfer.result()
        await transfer

    async def test_failure_is_raised_wherever_it_is_asked_for(
        self, server: KnobServer
    ) -> None:
        """Again and again, in any thread."""
        server.fault(Step.CHUNK, Fault(refuse=413))
        transfer = uploader(server).start(DATA)
        for _ in range(2):
            with pytest.raises(RemoteRejected):
                await transfer
        with pytest.raises(RemoteRejected):
            await asyncio.to_thread(transfer.result)

    async def test_whoever_waits_may_stop_waiting(self, server: KnobServer) -> None:
        """Cancelling the wait does not cancel the upload."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate))
        transfer = uploader(server).start(DATA)
        waiting = asyncio.create_task(outcome(transfer))
        await server.until(lambda: server.open_chunks == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        assert (await transfer).success

    async def test_repr_tells_which_and_where(self, server: KnobServer) -> None:
        """Name, state and bytes."""
        transfer = uploader(server).start(DATA, name="a.bin")
        assert repr(transfer) == "<Transfer 'a.bin' pending 0/?>"
        await transfer
        assert repr(transfer) == f"<Transfer 'a.bin' complete {len(DATA)}/{len(DATA)}>"

    @pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
    async def test_cancelled_after_it_ended(
        self, server: KnobServer, *, fails: bool
    ) -> None:
        """While it lets go of what it shares: how it ended stays how it ended."""
        if fails:
            server.fault(Step.CHUNK, Fault(refuse=413))
        transfer = uploader(server).start(DATA, name="a")
        async for event in transfer:
            if event.kind.is_final:
                transfer.cancel()
        if fails:
            with pytest.raises(RemoteRejected):
                await transfer
        else:
            assert (await transfer).success


class TestWatching:
    async def test_several_readers_see_the_same(self, server: KnobServer) -> None:
        """Each at its own pace."""
        transfer = uploader(server).start(DATA)

        async def read() -> list[str]:
            return [e.kind async for e in transfer if e.kind != "bytes"]

        first, second = await asyncio.gather(read(), read())
        assert first == second
        assert first[-1] == "completed"

    async def test_late_reader_gets_the_end(self, server: KnobServer) -> None:
        """And with it the whole state."""
        transfer = uploader(server).start(DATA)
        await transfer
        for _ in range(2):
            (last,) = [event async for event in transfer]
            assert last.kind == "completed"
            assert last.result is await transfer

    async def test_reader_in_another_loop(self, server: KnobServer) -> None:
        """A panel reads in the kernel's loop."""
        transfer = uploader(server).start(DATA)

        async def read() -> list[str]:
            return [event.kind async for event in transfer]

        with other_loop() as loop:
            reading = asyncio.run_coroutine_threadsafe(read(), loop)
            kinds = await asyncio.wrap_future(reading)
        assert kinds[-1] == "completed"
        await transfer

    async def test_state_may_be_asked_at_any_time(self, server: KnobServer) -> None:
        """From any thread, while bytes move."""
        transfer = uploader(server, chunk_size=10_000).start(DATA)
        stop = threading.Event()
        seen = []

        def look() -> None:
            while not stop.wait(0.001):
                seen.append(transfer.progress)

        thread = threading.Thread(target=look)
        thread.start()
        await transfer
        stop.set()
        thread.join()
        assert all(state.confirmed <= len(DATA) for state in seen)


class TestPause:
    async def test_nothing_begins_while_it_is_paused(self, server: KnobServer) -> None:
        """What is on the wire may end; then all is still, and goes on later."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=2))
        transfer = uploader(server).start(DATA, name="a")
        await server.until(lambda: server.count(Step.CHUNK, 2) == 1)
        transfer.pause()
        gate.set()
        await server.until(lambda: server.open_chunks == 0)
        await turns()
        state = transfer.progress
        assert (state.status, state.rate) == ("paused", 0.0)
        assert server.count(Step.CHUNK, 3) == 0
        transfer.resume()
        result = await transfer
        assert (result.success, result.retries) == (True, 0)
        assert server.published["a"] == DATA

    async def test_paused_before_it_began(self, server: KnobServer) -> None:
        """It negotiates, and sends nothing until it is resumed."""
        transfer = uploader(server).start(DATA)
        transfer.pause()
        await server.until(lambda: server.count(Step.BEGIN) == 1)
        await turns()
        assert server.count(Step.CHUNK) == 0
        assert transfer.progress.status == "paused"
        transfer.resume()
        assert (await transfer).success

    async def test_pausing_and_resuming_twice_is_once(self, server: KnobServer) -> None:
        """One event each."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate))
        transfer = uploader(server).start(DATA)
        feed = aiter(transfer)
        await server.until(lambda: server.open_chunks == 1)
        for action in (transfer.pause, transfer.pause, transfer.resume):
            action()
        transfer.resume()
        gate.set()
        await transfer
        kinds = [event.kind async for event in feed]
        assert kinds.count(EventKind.PAUSED) == kinds.count(EventKind.RESUMED) == 1

    async def test_server_that_loses_patience(self, server: KnobServer) -> None:
        """It breaks off a chunk that a pause starves: that is no failure."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, cut_after=300_000))
        transfer = uploader(server, chunk_size=len(BIG)).start(BIG, name="a")
        await server.until(lambda: server.open_chunks == 1)
        transfer.pause()
        gate.set()
        await server.until(lambda: server.open_chunks == 0)
        await turns()
        transfer.resume()
        result = await transfer
        assert (result.success, result.retries) == (True, 0)
        assert server.published["a"] == BIG

    async def test_pause_gives_its_lane_to_another_upload(
        self, server: KnobServer
    ) -> None:
        """After a while on the wire the chunk is taken off it."""
        up = uploader(server, chunk_size=len(BIG))
        server.fault(Step.CHUNK, Fault(rate=10_000_000.0))
        paused = up.start(BIG, name="paused")
        await server.until(lambda: server.open_chunks == 1)
        paused.pause()
        other = await asyncio.wait_for(up.upload_file(DATA, name="other"), 10)
        assert other.success
        assert not paused.done()
        paused.resume()
        assert (await paused).retries == 0
        assert server.published == {"paused": BIG, "other": DATA}

    async def test_cancelled_while_it_is_paused(self, server: KnobServer) -> None:
        """A pause holds nobody."""
        transfer = uploader(server).start(DATA)
        transfer.pause()
        async with asyncio.timeout(20):
            async for event in transfer:
                if event.kind is EventKind.PLANNED:
                    break
        transfer.cancel()
        with pytest.raises(UploadCancelled):
            await asyncio.wait_for(outcome(transfer), 5)
        assert server.uploads == {}
        assert transfer.progress.status == "cancelled"

    async def test_pause_in_the_last_moment(self, server: KnobServer) -> None:
        """A chunk that was on the wire may end the upload; resuming changes nothing."""
        gate = asyncio.Event()
        last = len(DATA) // CHUNK
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=last))
        transfer = uploader(server).start(DATA)
        feed = aiter(transfer)
        await server.until(lambda: server.count(Step.CHUNK, last) == 1)
        transfer.pause()
        gate.set()
        assert (await transfer).success
        for action in (transfer.resume, transfer.pause, transfer.cancel):
            action()
            await turns(5)
            assert transfer.progress.status == "complete"
        events = [event async for event in feed]
        assert events[-1].kind == "completed"
        assert transfer.result().success


class TestStall:
    async def test_server_that_stops_reading(self, server: KnobServer) -> None:
        """The connection is given up, and a fresh one brings the file there."""
        server.fault(Step.CHUNK, Fault(stall_after=100_000))
        up = uploader(server, chunk_size=len(BIG), stall_timeout=0.3)
        transfer = up.start(BIG, name="a")
        causes = [e.error async for e in transfer if e.kind == "retrying"]
        assert (await transfer).retries == 1
        assert causes == ["Nothing moved for too long in chunk 0 of a."]
        assert server.published["a"] == BIG

    async def test_server_that_never_reads(self, server: KnobServer) -> None:
        """After so many tries the upload fails: it never hangs."""
        server.fault(Step.CHUNK, Fault(stall_after=0, times=None))
        up = uploader(server, chunk_size=len(BIG), stall_timeout=0.2)
        with pytest.raises(TransferStalled):
            await asyncio.wait_for(up.upload_file(BIG), 10)
        assert server.count(Step.CHUNK) == 3

    async def test_server_that_reads_and_never_answers(
        self, server: KnobServer
    ) -> None:
        """It has acted: the second time the chunk is there already."""
        server.fault(Step.CHUNK, Fault(act_and_stall=True, chunk=1))
        result = await uploader(server).upload_file(DATA, name="a")
        assert result.retries == 1
        assert server.published["a"] == DATA

    async def test_small_chunk_that_is_never_answered(self, server: KnobServer) -> None:
        """What goes in one piece is watched too."""
        server.fault(Step.CHUNK, Fault(act_and_stall=True, chunk=1))
        up = uploader(server, chunk_size=30_000)
        result = await up.upload_file(DATA[:1_100_000], name="a")
        assert result.retries == 1

    async def test_slow_link_is_no_stall(self, server: KnobServer) -> None:
        """Bytes that move slowly, but above the least rate, are left alone."""
        server.fault(Step.CHUNK, Fault(rate=8_000_000.0))
        up = uploader(server, chunk_size=len(BIG), stall_timeout=0.5)
        up.changes = {**up.changes, "response_timeout": 3.0}
        result = await up.upload_file(BIG)
        assert result.retries == 0
        assert result.seconds > 1

    @pytest.mark.parametrize("step", [Step.OPTIONS, Step.BEGIN, Step.COMPLETE])
    async def test_any_request_that_is_never_answered(
        self, server: KnobServer, step: Step
    ) -> None:
        """Every wait has a limit."""
        server.fault(step, Fault(act_and_stall=True, times=None))
        up = uploader(server)
        connection = up._resources.connection
        up._resources.connection = replace(connection, response_timeout=0.2)
        started = asyncio.get_running_loop().time()
        with pytest.raises(Exception, match="no answer in time"):
            await asyncio.wait_for(up.upload_file(DATA), 10)
        assert asyncio.get_running_loop().time() - started < 5
        assert server.count(step) == 3
