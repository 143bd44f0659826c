"""Many uploads: each at a glance, and all of them as if they were one."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import FileUploadTask, Stage, UploadProgress, UploadStatus
from upload_kit.progress.rates import estimate_time_left

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UPDATES_KEPT: Final = 100
_ENDED_KEPT: Final = 1000


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
