"""Bytes a second, and the time that is left."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW: Final = 3.0
_BUCKET: Final = 0.1


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
