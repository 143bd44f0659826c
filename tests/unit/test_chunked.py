"""The foundation layer: one chunk after another, checked, retried, reported."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from upload_kit import (
    ChunkedUploader,
    ConfigurationError,
    EventKind,
    IntegrityError,
    RemoteUnavailable,
    RetryPolicy,
    UploadCancelled,
    Verification,
)
from upload_kit.destinations.memory import memory_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from upload_kit import UploadEvent, UploadProgress

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 300_000
# Above what goes in one request, and not a multiple of the chunk.
DATA: Final = random.Random(4).randbytes(5 * CHUNK + 77)
AT_ONCE: Final = RetryPolicy(base_delay=0.0, attempts=4)


@pytest.fixture
async def server() -> AsyncIterator[KnobServer]:
    async with KnobServer() as server:
        yield server


def uploader(server: KnobServer, **options: Any) -> ChunkedUploader:
    settings: dict[str, Any] = {
        "chunk_size": CHUNK,
        "retry": AT_ONCE,
        "history": False,
        **options,
    }
    return ChunkedUploader(server.url, **settings)


def stored(name: str) -> bytes:
    return memory_folder("chunked").objects[name]


def in_memory(**options: Any) -> ChunkedUploader:
    return ChunkedUploader("memory://chunked/", history=False, **options)


@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK - 1, 4 * CHUNK, 4 * CHUNK + 1],
)
@pytest.mark.parametrize("place", ["memory", "server"])
async def test_bytes_arrive_whatever_the_size(
    server: KnobServer, place: str, size: int
) -> None:
    """At every boundary of chunks the same bytes stand on the other side."""
    up = uploader(server) if place == "server" else in_memory(chunk_size=CHUNK)
    result = await up.upload_file(DATA[:size], name="a.bin")
    there = server.published["a.bin"] if place == "server" else stored("a.bin")
    assert there == DATA[:size]
    assert (result.success, result.size) == (True, size)
    assert result.verified is not Verification.NONE
    assert [chunk.size for chunk in result.chunks] == [
        len(DATA[:size][start : start + CHUNK])
        for start in range(0, max(size, 1), CHUNK)
    ]


async def test_result_tells_what_happened(server: KnobServer, tmp_path: Path) -> None:
    """Location, size, chunks with offsets and digests, seconds, bytes, no error."""
    path = tmp_path / "big.csv"
    path.write_bytes(DATA)
    result = await uploader(server).upload_file(path)
    assert result.location is not None
    assert result.location.startswith(server.url)
    assert (result.name, result.size) == ("big.csv", len(DATA))
    assert (result.bytes_sent, result.bytes_resumed) == (len(DATA), 0)
    assert (result.retries, result.error, result.error_type) == (0, None, None)
    assert result.session_id is None
    assert result.seconds > 0
    assert result.rate > 0
    for index, chunk in enumerate(result.chunks):
        part = DATA[index * CHUNK : (index + 1) * CHUNK]
        assert (chunk.index, chunk.start) == (index, index * CHUNK)
        assert chunk.size == len(part)
        assert chunk.sha256 == hashlib.sha256(part).hexdigest()


async def test_whole_digest_only_where_it_is_asked_for(server: KnobServer) -> None:
    """The foundation compares chunks; with `whole_digest` the file too."""
    plain = await uploader(server).upload_file(DATA)
    whole = await uploader(server, whole_digest=True).upload_file(DATA)
    assert (plain.verified, plain.sha256) == (Verification.CHUNKS, None)
    assert whole.verified is Verification.SHA256
    assert whole.sha256 == hashlib.sha256(DATA).hexdigest()


async def test_one_chunk_after_another(server: KnobServer) -> None:
    """The next chunk goes when the last one was acknowledged, in their order."""
    gate = asyncio.Event()
    server.fault(Step.CHUNK, Fault(gate=gate, times=None))
    transfer = uploader(server).start(DATA)
    await server.until(lambda: server.open_chunks == 1)
    assert not await happens(lambda: server.count(Step.CHUNK) > 1)
    gate.set()
    await transfer
    assert server.peak_chunks == 1
    assert [seen.chunk for seen in server.requests(Step.CHUNK)] == list(range(6))


async def happens(condition: Any, *, turns: int = 200) -> bool:
    """Return whether something comes true while everybody else may go on."""
    for _ in range(turns):
        if condition():
            return True
        await asyncio.sleep(0)
    return False


async def test_type_metadata_and_name_arrive(server: KnobServer) -> None:
    """What is kept beside the bytes."""
    await uploader(server).upload_file(
        DATA, name="table.parquet", metadata={"run": "7", "who": "Zoë"}
    )
    (upload,) = server.uploads.values()
    assert upload.content_type == "application/vnd.apache.parquet"
    assert upload.metadata == {"run": "7", "who": "Zoë"}
    assert upload.name == "table.parquet"


async def test_type_that_the_caller_names(server: KnobServer) -> None:
    """Goes before the one that is detected."""
    await uploader(server).upload_file(DATA, name="a.csv", content_type="x/y")
    (upload,) = server.uploads.values()
    assert upload.content_type == "x/y"


@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize(
    "fault",
    [
        {"refuse": 503},
        {"refuse": 429},
        {"refuse": 500},
        {"cut_after": 0},
        {"cut_after": 100_000},
        {"act_and_cut": True},
    ],
    ids=str,
)
async def test_chunk_that_fails_is_tried_again(
    server: KnobServer, fault: dict[str, Any], failures: int
) -> None:
    """As often as the policy allows; what arrived is whole, and counted once."""
    server.fault(Step.CHUNK, Fault(**fault, chunk=2, times=failures))
    result = await uploader(server).upload_file(DATA, name="a")
    assert server.published["a"] == DATA
    assert result.retries == failures
    assert server.count(Step.CHUNK, 2) == failures + 1
    assert result.bytes_sent >= len(DATA)


async def test_chunk_that_fails_for_ever(server: KnobServer) -> None:
    """After so many tries the error itself comes, and nothing stays there."""
    server.fault(Step.CHUNK, Fault(refuse=503, chunk=2, times=None))
    with pytest.raises(RemoteUnavailable, match="503") as raised:
        await uploader(server).upload_file(DATA)
    assert raised.value.status == 503
    assert server.count(Step.CHUNK, 2) == AT_ONCE.attempts
    assert server.count(Step.CHUNK, 3) == 0
    assert server.uploads == {}
    assert server.published == {}


async def test_tries_of_one_chunk_are_not_taken_from_another(
    server: KnobServer,
) -> None:
    """Each chunk has all of them: progress starts the count over."""
    for chunk in range(6):
        server.fault(Step.CHUNK, Fault(refuse=503, chunk=chunk, times=3))
    result = await uploader(server).upload_file(DATA, name="a")
    assert result.retries == 18
    assert server.published["a"] == DATA


@pytest.mark.parametrize("status", [400, 403, 409, 413, 415, 501])
async def test_refusal_is_not_tried_again(server: KnobServer, status: int) -> None:
    """A server that said no would say it again."""
    server.fault(Step.CHUNK, Fault(refuse=status, times=None))
    with pytest.raises(Exception, match=str(status)):
        await uploader(server).upload_file(DATA)
    assert server.count(Step.CHUNK) == 1
    assert server.uploads == {}


async def test_wait_that_the_server_asks_for_is_obeyed(server: KnobServer) -> None:
    """`Retry-After` is the least wait, and the event says so."""
    server.fault(Step.CHUNK, Fault(refuse=503, headers={"Retry-After": "1"}, chunk=1))
    loop = asyncio.get_running_loop()
    started = loop.time()
    transfer = uploader(server).start(DATA)
    events = [event async for event in transfer]
    assert loop.time() - started >= 1.0
    (retry,) = [event for event in events if event.kind == "retrying"]
    assert (retry.wait, retry.chunk, retry.attempt) == (1.0, 1, 1)
    assert retry.error is not None
    assert "503" in retry.error
    assert (await transfer).success


async def test_wait_that_is_too_long_ends_the_upload(server: KnobServer) -> None:
    """Nobody waits for a day."""
    server.fault(Step.CHUNK, Fault(refuse=503, headers={"Retry-After": "86400"}))
    with pytest.raises(RemoteUnavailable) as raised:
        await uploader(server).upload_file(DATA)
    assert raised.value.retry_after == 86400
    assert server.count(Step.CHUNK) == 1


@pytest.mark.parametrize(
    "lie",
    [{"sha256": "0" * 64}, {"size": CHUNK - 1}, {"size": 0}, {"sha256": None}],
    ids=str,
)
async def test_server_that_stored_something_else(
    server: KnobServer, lie: dict[str, Any]
) -> None:
    """A chunk with another digest or size is sent once more, then it is an error."""
    server.fault(Step.CHUNK, Fault(change=lie, chunk=1, times=None))
    with pytest.raises(IntegrityError):
        await uploader(server).upload_file(DATA)
    assert server.count(Step.CHUNK, 1) == 2
    assert server.published == {}


async def test_server_that_lies_once(server: KnobServer) -> None:
    """A bit that flipped on the way is no reason to give up."""
    server.fault(Step.CHUNK, Fault(change={"sha256": "0" * 64}, chunk=1))
    result = await uploader(server).upload_file(DATA, name="a")
    assert (result.success, result.retries) == (True, 1)


@pytest.mark.parametrize("lie", [{"sha256": "0" * 64}, {"size": 1}], ids=str)
async def test_server_that_published_something_else(
    server: KnobServer, lie: dict[str, Any]
) -> None:
    """An upload whose end cannot be proven has failed."""
    server.fault(Step.COMPLETE, Fault(change=lie, times=None))
    with pytest.raises(IntegrityError):
        await uploader(server, whole_digest=True).upload_file(DATA)


@pytest.mark.parametrize("step", [Step.OPTIONS, Step.BEGIN, Step.COMPLETE])
@pytest.mark.parametrize(
    "fault", [{"refuse": 503}, {"cut_after": 0}, {"act_and_cut": True}], ids=str
)
async def test_any_request_may_fail_once(
    server: KnobServer, step: Step, fault: dict[str, Any]
) -> None:
    """Not only chunks are tried again; what was done already does no harm."""
    server.fault(step, Fault(**fault))
    result = await uploader(server).upload_file(DATA, name="a")
    assert server.published["a"] == DATA
    # What only asks is asked again by aiohttp itself when the connection broke.
    assert result.retries == 1 or step is Step.OPTIONS
    assert result.size == len(DATA)


@pytest.mark.parametrize("step", [Step.OPTIONS, Step.BEGIN, Step.COMPLETE])
async def test_any_request_that_fails_for_ever_ends_the_upload(
    server: KnobServer, step: Step
) -> None:
    """With the error that it met, in no more tries than allowed."""
    server.fault(step, Fault(refuse=503, times=None))
    with pytest.raises(RemoteUnavailable, match="503"):
        await uploader(server).upload_file(DATA)
    assert server.count(step) == AT_ONCE.attempts
    assert server.published == {}


async def test_small_file_whose_reply_was_lost_is_stored_once(
    server: KnobServer,
) -> None:
    """One request with a key: the second one gets the first one's answer."""
    server.fault(Step.ONCE, Fault(act_and_cut=True))
    result = await uploader(server, chunk_size=10**6).upload_file(b"hello", name="a")
    keys = {s.headers["Idempotency-Key"] for s in server.requests(Step.ONCE)}
    assert len(keys) == 1
    assert (result.success, result.retries) == (True, 1)
    assert server.published == {"a": b"hello"}


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_iterator(server: KnobServer, *, known: bool) -> None:
    """Pieces of any size, with or without a length that is known before."""
    result = await uploader(server).upload_file(
        pieces(DATA, 77_777), name="a", size=len(DATA) if known else None
    )
    assert server.published["a"] == DATA
    assert result.size == len(DATA)
    assert len(result.chunks) == 6


async def pieces(data: bytes, step: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("place", ["memory", "server"])
async def test_iterator_of_unknown_length_ends_anywhere(
    server: KnobServer, place: str, size: int
) -> None:
    """On a chunk's boundary too, and with nothing at all."""
    up = uploader(server) if place == "server" else in_memory(chunk_size=CHUNK)
    result = await up.upload_file(pieces(DATA[:size], 999), name="b")
    there = server.published["b"] if place == "server" else stored("b")
    assert there == DATA[:size]
    assert (result.size, len(result.chunks)) == (size, max(1, -(-size // CHUNK)))


@pytest.mark.parametrize("said", [len(DATA) - 1, len(DATA) + 1, CHUNK, 0])
async def test_iterator_of_another_length_than_was_said(
    server: KnobServer, said: int
) -> None:
    """Neither half a file nor one with more than was said is published."""
    with pytest.raises(Exception, match=r"said to have|ended after"):
        await uploader(server).upload_file(pieces(DATA, 50_000), size=said)
    assert server.published == {}
    assert server.uploads == {}


class TestEvents:
    async def collect(self, server: KnobServer, **options: Any) -> list[UploadEvent]:
        transfer = uploader(server, **options).start(DATA, name="a")
        events = [event async for event in transfer]
        assert (await transfer).success
        return events

    async def test_stages_come_in_their_order(self, server: KnobServer) -> None:
        """Validating, planning, uploading, verifying, complete; each once."""
        stages = [event.progress.stage for event in await self.collect(server)]
        order = list(dict.fromkeys(stages))
        assert order == ["validating", "planning", "uploading", "verifying", "complete"]
        assert stages == sorted(stages, key=order.index)

    async def test_events_tell_a_story_without_gaps(self, server: KnobServer) -> None:
        """Numbered from 0, beginning with the start, ending with the result."""
        events = await self.collect(server)
        kinds = [event.kind for event in events]
        assert (kinds[0], kinds[-1]) == ("started", "completed")
        assert kinds.count(EventKind.CONFIRMED) == 6
        assert kinds.index(EventKind.PLANNED) < kinds.index(EventKind.CONFIRMED)
        assert [event.seq for event in events] == sorted(
            {event.seq for event in events}
        )
        assert [event.result for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].result is not None

    async def test_counts_only_grow_and_agree_at_the_end(
        self, server: KnobServer
    ) -> None:
        """Confirmed never exceeds sent, sent never the total."""
        server.fault(Step.CHUNK, Fault(cut_after=200_000, chunk=3, times=2))
        events = await self.collect(server)
        confirmed = [event.progress.confirmed for event in events]
        assert confirmed == sorted(confirmed)
        for event in events:
            state = event.progress
            assert 0 <= state.confirmed <= state.sent <= len(DATA)
        last = events[-1].progress
        assert last.sent == last.confirmed == last.total == len(DATA)
        assert (last.chunks_confirmed, last.chunks_total) == (6, 6)
        assert (last.status, last.eta, last.retries) == ("complete", 0.0, 2)

    async def test_time_left_is_estimated_once_bytes_moved(
        self, server: KnobServer
    ) -> None:
        """Nothing is promised before, and nothing is left at the end."""
        events = await self.collect(server)
        assert events[0].progress.eta is None
        confirmed = [event for event in events if event.kind == "confirmed"]
        assert all(event.progress.eta is not None for event in confirmed)
        assert all((event.progress.eta or 0) > 0 for event in confirmed[:-1])

    async def test_failure_is_the_last_event(self, server: KnobServer) -> None:
        """With the error, its class and a result that says so."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=2))
        transfer = uploader(server).start(DATA)
        events = [event async for event in transfer]
        with pytest.raises(Exception, match="413"):
            await transfer
        last = events[-1]
        assert (last.kind, last.progress.stage) == ("failed", "failed")
        assert last.result is not None
        assert (last.result.success, last.result.error_type) == (
            False,
            "RemoteRejected",
        )
        assert last.result.error == last.error
        assert len(last.result.chunks) == 2


class TestCallback:
    async def states(self, server: KnobServer, callback: Any) -> None:
        result = await uploader(server, on_progress=callback).upload_file(
            DATA, name="a"
        )
        assert result.success
        assert server.published["a"] == DATA

    async def test_function(self, server: KnobServer) -> None:
        """Called with every state, outside of the event loop."""
        seen: list[UploadProgress] = []
        loops: list[Any] = []

        def note(progress: UploadProgress) -> None:
            seen.append(progress)
            loops.append(asyncio._get_running_loop())

        await self.states(server, note)
        assert seen[-1].status == "complete"
        assert seen[-1].confirmed == len(DATA)
        assert set(loops) == {None}

    async def test_coroutine_function(self, server: KnobServer) -> None:
        """Awaited in the upload's own loop."""
        queue: asyncio.Queue[UploadProgress] = asyncio.Queue()
        await self.states(server, queue.put)
        assert queue.qsize() >= 6

    async def test_function_that_returns_an_awaitable(self, server: KnobServer) -> None:
        """A lambda around a coroutine function is awaited too."""
        queue: asyncio.Queue[tuple[str, UploadProgress]] = asyncio.Queue()
        await self.states(server, lambda progress: queue.put(("seen", progress)))
        assert queue.qsize() >= 6

    async def test_object_with_an_asynchronous_call(self, server: KnobServer) -> None:
        """Whatever can be called."""

        class Note:
            def __init__(self) -> None:
                self.seen = 0

            async def __call__(self, progress: UploadProgress) -> None:
                self.seen += 1

        note = Note()
        await self.states(server, note)
        assert note.seen >= 6

    @pytest.mark.parametrize(
        "error", [ValueError("bug"), StopIteration(), StopAsyncIteration()], ids=repr
    )
    @pytest.mark.parametrize("in_loop", [True, False], ids=["async", "sync"])
    async def test_callback_that_fails_fails_no_upload(
        self,
        server: KnobServer,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
        *,
        in_loop: bool,
    ) -> None:
        """It is logged, and not called again."""
        calls = []

        def fail(progress: UploadProgress) -> None:
            calls.append(progress)
            raise error

        async def fail_in_loop(progress: UploadProgress) -> None:
            fail(progress)

        started = asyncio.get_running_loop().time()
        await self.states(server, fail_in_loop if in_loop else fail)
        assert asyncio.get_running_loop().time() - started < 4
        assert len(calls) == 1
        assert "progress callback failed" in caplog.text

    async def test_slow_callback_does_not_slow_the_upload(
        self, server: KnobServer
    ) -> None:
        """Everything is confirmed while the first call still runs."""
        told = asyncio.Event()
        states = []

        async def wait(progress: UploadProgress) -> None:
            states.append(progress)
            await told.wait()

        transfer = uploader(server, on_progress=wait).start(DATA, name="a")
        await server.until(lambda: "a" in server.published)
        assert len(states) == 1
        told.set()
        await transfer
        assert states[-1].status == "complete"


class TestCancel:
    async def test_cancelled_upload_file_clears_up(self, server: KnobServer) -> None:
        """The upload ends with whoever awaits it; nothing stays at the server."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=2))
        task = asyncio.create_task(uploader(server).upload_file(DATA))
        await server.until(lambda: server.count(Step.CHUNK, 2) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.uploads == {}
        gate.set()

    async def test_timeout_around_an_upload(self, server: KnobServer) -> None:
        """`asyncio.timeout` works as for anything else."""
        server.fault(Step.CHUNK, Fault(stall_after=0, chunk=1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await uploader(server).upload_file(DATA)
        assert server.uploads == {}

    async def test_cancelled_transfer_says_so(self, server: KnobServer) -> None:
        """Its last event and its error both do; a second time does nothing."""
        server.fault(Step.CHUNK, Fault(stall_after=0, chunk=1))
        transfer = uploader(server).start(DATA)
        feed = aiter(transfer)
        await server.until(lambda: server.count(Step.CHUNK, 1) == 1)
        transfer.cancel()
        transfer.cancel()
        with pytest.raises(UploadCancelled):
            await transfer
        events = [event async for event in feed]
        assert events[-1].kind == "cancelled"
        assert events[-1].progress.status == "cancelled"
        result = events[-1].result
        assert result is not None
        assert (result.success, result.is_cancelled) == (False, True)
        assert result.error_type == "UploadCancelled"
        assert result.error == "The upload of upload.bin was cancelled."
        assert server.uploads == {}
        transfer.cancel()

    async def test_cancelled_before_it_began(self, server: KnobServer) -> None:
        """It ends, and lets go of everything."""
        transfer = uploader(server).start(DATA)
        transfer.cancel()
        with pytest.raises(UploadCancelled):
            await transfer
        assert transfer.done()

    async def test_server_that_does_not_answer_the_clearing_up(
        self, server: KnobServer
    ) -> None:
        """A refusal to abort hides no error."""
        server.fault(Step.CHUNK, Fault(refuse=413))
        server.fault(Step.ABORT, Fault(refuse=500))
        with pytest.raises(Exception, match="413"):
            await uploader(server).upload_file(DATA)


class TestContext:
    async def test_connections_stay_open_in_between(self, server: KnobServer) -> None:
        """One uploader asks the server once what it takes."""
        async with uploader(server) as up:
            for name in "abc":
                await up.upload_file(DATA, name=name)
        assert set(server.published) == {"a", "b", "c"}
        assert server.count(Step.OPTIONS) <= 2

    async def test_context_waits_for_uploads_under_way(
        self, server: KnobServer
    ) -> None:
        """Leaving it cuts nothing off."""
        async with uploader(server) as up:
            transfer = up.start(DATA, name="a")
        assert transfer.done()
        assert server.published["a"] == DATA

    async def test_error_in_the_context_cancels_uploads(
        self, server: KnobServer
    ) -> None:
        """They end with the block that they belong to."""
        server.fault(Step.CHUNK, Fault(stall_after=0))
        up = uploader(server)
        await up.__aenter__()
        transfer = up.start(DATA)
        await server.until(lambda: server.open_chunks == 1)
        error = ZeroDivisionError()
        await up.__aexit__(type(error), error, None)
        assert transfer.done()
        assert server.uploads == {}

    async def test_uploads_beside_each_other(self, server: KnobServer) -> None:
        """Each is sequential for itself, over one set of connections."""
        up = uploader(server)
        await asyncio.gather(*(up.upload_file(DATA, name=name) for name in "abcd"))
        assert set(server.published) == {"a", "b", "c", "d"}
        assert server.peak_chunks == 1


@pytest.mark.parametrize("size", [10, len(DATA)], ids=["once", "chunks"])
async def test_existing_file_is_kept_if_asked_to(size: int) -> None:
    """`overwrite=False` refuses, and what stands there stays."""
    up = in_memory(chunk_size=CHUNK, overwrite=False)
    memory_folder("chunked").objects.pop("c", None)
    await up.upload_file(DATA[:size], name="c")
    with pytest.raises(Exception, match="exists already"):
        await up.upload_file(b"other", name="c")
    assert stored("c") == DATA[:size]


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": 0},
        {"chunk_size": -1},
        {"stall_timeout": 0},
        {"memory_budget": 0},
        {"max_connections": 0},
        {"token": "a\n"},
        {"headers": {"A\n": "b"}},
    ],
    ids=str,
)
async def test_option_out_of_range(options: dict[str, Any]) -> None:
    """Told when the uploader is made, not when a file is on its way."""
    with pytest.raises(ConfigurationError):
        in_memory(**options)
