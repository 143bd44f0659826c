"""The bandwidth limit: its rate, its burst, its fairness, and live changes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upload_kit.errors import ConfigurationError
from upload_kit.throttle import BandwidthThrottle
from upload_kit.units import KIB, MB, MIB


class SteppedTime:
    """A clock that stands still until told to go on, and its sleep."""

    def __init__(self, *, oversleep: float = 0.0) -> None:
        self.now = 0.0
        self.sleeps = 0
        self._oversleep = oversleep
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        woken = asyncio.get_running_loop().create_future()
        until = self.now + seconds + self._oversleep
        heapq.heappush(self._sleepers, (until, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let time pass; return when everyone who was due has run."""
        # A nanosecond more than asked for, so that sums of fractions are due too.
        end = self.now + seconds + 1e-9
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await self._settle()
        self.now = end

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


class Sender:
    """Takes pieces as fast as it may, and counts what it got."""

    def __init__(self, throttle: BandwidthThrottle, piece: int) -> None:
        self.sent = 0
        self._throttle = throttle
        self._piece = piece

    async def run(self) -> None:
        while True:
            await self._throttle.take(self._piece)
            self.sent += self._piece


def throttle_on(
    stepped: SteppedTime, rate: float | None, burst: float | None = None
) -> BandwidthThrottle:
    return BandwidthThrottle(
        rate, burst=burst, clock=stepped.clock, sleep=stepped.sleep
    )


async def sent_by(
    senders: list[Sender], stepped: SteppedTime, seconds: float
) -> list[int]:
    """Let senders run for a time; return what each of them sent."""
    tasks = [asyncio.create_task(sender.run()) for sender in senders]
    await stepped.advance(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [sender.sent for sender in senders]


@pytest.mark.parametrize("rate", [1 * MB, 10 * MB, 200 * MB], ids="{}B/s".format)
@pytest.mark.parametrize("piece", [64 * KIB, 1 * MIB], ids="{}B".format)
@pytest.mark.parametrize("lanes", [1, 8], ids="{}lanes".format)
async def test_rate_is_held_over_five_seconds(
    rate: int, piece: int, lanes: int
) -> None:
    """Whatever the pieces and the lanes, 5 s carry 5 s worth, less what waits."""
    stepped = SteppedTime(oversleep=0.001)
    throttle = throttle_on(stepped, rate)
    sent = sum(
        await sent_by([Sender(throttle, piece) for _ in range(lanes)], stepped, 5.0)
    )
    assert 5 * rate * 0.998 - piece <= sent <= 5 * rate


@settings(deadline=None)
@given(
    rate=st.integers(1_000, 1_000_000_000),
    shares=st.lists(st.floats(0, 0.5), min_size=1, max_size=12),
    oversleep=st.floats(0, 0.04),
)
def test_time_for_any_pieces_is_their_size_over_the_rate(
    rate: int, shares: list[float], oversleep: float
) -> None:
    """From an empty bucket n bytes take n / rate; what is overslept is made good."""
    pieces = [int(share * rate) for share in shares]
    stepped = SteppedTime(oversleep=oversleep)
    throttle = throttle_on(stepped, rate)
    finished: list[float] = []

    async def lane() -> None:
        for piece in pieces:
            await throttle.take(piece)
        finished.append(stepped.now)

    async def run() -> None:
        task = asyncio.create_task(lane())
        await stepped.advance(sum(shares) + 1.0)
        await asyncio.wait_for(task, timeout=5)

    asyncio.run(run())
    ideal = sum(pieces) / rate
    assert ideal - 1 / rate <= finished[0] <= ideal + oversleep + 1e-6


async def test_idle_time_is_not_caught_up_beyond_the_burst() -> None:
    """After an hour of nothing, one burst goes at once and the rest at the rate."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0, burst=300.0)
    await stepped.advance(3600.0)
    assert await sent_by([Sender(throttle, 100)], stepped, 1.0) == [300 + 1000]


async def test_default_burst_is_fifty_milliseconds() -> None:
    """Without a burst of its own, an idle bucket holds 50 ms worth."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0)
    await stepped.advance(60.0)
    assert await sent_by([Sender(throttle, 10)], stepped, 0.0) == [50]


async def test_bucket_starts_empty() -> None:
    """The first byte is paid for like any other."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0, burst=500.0)
    assert await sent_by([Sender(throttle, 100)], stepped, 0.0) == [0]


async def test_piece_larger_than_the_burst_waits_and_goes() -> None:
    """A take beyond the burst never deadlocks: it takes its size over the rate."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0, burst=10.0)
    task = asyncio.create_task(throttle.take(5000))
    await stepped.advance(4.99)
    assert not task.done()
    await stepped.advance(0.02)
    assert task.done()


async def test_callers_go_in_the_order_they_asked() -> None:
    """A small piece that asked later does not overtake a big one that waits."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0)
    done: list[int] = []

    async def taker(n: int) -> None:
        await throttle.take(n)
        done.append(n)

    tasks = [asyncio.create_task(taker(n)) for n in (700, 1, 500, 2)]
    await stepped.advance(2.0)
    assert done == [700, 1, 500, 2]
    await asyncio.gather(*tasks)


async def test_lanes_share_the_rate_evenly() -> None:
    """With pieces of one size no lane gets more than a piece ahead of another."""
    stepped = SteppedTime(oversleep=0.001)
    throttle = throttle_on(stepped, 10 * MB)
    sent = await sent_by([Sender(throttle, 256 * KIB) for _ in range(5)], stepped, 5.0)
    assert max(sent) - min(sent) <= 256 * KIB


async def test_slow_lane_with_big_pieces_does_not_starve() -> None:
    """A lane of 1 MiB pieces beside one of 16 KiB pieces gets its turn each time."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 10 * MB)
    big, small = await sent_by(
        [Sender(throttle, MIB), Sender(throttle, 16 * KIB)], stepped, 5.0
    )
    assert abs(big // MIB - small // (16 * KIB)) <= 1


@pytest.mark.parametrize("new", [1_000_000.0, None], ids=["faster", "unlimited"])
async def test_waiting_caller_feels_a_new_rate_at_once(new: float | None) -> None:
    """A caller in for a long wait goes within 50 ms of the rate being raised."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 10.0)
    task = asyncio.create_task(throttle.take(1000))
    await stepped.advance(1.0)
    assert not task.done()
    throttle.rate = new
    await stepped.advance(0.051)
    assert task.done()


async def test_lowered_rate_holds_from_then_on() -> None:
    """What is sent after the change follows the new rate, to the byte."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 10_000.0)
    assert await sent_by([Sender(throttle, 100)], stepped, 2.0) == [20_000]
    throttle.rate = 1000.0
    assert await sent_by([Sender(throttle, 100)], stepped, 2.0) == [2_000]


async def test_lowered_rate_shrinks_the_default_burst() -> None:
    """What a fast bucket had saved up is not let out at the slow rate."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1_000_000.0)
    await stepped.advance(10.0)
    throttle.rate = 1000.0
    assert await sent_by([Sender(throttle, 10)], stepped, 0.0) == [50]


async def test_limit_after_none_starts_from_an_empty_bucket() -> None:
    """Time without a limit neither saves up bytes nor leaves a debt."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 100.0)
    debtor = asyncio.create_task(throttle.take(1_000_000))
    await stepped.advance(1.0)
    throttle.rate = None
    await stepped.advance(100.0)
    throttle.rate = 1000.0
    assert await sent_by([Sender(throttle, 100)], stepped, 1.0) == [1000]
    await debtor


async def test_limit_set_right_after_none_keeps_nobody_waiting() -> None:
    """Who waited when the limit was lifted goes, even if it comes back at once."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1.0)
    task = asyncio.create_task(throttle.take(1_000_000))
    await stepped.advance(1.0)
    throttle.rate = None
    throttle.rate = 1.0
    await stepped.advance(0.051)
    assert task.done()


async def test_unlimited_take_never_waits() -> None:
    """Without a limit nothing sleeps, and nothing is counted against a later limit."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, None)
    for _ in range(100):
        await throttle.take(1_000_000)
    assert stepped.sleeps == 0


async def test_cancelled_caller_gives_its_bytes_back() -> None:
    """Those behind a cancelled caller move up by what it had asked for."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0)
    first, cancelled, last = (
        asyncio.create_task(throttle.take(n)) for n in (500, 100_000, 500)
    )
    await stepped.advance(0.1)
    cancelled.cancel()
    await stepped.advance(0.91)
    assert first.done()
    assert last.done()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await sent_by([Sender(throttle, 100)], stepped, 1.0) == [1000]


async def test_cancelled_caller_leaves_no_credit_beyond_the_burst() -> None:
    """A cancelled wait is no way to save up: what it gives back is capped."""
    stepped = SteppedTime()
    throttle = throttle_on(stepped, 1000.0, burst=50.0)
    task = asyncio.create_task(throttle.take(10_000))
    await stepped.advance(5.0)
    task.cancel()
    assert await sent_by([Sender(throttle, 10)], stepped, 0.0) == [50]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_numbers_not_above_zero_are_refused(value: float) -> None:
    """None is the only way to say no limit; the message names the value."""
    with pytest.raises(ConfigurationError, match=str(value)):
        BandwidthThrottle(value)
    with pytest.raises(ConfigurationError, match=str(value)):
        BandwidthThrottle(1.0, burst=value)
    throttle = BandwidthThrottle(1.0)
    with pytest.raises(ConfigurationError, match=str(value)):
        throttle.rate = value
    assert throttle.rate == 1.0


def test_rate_is_held_over_two_event_loops_in_real_time() -> None:
    """Threads with loops of their own share one bucket of real seconds."""
    throttle = BandwidthThrottle(10 * MB)
    pieces = 20

    async def lane() -> None:
        for _ in range(pieces):
            await throttle.take(64 * KIB)

    threads = [
        threading.Thread(target=lambda: asyncio.run(lane()), daemon=True)
        for _ in range(2)
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    elapsed = time.monotonic() - started
    ideal = 2 * pieces * 64 * KIB / (10 * MB)
    assert ideal * 0.99 <= elapsed <= ideal + 5.0
