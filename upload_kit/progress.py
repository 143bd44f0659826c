"""
From what happens to what readers see: rates, snapshots, feeds, a tracker of many files.

Events go from the engine to a `Hub`; each reader has a `Feed` of its own, which merges
neighbouring `bytes` events and never drops another kind. No reader can slow the wire.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import FileUploadTask, Stage, UploadProgress, UploadStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

_WINDOW: Final = 3.0
_BUCKET: Final = 0.1
_UPDATES_KEPT: Final = 100
_ENDED_KEPT: Final = 1000


class RateMeter:
    """
    Bytes a second over the last few seconds.

    Args:
        window: Seconds that count as now.

        clock: Monotonic seconds.
    """

    def __init__(
        self, *, window: float = _WINDOW, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._clock = clock
        self._start = clock()
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque([(self._start, 0)])

    def add(self, size: int) -> None:
        """Count bytes that just moved; a retry takes some back with a negative size."""
        self._total += size
        now = self._clock()
        if now - self._marks[-1][0] >= _BUCKET:
            self._marks.append((now, self._total))
            self._trim(now)

    def rate(self) -> float:
        """Return bytes a second over the window, or since the start if that is less."""
        now = self._clock()
        self._trim(now)
        then, total = self._marks[0]
        seconds = now - then
        return max(0.0, (self._total - total) / seconds) if seconds > 0 else 0.0

    def _trim(self, now: float) -> None:
        while len(self._marks) > 1 and self._marks[1][0] <= now - self._window:
            self._marks.popleft()


def estimate_time_left(
    remaining: int | None, rate: float, average_rate: float
) -> float | None:
    """
    Return the seconds that are left, or None while nothing can be said.

    Args:
        remaining: Bytes not yet confirmed; None if the total is not known.

        rate: Bytes a second now.

        average_rate: Bytes a second since the start; it steadies the estimate.
    """
    if remaining is None:
        return None
    if remaining == 0:
        return 0.0
    steady = (rate + average_rate) / 2
    return remaining / steady if steady > 0 else None


class ProgressState:
    """The counts of one upload, kept by the engine; `snapshot` is what others see."""

    def __init__(self, transfer_id: str, name: str) -> None:
        self.transfer_id = transfer_id
        self.name = name
        self.started_at = time.time()
        self.stage = Stage.VALIDATING
        self.status = UploadStatus.PENDING
        self.total: int | None = None
        self.chunks_total: int | None = None
        self.sent = 0
        self.confirmed = 0
        self.chunks_confirmed = 0
        self.resumed = 0
        self.retries = 0
        self.bytes_on_wire = 0
        self._meter = RateMeter()
        self._started = time.monotonic()
        self._paused_at: float | None = None
        self._paused_for = 0.0
        self._first_byte: float | None = None
        self._stopped: float | None = None

    def handed(self, wire: int, source: int) -> None:
        """Count bytes handed to the wire."""
        if self._first_byte is None:
            self._first_byte = time.monotonic()
        self.bytes_on_wire += wire
        self.sent += source
        self._meter.add(source)

    def taken_back(self, source: int) -> None:
        """Uncount bytes of a try that failed."""
        self.sent -= source
        self._meter.add(-source)

    def confirm(self, source: int) -> None:
        """Count a chunk that the remote acknowledged."""
        self.confirmed += source
        self.chunks_confirmed += 1

    def resume_with(self, source: int) -> None:
        """Count a chunk that was there before this run."""
        self.sent += source
        self.resumed += source
        self.confirm(source)

    def pause(self) -> None:
        """Stop the clock."""
        self.status = UploadStatus.PAUSED
        self._paused_at = time.monotonic()

    def unpause(self) -> None:
        """Let the clock go on."""
        self.status = UploadStatus.UPLOADING
        if self._paused_at is not None:
            self._paused_for += time.monotonic() - self._paused_at
            self._paused_at = None

    def end(self, status: UploadStatus) -> None:
        """Stop the clock for good; the last stage is called like the last status."""
        self.status = status
        self.stage = Stage(status.value)
        self._stopped = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, until the end."""
        return (self._stopped or time.monotonic()) - self._started

    @property
    def wire_rate(self) -> float | None:
        """Bytes a second that the wire took so far; None until a chunk has arrived."""
        if self._first_byte is None or self.confirmed == self.resumed:
            return None
        seconds = time.monotonic() - self._first_byte - self._paused_for
        return self.bytes_on_wire / max(seconds, 1e-9)

    def start_over(self) -> None:
        """Forget what was confirmed: the remote lost it, and all is sent again."""
        self.sent = self.confirmed = self.chunks_confirmed = self.resumed = 0

    def snapshot(self) -> UploadProgress:
        """Return the whole state as it stands."""
        elapsed = self.elapsed
        now = self._paused_at
        paused = self._paused_for + (time.monotonic() - now if now else 0.0)
        active = max(elapsed - paused, 1e-9)
        average = max(0, self.sent - self.resumed) / active
        rate = 0.0 if self.status.is_final or now else self._meter.rate()
        remaining = None if self.total is None else self.total - self.confirmed
        return UploadProgress(
            transfer_id=self.transfer_id,
            name=self.name,
            stage=self.stage,
            status=self.status,
            total=self.total,
            sent=self.sent,
            confirmed=self.confirmed,
            chunks_total=self.chunks_total,
            chunks_confirmed=self.chunks_confirmed,
            resumed=self.resumed,
            rate=rate,
            average_rate=average,
            elapsed=elapsed,
            eta=estimate_time_left(remaining, rate, average),
            retries=self.retries,
        )


class Feed:
    """
    The events of one or many uploads, for one reader, at the reader's own pace.

    Unread `bytes` events of one upload with nothing of the same upload in between are
    merged into the newest; every other kind is kept. Written from any thread, read in
    one event loop, by `async for`; it ends after `close`, once everything was read.
    """

    def __init__(self) -> None:
        self._events: OrderedDict[int, UploadEvent] = OrderedDict()
        # Of each upload whose last unread event counts bytes: where that one stands.
        self._counts: dict[str, int] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def put(self, event: UploadEvent) -> None:
        """Add an event; never blocks."""
        with self._lock:
            number = self._counts.pop(event.transfer_id, None)
            counts = event.kind is EventKind.BYTES
            if number is None or not counts:
                number = next(self._numbers)
            if counts:
                self._counts[event.transfer_id] = number
            self._events[number] = event
            self._wake()

    def close(self) -> None:
        """End the feed once the reader has read what is in it."""
        with self._lock:
            self._closed = True
            self._wake()

    def drain(self) -> list[UploadEvent]:
        """Return and remove everything that has not been read yet."""
        with self._lock:
            events = list(self._events.values())
            self._events.clear()
            self._counts.clear()
        return events

    def _wake(self) -> None:
        if self._waiting is None:
            return
        loop, ready = self._waiting
        self._waiting = None
        # The reader's loop may be closed by now, and then nobody waits.
        if not loop.is_closed():
            loop.call_soon_threadsafe(ready.set)

    def __aiter__(self) -> AsyncIterator[UploadEvent]:
        """Read the feed; only one reader may."""
        return self

    async def __anext__(self) -> UploadEvent:
        """Return the next event, waiting for it as long as the feed is open."""
        while True:
            with self._lock:
                if self._events:
                    return self._next()
                if self._closed:
                    raise StopAsyncIteration
                ready = asyncio.Event()
                self._waiting = (asyncio.get_running_loop(), ready)
            # No limit: whoever feeds it closes it in a `finally`.
            await ready.wait()

    def _next(self) -> UploadEvent:
        number, event = self._events.popitem(last=False)
        if self._counts.get(event.transfer_id) == number:
            del self._counts[event.transfer_id]
        return event


class Hub:
    """Passes each event to every listener, in order; a listener must not block."""

    def __init__(self, listeners: Iterable[Callable[[UploadEvent], None]] = ()) -> None:
        self._listeners = list(listeners)
        self._feeds: list[Feed] = []

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def subscribe(self) -> Feed:
        """Return a new feed of every event from now on."""
        feed = Feed()
        self._feeds.append(feed)
        self._listeners.append(feed.put)
        return feed

    def emit(self, event: UploadEvent) -> None:
        """Pass the event on."""
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """End every feed."""
        for feed in self._feeds:
            feed.close()


class ProgressTracker:
    """
    Many uploads at a glance: each one's status and last 100 updates, and their sum.

    It is a listener; hand `tracker.update` to whatever emits events. The sum is that of
    all uploads; of those that have ended, the newest 1,000 are kept one by one.
    """

    def __init__(self) -> None:
        self._ended: deque[str] = deque()
        self._older: UploadProgress | None = None
        self._last: dict[str, UploadEvent] = {}
        self._updates: dict[str, deque[UploadProgress]] = {}
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def update(self, event: UploadEvent) -> None:
        """Take in an event; of each upload the last 100 states are kept."""
        with self._lock:
            key = event.transfer_id
            if key not in self._updates:
                self._updates[key] = deque(maxlen=_UPDATES_KEPT)
            self._updates[key].append(event.progress)
            self._last[key] = event
            if event.kind.is_final:
                self._ended.append(key)
                if len(self._ended) > _ENDED_KEPT:
                    self._fold(self._ended.popleft())

    def _fold(self, key: str) -> None:
        """Keep no more of an upload than its part of the sum."""
        del self._updates[key]
        parts = [self._last.pop(key).progress]
        if self._older is not None:
            parts.append(self._older)
        self._older = sum_progress(parts, name="older", elapsed=0.0)

    def task(self, task_id: str) -> FileUploadTask:
        """
        Return one upload as it stands.

        Raises:
            KeyError: No event of it was seen, or it ended long ago.
        """
        with self._lock:
            return self._task(self._last[task_id])

    @property
    def tasks(self) -> tuple[FileUploadTask, ...]:
        """Those that are kept, in the order in which they began."""
        with self._lock:
            return tuple(self._task(event) for event in self._last.values())

    def _task(self, last: UploadEvent) -> FileUploadTask:
        return FileUploadTask(
            task_id=last.transfer_id,
            name=last.progress.name,
            status=last.progress.status,
            progress=last.progress,
            error=last.error if last.kind is EventKind.FAILED else None,
            updates=tuple(self._updates[last.transfer_id]),
        )

    def summary(self, name: str = "total") -> UploadProgress:
        """
        Return the sum over all uploads seen so far.

        Args:
            name: What to call it.
        """
        with self._lock:
            parts = [event.progress for event in self._last.values()]
            if self._older is not None:
                parts.append(self._older)
        return sum_progress(parts, name=name, elapsed=time.monotonic() - self._started)


def sum_progress(
    parts: Sequence[UploadProgress], *, name: str, elapsed: float
) -> UploadProgress:
    """
    Return many uploads as if they were one.

    Args:
        parts: Their states.

        name: What to call the sum, in place of a transfer's ID too.

        elapsed: Seconds since the first of them began.
    """
    sent = sum(part.sent for part in parts)
    resumed = sum(part.resumed for part in parts)
    confirmed = sum(part.confirmed for part in parts)
    total = _sum_known(part.total for part in parts)
    rate = sum(part.rate for part in parts)
    average = max(0, sent - resumed) / max(elapsed, 1e-9)
    remaining = None if total is None else total - confirmed
    return UploadProgress(
        transfer_id=name,
        name=name,
        stage=_joint_stage(parts),
        status=_joint_status(parts),
        total=total,
        sent=sent,
        confirmed=confirmed,
        chunks_total=_sum_known(part.chunks_total for part in parts),
        chunks_confirmed=sum(part.chunks_confirmed for part in parts),
        resumed=resumed,
        rate=rate,
        average_rate=average,
        elapsed=elapsed,
        eta=estimate_time_left(remaining, rate, average),
        retries=sum(part.retries for part in parts),
    )


def _sum_known(values: Iterable[int | None]) -> int | None:
    """Return the sum, or None if one of them is not known yet."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _joint_status(parts: Sequence[UploadProgress]) -> UploadStatus:
    """Return the status of many: what still happens first, then the worst ending."""
    for status in (
        UploadStatus.UPLOADING,
        UploadStatus.PAUSED,
        UploadStatus.PENDING,
        UploadStatus.FAILED,
        UploadStatus.CANCELLED,
    ):
        if any(part.status is status for part in parts):
            return status
    return UploadStatus.COMPLETE if parts else UploadStatus.PENDING


def _joint_stage(parts: Sequence[UploadProgress]) -> Stage:
    """Return the earliest stage that one of many is in."""
    order = list(Stage)
    return min((part.stage for part in parts), key=order.index, default=order[0])
