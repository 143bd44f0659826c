"""The counts of one upload."""

from __future__ import annotations

import time

from upload_kit.models import Stage, UploadProgress, UploadStatus
from upload_kit.progress.rates import RateMeter, estimate_time_left


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
