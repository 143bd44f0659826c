"""A bandwidth limit that any number of transfers, loops and threads may share."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Long enough to make good what a busy loop oversleeps, short enough to move five
# seconds at full rate by no more than one per cent.
_BURST_SECONDS: Final = 0.05

# A waiting caller looks again this often, so that a new rate takes effect at once for a
# person, without waking callers across threads and loops.
_LOOK_SECONDS: Final = 0.05


@dataclass(slots=True, eq=False)
class _Ticket:
    """A caller's place in the queue: it may go once `due` bytes were paid for."""

    size: int
    due: float


class BandwidthThrottle:
    """
    A token bucket that holds its rate over everything that is given it.

    Callers go in the order in which they asked, so that none starves. The bucket starts
    empty, and after an idle time no more than `burst` bytes go at once. Every method
    may be called from any thread and any event loop.

    Args:
        rate: Bytes a second; None for no limit.

        burst: Bytes that may go at once after an idle time; None for 50 ms worth.

        clock: Seconds that only ever grow.

        sleep: Waits in the caller's own event loop.

    Raises:
        ConfigurationError: A number is not above zero.

    Example:
        >>> throttle = BandwidthThrottle(10_000_000)
        >>> throttle.rate = None
    """

    def __init__(
        self,
        rate: float | None,
        *,
        burst: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        _check("A bandwidth limit", rate)
        _check("A burst", burst)
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._queue: list[_Ticket] = []
        # Bytes since the start: those handed out, and those that time has paid for.
        # What was paid for stays at most `burst` ahead, and falls behind under load.
        self._sold = 0
        self._paid = 0.0
        self._settled_at = clock()

    def __repr__(self) -> str:
        """Show the rate."""
        return f"{type(self).__name__}(rate={self._rate})"

    @property
    def rate(self) -> float | None:
        """
        Bytes a second; None for no limit.

        Setting it takes effect within 50 ms, also for callers that wait already.
        """
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        _check("A bandwidth limit", rate)
        with self._lock:
            self._settle()
            if rate is None or self._rate is None:
                self._paid = float(self._sold)
            self._rate = rate

    async def take(self, n: int) -> None:
        """
        Wait until `n` bytes may go.

        A caller that is cancelled while it waits gives its bytes back.

        Args:
            n: Bytes, as many as you like; more than the burst just waits longer.
        """
        if self._rate is None:
            return
        ticket = self._buy(n)
        if ticket is None:
            return
        try:
            while (delay := self._delay(ticket)) > 0:
                await self._sleep(min(delay, _LOOK_SECONDS))
        except BaseException:
            self._give_back(ticket)
            raise

    def _buy(self, n: int) -> _Ticket | None:
        """Count `n` bytes as sold; return a ticket if they are not paid for yet."""
        with self._lock:
            self._settle()
            self._sold += n
            if self._sold <= self._paid:
                return None
            ticket = _Ticket(size=n, due=self._sold)
            self._queue.append(ticket)
            return ticket

    def _delay(self, ticket: _Ticket) -> float:
        """Return the seconds until a ticket's turn; take it off the queue at 0."""
        with self._lock:
            self._settle()
            missing = ticket.due - self._paid
            # Half a byte is the rounding of the sums above, not a debt.
            if self._rate is not None and missing > 0.5:
                return missing / self._rate
            self._queue.remove(ticket)
            return 0.0

    def _give_back(self, ticket: _Ticket) -> None:
        """Leave the queue; everyone behind moves up."""
        with self._lock:
            place = self._queue.index(ticket)
            del self._queue[place]
            self._sold -= ticket.size
            for later in self._queue[place:]:
                later.due -= ticket.size

    def _settle(self) -> None:
        """Pay for the time since the last call."""
        now = self._clock()
        elapsed, self._settled_at = now - self._settled_at, now
        if self._rate is None:
            return
        burst = self._rate * _BURST_SECONDS if self._burst is None else self._burst
        self._paid = min(self._paid + elapsed * self._rate, self._sold + burst)


def _check(what: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise ConfigurationError(
            f"{what} must be above zero, not {value}.", hint="None means no limit."
        )
