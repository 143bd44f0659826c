"""A limit on a wait that is moved with every step, at the cost of an addition."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Deadline:
    """
    Ends what is done within it, with a TimeoutError, once it has passed.

    `asyncio.timeout` sets a new timer whenever it is rescheduled. Here one timer stays,
    and looks when it fires whether the deadline has moved meanwhile.

    Use it as an asynchronous context manager, once.
    """

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf
        self._until = math.inf
        self.has_passed = False

    async def __aenter__(self) -> Self:
        """Begin, without a limit."""
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; say that it took too long, if that is why."""
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def allow(self, seconds: float | None) -> None:
        """Move it to so many seconds from now; None for no limit."""
        self._until = math.inf if seconds is None else self._loop.time() + seconds
        self._watch()

    def extend(self, seconds: float) -> None:
        """Move it by so many seconds, if there is one."""
        self._until += seconds

    def _watch(self) -> None:
        """Have the timer fire no later than the deadline."""
        if self._until < self._fires_at and not self.has_passed:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = self._until
            self._timer = self._loop.call_at(self._fires_at, self._look)

    def _look(self) -> None:
        self._timer, self._fires_at = None, math.inf
        if self._until <= self._loop.time():
            self.has_passed = True
            self._timeout.reschedule(self._loop.time())
        else:
            self._watch()
