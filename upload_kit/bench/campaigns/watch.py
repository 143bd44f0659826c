"""How an event loop and a process are doing: steps, delays, memory."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_TICK: Final = 0.005


class LoopWatch:
    """
    Watches the running event loop, as long as the context lasts.

    A step is what the loop does between two looks at what comes next. Its time on the
    processor is what counts: how long others had the processor says nothing of the
    loop, and that no step waits for a disk is for the tests to see (blockbuster).

    It times every callback of the process, so it belongs in one that is there to be
    measured.
    """

    def __init__(self) -> None:
        self.longest_step = 0.0
        """Seconds of the processor that one step took at most."""

        self.latest = 0.0
        """Seconds that something ready had to wait at most, behind all that was ready
        before it and behind other processes."""

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        self._usual = run = asyncio.Handle._run  # noqa: SLF001 (there is no other way)
        clock = time.thread_time

        watch = self

        def timed(self: asyncio.Handle) -> None:
            began = clock()
            run(self)
            watch.longest_step = max(watch.longest_step, clock() - began)

        asyncio.Handle._run = timed  # type: ignore[method-assign] # noqa: SLF001 (as above)
        self._task = asyncio.create_task(self._watch(), name="loop watch")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        asyncio.Handle._run = self._usual  # type: ignore[method-assign] # noqa: SLF001 (as above)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_TICK)
            self.latest = max(self.latest, time.monotonic() - began - _TICK)


def peak_memory() -> int:
    """Return the bytes that this process has had in memory at most."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Linux counts in KiB, macOS in bytes.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory() -> int:
    """Return the bytes that this process has in memory now; Linux only."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (read thousands of times)
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
