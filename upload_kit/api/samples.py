"""Bytes over time, for a plot of the speed: few enough for any upload, however long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from upload_kit.events import UploadEvent

_INTERVAL: Final = 0.1
_MOST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Record):
    """How far everything was at one moment."""

    at: float
    """When, seconds since the epoch."""

    elapsed: float
    """Seconds since the first sample."""

    sent: int
    """Bytes handed to the wire and not taken back by a retry."""

    confirmed: int
    """Bytes that the remote acknowledged."""


class Recording:
    """
    Samples of one or many uploads, ten a second at most and 4,096 in all.

    When it is full every second sample goes, and from then on it takes half as many.
    Written from one thread, read from any.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: list[Sample] = []
        self._interval = _INTERVAL
        self._began = 0.0
        self._last: dict[str, tuple[int, int]] = {}
        self._sent = 0
        self._confirmed = 0

    def update(self, event: UploadEvent) -> None:
        """Take in an event; a sample is kept when one is due, and at each end."""
        progress = event.progress
        sent, confirmed = self._last.get(event.transfer_id, (0, 0))
        self._sent += progress.sent - sent
        self._confirmed += progress.confirmed - confirmed
        if event.kind.is_final:
            self._last.pop(event.transfer_id, None)
        else:
            self._last[event.transfer_id] = (progress.sent, progress.confirmed)
        now = self._clock()
        if not self._samples:
            self._began = now
        elif now - self._began < self._samples[-1].elapsed + self._interval and not (
            event.kind.is_final
        ):
            return
        self._keep(event.at, now - self._began)

    def _keep(self, at: float, elapsed: float) -> None:
        sample = Sample(
            at=at, elapsed=elapsed, sent=self._sent, confirmed=self._confirmed
        )
        if len(self._samples) >= _MOST:
            self._samples = self._samples[::2]
            self._interval *= 2
        self._samples.append(sample)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All that was kept, oldest first."""
        return tuple(self._samples)
