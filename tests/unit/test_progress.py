"""From what happens to what readers see: rates, states, feeds, many files summed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import Stage, UploadProgress, UploadStatus
from upload_kit.progress.feeds import Feed, Hub
from upload_kit.progress.rates import RateMeter, estimate_time_left
from upload_kit.progress.state import ProgressState
from upload_kit.progress.tracker import ProgressTracker, sum_progress

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def event(
    kind: EventKind = EventKind.BYTES, transfer: str = "t", seq: int = 0, **state: Any
) -> UploadEvent:
    progress = UploadProgress(transfer_id=transfer, name=transfer, **state)
    return UploadEvent(
        kind=kind, transfer_id=transfer, seq=seq, at=float(seq), progress=progress
    )


class TestRateMeter:
    def test_rate_is_that_of_the_last_seconds(self) -> None:
        """What happened before the window does not count."""
        clock = Clock()
        meter = RateMeter(window=3.0, clock=clock)
        for rate, seconds in ((1_000_000, 10), (50, 4)):
            for _ in range(seconds * 10):
                clock.now += 0.1
                meter.add(rate // 10)
        assert meter.rate() == pytest.approx(50, rel=0.05)

    def test_rate_falls_to_nothing_when_nothing_moves(self) -> None:
        """A stalled upload shows no speed."""
        clock = Clock()
        meter = RateMeter(window=3.0, clock=clock)
        clock.now = 1.0
        meter.add(1000)
        clock.now = 100.0
        assert meter.rate() == pytest.approx(0.0, abs=20)
        meter.add(0)
        clock.now = 104.0
        assert meter.rate() == 0.0

    def test_retry_takes_bytes_back_and_never_below_zero(self) -> None:
        """A rate is no debt."""
        clock = Clock()
        meter = RateMeter(clock=clock)
        clock.now = 1.0
        meter.add(500)
        meter.add(-500)
        assert meter.rate() == 0.0
        meter.add(-100)
        assert meter.rate() == 0.0

    def test_nothing_can_be_said_at_the_start(self) -> None:
        """No division by no time."""
        assert RateMeter(clock=Clock()).rate() == 0.0

    def test_marks_are_bounded(self) -> None:
        """A meter that runs for days remembers a window's worth."""
        clock = Clock()
        meter = RateMeter(window=3.0, clock=clock)
        for _ in range(10_000):
            clock.now += 0.05
            meter.add(1)
        assert len(meter._marks) <= 3.0 / 0.1 + 3

    def test_rate_may_be_asked_from_another_thread(self) -> None:
        """A panel asks while the engine counts."""
        clock = Clock()
        meter = RateMeter(window=0.3, clock=clock)
        stop = threading.Event()
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                while not stop.is_set():
                    assert meter.rate() >= 0
            except BaseException as error:  # noqa: BLE001 (told to the other thread)
                failures.append(error)

        readers = [threading.Thread(target=ask) for _ in range(2)]
        with switching_often():
            for reader in readers:
                reader.start()
            for _ in range(20_000):
                clock.now += 0.11
                meter.add(1)
            stop.set()
            for reader in readers:
                reader.join()
        assert failures == []


class switching_often:  # noqa: N801 (it is used like a function)
    """Have Python switch between threads as often as it can."""

    def __enter__(self) -> None:
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self._before)


class TestTimeLeft:
    @pytest.mark.parametrize(
        ("remaining", "rate", "average", "seconds"),
        [
            pytest.param(None, 10.0, 10.0, None, id="unknown-total"),
            pytest.param(0, 0.0, 0.0, 0.0, id="nothing-left"),
            pytest.param(100, 0.0, 0.0, None, id="nothing-moved-yet"),
            pytest.param(100, 10.0, 10.0, 10.0, id="steady"),
            pytest.param(100, 0.0, 10.0, 20.0, id="stuck-for-a-moment"),
            pytest.param(100, 30.0, 10.0, 5.0, id="faster-than-before"),
        ],
    )
    def test_estimate(
        self, remaining: int | None, rate: float, average: float, seconds: float | None
    ) -> None:
        """From the pace now, steadied by the pace so far."""
        assert estimate_time_left(remaining, rate, average) == seconds


class TestProgressState:
    @pytest.fixture
    def state(self) -> ProgressState:
        state = ProgressState("id", "big.bin")
        state.total = 100
        return state

    def test_begins_with_nothing(self, state: ProgressState) -> None:
        """Pending, validating, no bytes."""
        seen = state.snapshot()
        assert (seen.status, seen.stage) == (UploadStatus.PENDING, Stage.VALIDATING)
        assert (seen.sent, seen.confirmed, seen.total) == (0, 0, 100)
        assert state.wire_rate is None

    def test_sent_and_confirmed_are_two_numbers(self, state: ProgressState) -> None:
        """Only an acknowledgement confirms; a failed try lowers what was sent."""
        state.handed(60, 60)
        assert state.snapshot().in_flight == 60
        state.confirm(50)
        state.taken_back(10)
        seen = state.snapshot()
        assert (seen.sent, seen.confirmed, seen.in_flight) == (50, 50, 0)
        assert state.bytes_on_wire == 60

    def test_what_was_there_counts_as_done_and_not_as_speed(
        self, state: ProgressState
    ) -> None:
        """A resume is not fast because half was there."""
        state.resume_with(80)
        seen = state.snapshot()
        assert (seen.sent, seen.confirmed, seen.resumed) == (80, 80, 80)
        assert (seen.rate, seen.average_rate) == (0.0, 0.0)
        assert seen.chunks_confirmed == 1

    def test_pause_stops_the_clock(self, state: ProgressState) -> None:
        """Paused shows no speed; what went before counts for the average."""
        state.handed(10, 10)
        state.pause()
        assert state.snapshot().status is UploadStatus.PAUSED
        assert state.snapshot().rate == 0.0
        state.unpause()
        assert state.snapshot().status is UploadStatus.UPLOADING

    def test_end_stops_the_clock_for_good(self, state: ProgressState) -> None:
        """A result that is looked at tomorrow took as long as it took."""
        state.end(UploadStatus.COMPLETE)
        assert state.snapshot().stage is Stage.COMPLETE
        assert state.snapshot().elapsed == state.elapsed
        assert state.snapshot().rate == 0.0

    def test_starting_over_forgets_what_was_confirmed(
        self, state: ProgressState
    ) -> None:
        """The remote lost everything; the bytes that travelled still did."""
        state.resume_with(30)
        state.handed(40, 40)
        state.confirm(40)
        state.start_over()
        seen = state.snapshot()
        assert (seen.sent, seen.confirmed, seen.resumed) == (0, 0, 0)
        assert seen.chunks_confirmed == 0
        assert state.bytes_on_wire == 40


class TestFeed:
    async def test_events_come_in_order_and_then_it_ends(self) -> None:
        """`async for` reads everything that was put before the close."""
        feed = Feed()
        events = [event(EventKind.CONFIRMED, seq=i) for i in range(5)]
        for each in events:
            feed.put(each)
        feed.close()
        assert [each async for each in feed] == events

    async def test_reader_waits_for_what_comes_later(self) -> None:
        """From another thread too."""
        feed = Feed()

        async def read() -> list[int]:
            return [each.seq async for each in feed]

        reader = asyncio.create_task(read())
        for seq in range(3):
            await asyncio.to_thread(feed.put, event(EventKind.CONFIRMED, seq=seq))
        await asyncio.to_thread(feed.close)
        assert await asyncio.wait_for(reader, 5) == [0, 1, 2]

    async def test_neighbouring_byte_counts_are_merged_into_the_newest(self) -> None:
        """A slow reader sees the last count, not all of them."""
        feed = Feed()
        for seq in range(1000):
            feed.put(event(EventKind.BYTES, seq=seq, sent=seq))
        assert [each.seq for each in feed.drain()] == [999]

    async def test_byte_counts_of_many_files_are_merged_too(self) -> None:
        """Interleaved uploads fill no memory when nobody reads."""
        feed = Feed()
        for seq in range(1000):
            for transfer in "abc":
                feed.put(event(EventKind.BYTES, transfer, seq))
        assert [(each.transfer_id, each.seq) for each in feed.drain()] == [
            ("a", 999),
            ("b", 999),
            ("c", 999),
        ]

    async def test_byte_counts_around_another_event_stay(self) -> None:
        """What is merged never overtakes an event of its own upload."""
        feed = Feed()
        feed.put(event(EventKind.BYTES, seq=0))
        feed.put(event(EventKind.CONFIRMED, seq=1))
        feed.put(event(EventKind.BYTES, seq=2))
        feed.put(event(EventKind.BYTES, seq=3))
        assert [each.seq for each in feed.drain()] == [0, 1, 3]

    async def test_count_that_was_read_is_merged_into_no_more(self) -> None:
        """The next one is another event."""
        feed = Feed()
        feed.put(event(EventKind.BYTES, seq=0))
        assert (await anext(feed)).seq == 0
        feed.put(event(EventKind.BYTES, seq=1))
        feed.close()
        assert [each.seq async for each in feed] == [1]

    async def test_close_may_come_twice_and_ends_at_once_when_empty(self) -> None:
        """Whoever feeds it closes it in a `finally`."""
        feed = Feed()
        feed.close()
        feed.close()
        with pytest.raises(StopAsyncIteration):
            await anext(feed)

    def test_closed_loop_of_a_reader_is_no_trouble(self) -> None:
        """A reader whose loop is gone does not stop the upload."""
        feed = Feed()

        async def begin() -> None:
            reading = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(0)
            reading.cancel()

        asyncio.run(begin())
        feed.put(event(EventKind.CONFIRMED))
        feed.close()
        assert len(feed.drain()) == 1

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "c"]),
                st.sampled_from([EventKind.BYTES, EventKind.CONFIRMED]),
                st.booleans(),
            ),
            max_size=60,
        )
    )
    def test_nothing_but_byte_counts_is_ever_dropped(
        self, script: list[tuple[str, EventKind, bool]]
    ) -> None:
        """Whatever comes when, every other kind is kept, each upload in its order."""
        feed = Feed()
        put: dict[str, list[UploadEvent]] = defaultdict(list)
        got: dict[str, list[UploadEvent]] = defaultdict(list)
        for seq, (transfer, kind, read_now) in enumerate(script):
            put[transfer].append(event(kind, transfer, seq))
            feed.put(put[transfer][-1])
            for each in feed.drain() if read_now else ():
                got[each.transfer_id].append(each)
        for each in feed.drain():
            got[each.transfer_id].append(each)
        for transfer, events in put.items():
            kept = [each for each in events if each.kind is not EventKind.BYTES]
            seen = got[transfer]
            assert [each for each in seen if each.kind is not EventKind.BYTES] == kept
            assert [each.seq for each in seen] == sorted(each.seq for each in seen)
            assert seen[-1] == events[-1]


class TestHub:
    def test_every_listener_hears_everything_in_order(self) -> None:
        """Feeds are listeners like any other."""
        heard: list[int] = []
        hub = Hub([lambda each: heard.append(each.seq)])
        feed = hub.subscribe()
        for seq in range(3):
            hub.emit(event(EventKind.CONFIRMED, seq=seq))
        assert heard == [0, 1, 2]
        assert [each.seq for each in feed.drain()] == [0, 1, 2]

    async def test_closing_ends_every_feed(self) -> None:
        """Whoever reads is told that nothing comes any more."""
        hub = Hub()
        assert not hub.is_heard
        feeds = [hub.subscribe(), hub.subscribe()]
        assert hub.is_heard
        hub.close()
        assert [[each async for each in feed] for feed in feeds] == [[], []]


class TestProgressTracker:
    def test_last_hundred_updates_are_kept(self) -> None:
        """Of every upload, the newest ones, oldest first."""
        tracker = ProgressTracker()
        for sent in range(250):
            tracker.update(event(sent=sent))
        updates = tracker.task("t").updates
        assert [update.sent for update in updates] == list(range(150, 250))
        assert tracker.task("t").progress == updates[-1]

    def test_tasks_stand_in_the_order_in_which_they_began(self) -> None:
        """Whatever ended first."""
        tracker = ProgressTracker()
        for transfer in ("b", "a", "c", "b"):
            tracker.update(event(transfer=transfer))
        assert [task.name for task in tracker.tasks] == ["b", "a", "c"]

    def test_task_says_why_it_failed(self) -> None:
        """Status and error as the last event had them; a retry is no failure."""
        tracker = ProgressTracker()
        for kind, status in (
            (EventKind.RETRYING, UploadStatus.UPLOADING),
            (EventKind.FAILED, UploadStatus.FAILED),
        ):
            state = UploadProgress(transfer_id="t", name="n", status=status)
            tracker.update(
                UploadEvent(
                    kind=kind, transfer_id="t", seq=0, at=0, progress=state, error="X."
                )
            )
            task = tracker.task("t")
            assert task.status is status
            assert task.error == ("X." if kind is EventKind.FAILED else None)

    def test_unknown_task(self) -> None:
        """An upload that nobody saw is a KeyError."""
        with pytest.raises(KeyError):
            ProgressTracker().task("t")

    def test_updates_may_come_from_many_threads(self) -> None:
        """Several uploads in several loops share a tracker."""
        tracker = ProgressTracker()

        def work(transfer: str) -> None:
            for sent in range(2000):
                tracker.update(event(transfer=transfer, sent=sent, total=2000))
                tracker.summary()

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        with switching_often():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert tracker.summary().sent == 4 * 1999

    def test_sum_over_all_uploads(self) -> None:
        """Bytes, chunks and retries add up."""
        tracker = ProgressTracker()
        for transfer, sent in (("a", 10), ("b", 30)):
            tracker.update(
                event(
                    transfer=transfer,
                    sent=sent,
                    confirmed=sent - 5,
                    total=50,
                    chunks_total=5,
                    chunks_confirmed=2,
                    retries=1,
                )
            )
        total = tracker.summary("both")
        assert (total.name, total.transfer_id) == ("both", "both")
        assert (total.sent, total.confirmed, total.total) == (40, 30, 100)
        assert (total.chunks_confirmed, total.chunks_total, total.retries) == (4, 10, 2)
        assert total.percent == 30.0


def parts(*pairs: tuple[UploadStatus, Stage]) -> Iterator[UploadProgress]:
    for status, stage in pairs:
        yield UploadProgress(transfer_id="t", name="n", status=status, stage=stage)


DONE = (UploadStatus.COMPLETE, Stage.COMPLETE)
GOING = (UploadStatus.UPLOADING, Stage.UPLOADING)
BROKEN = (UploadStatus.FAILED, Stage.FAILED)
WAITING = (UploadStatus.PENDING, Stage.VALIDATING)
HALTED = (UploadStatus.PAUSED, Stage.UPLOADING)


@pytest.mark.parametrize(
    ("pairs", "status", "stage"),
    [
        pytest.param((), UploadStatus.PENDING, Stage.VALIDATING, id="none"),
        pytest.param((DONE, DONE), *DONE, id="all-done"),
        pytest.param((DONE, GOING, BROKEN), *GOING, id="one-goes-on"),
        pytest.param(
            (DONE, WAITING), UploadStatus.PENDING, Stage.VALIDATING, id="one-waits"
        ),
        pytest.param((HALTED, DONE), *HALTED, id="one-paused"),
        pytest.param((DONE, BROKEN), UploadStatus.FAILED, Stage.COMPLETE, id="failed"),
    ],
)
def test_status_of_many(
    pairs: tuple[tuple[UploadStatus, Stage], ...], status: UploadStatus, stage: Stage
) -> None:
    """What still happens comes first, then the worst ending."""
    total = sum_progress(list(parts(*pairs)), name="all", elapsed=1.0)
    assert (total.status, total.stage) == (status, stage)


def test_one_unknown_total_makes_the_sum_unknown() -> None:
    """A bar over all files does not lie."""
    known = UploadProgress(transfer_id="a", name="a", total=10)
    unknown = UploadProgress(transfer_id="b", name="b", total=None)
    total = sum_progress([known, unknown], name="all", elapsed=1.0)
    assert (total.total, total.eta, total.percent) == (None, None, None)
