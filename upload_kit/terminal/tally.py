"""The sum over many uploads; an event costs the same, however many there are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind
from upload_kit.models import Stage, UploadProgress, UploadStatus
from upload_kit.progress.rates import RateMeter, estimate_time_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from upload_kit.events import UploadEvent


_DONE: Final = UploadStatus.COMPLETE


class Tally:
    """
    Counts files and bytes; events may come in groups, but in order.

    Args:
        files: How many there will be.

        size: Bytes of all files; None if one of them is not known.

        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        files: int,
        size: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = files
        self.complete = 0
        self.ended = 0
        self.failed = 0
        self.active: dict[str, UploadEvent] = {}
        self._endings: set[UploadStatus] = set()
        self._size = size
        self._confirmed = 0
        self._resumed = 0
        self._retries = 0
        self._meter = RateMeter(clock=clock)
        self._clock = clock
        self._started = clock()
        self._over: float | None = None

    def update(self, event: UploadEvent) -> None:
        """Take in an event."""
        last = self.active.pop(event.transfer_id, None)
        now = event.progress
        before = last.progress if last else None
        moved = now.confirmed - (before.confirmed if before else 0)
        resumed = now.resumed - (before.resumed if before else 0)
        self._confirmed += moved
        self._resumed += resumed
        self._retries += now.retries - (before.retries if before else 0)
        self._meter.add(moved - resumed)
        if event.kind.is_final:
            self.ended += 1
            self.complete += event.kind is EventKind.COMPLETED
            self.failed += event.kind is EventKind.FAILED
            self._endings.add(now.status)
            if self.ended >= self.files:
                self._over = self._clock()
        else:
            self.active[event.transfer_id] = event

    def total(self) -> UploadProgress:
        """Return the sum, as if all files were one."""
        now = self._clock() if self._over is None else self._over
        elapsed = max(now - self._started, 1e-9)
        average = max(0, self._confirmed - self._resumed) / elapsed
        rate = self._meter.rate() if self._over is None else 0.0
        remaining = None if self._size is None else self._size - self._confirmed
        return UploadProgress(
            transfer_id="total",
            name=f"{self.ended:,} of {self.files:,} files",
            stage=Stage.UPLOADING,
            status=self._status(),
            total=self._size,
            sent=self._confirmed,
            confirmed=self._confirmed,
            resumed=self._resumed,
            rate=rate,
            average_rate=average,
            elapsed=elapsed,
            eta=estimate_time_left(remaining, rate, average),
            retries=self._retries,
        )

    def _status(self) -> UploadStatus:
        """Return what still happens, and at the end the worst that did."""
        if self._over is None:
            return UploadStatus.UPLOADING
        worst_first = (UploadStatus.FAILED, UploadStatus.CANCELLED)
        return next((one for one in worst_first if one in self._endings), _DONE)
