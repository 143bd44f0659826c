"""The threads in which files are read and digests computed, off the event loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import time
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Reading and hashing let go of the GIL, so more threads than cores only queue up; a few
# more keep a slow disk from holding up everything else.
_WORKERS: Final = min(32, (os.cpu_count() or 1) + 4)
# Seconds that calls which still run get at the end of the program.
_GRACE: Final = 2.0
_LOOK: Final = 0.01


class Threads(Executor):
    """
    A few threads, which a disk that hangs can neither use up nor keep a program with.

    The executor of the standard library has no thread to spare for a call that never
    returns, and waits for it when the program ends.

    Args:
        size: Calls that run at once, besides those that were given up.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._threads = 0
        self._wanted = 0
        self._given_up = 0

    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Have a function called; whoever cancels the future gives a call up."""
        call = _Call(self, partial(fn, *args, **kwargs))
        with self._guard:
            self._wanted += 1
            self._start_if_short()
        self._calls.put(call)
        return call

    def give_up(self, call: _Call) -> None:
        """Have another thread take the place of the one that a call runs in."""
        with self._guard:
            if not (call.is_over or call.is_given_up):
                call.is_given_up = True
                self._given_up += 1
                self._wanted -= 1
                self._start_if_short()

    def settle(self, seconds: float) -> None:
        """Wait until every call has ended, or for so long."""
        until = time.monotonic() + seconds
        while self._wanted + self._given_up and time.monotonic() < until:
            time.sleep(_LOOK)

    def _start_if_short(self) -> None:
        if self._threads - self._given_up < min(self._size, self._wanted):
            self._threads += 1
            # A daemon: one that a disk holds must not hold the program.
            name = f"upload_kit-files_{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            call.run()
            is_surplus = self._end(call)
            # Nothing of it may live on while this thread waits for the next one.
            del call
            if is_surplus:
                return

    def _end(self, call: _Call) -> bool:
        """Note that a call has ended; return whether its thread was replaced."""
        with self._guard:
            call.is_over = True
            if not call.is_given_up:
                self._wanted -= 1
                return False
            self._given_up -= 1
            self._threads -= 1
            return True


class _Call(Future[Any]):
    """A call of a function in one of the threads."""

    def __init__(self, threads: Threads, function: Callable[[], object]) -> None:
        super().__init__()
        self._owner = threads
        self._function: Callable[[], object] | None = function
        self.is_given_up = False
        self.is_over = False

    def cancel(self) -> bool:
        """Cancel it, or give it up where it runs."""
        is_cancelled = super().cancel()
        if not is_cancelled:
            self._owner.give_up(self)
        return is_cancelled

    def run(self) -> None:
        """Call the function, unless it was cancelled before."""
        function, self._function = self._function, None
        if function is None or not self.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except StopIteration as error:
            # A future cannot hold one: whoever awaits it would wait for ever.
            wrapped = RuntimeError("raised StopIteration")
            wrapped.__cause__ = error
            self.set_exception(wrapped)
        except BaseException as error:  # noqa: BLE001 (whoever awaits it gets it)
            self.set_exception(error)
        else:
            self.set_result(result)


_pool: Threads | None = None


def _forget_pool() -> None:
    """Drop the pool in a forked child, where its threads do not exist."""
    global _pool  # noqa: PLW0603 (one pool a process is the point)
    _pool = None


def _settle_pool() -> None:
    """Let what still runs end with the program, in peace but not for long."""
    if _pool is not None:
        _pool.settle(_GRACE)


atexit.register(_settle_pool)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def in_thread(
    function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
) -> asyncio.Future[_T]:
    """
    Run a blocking function in one of a few threads, and await what it returns.

    Cheaper than `asyncio.to_thread`: the context is not copied. Cancelling the future
    does not stop a function that already runs; another thread takes the place of its
    own until it returns.
    """
    global _pool  # noqa: PLW0603 (one pool a process is the point)
    if _pool is None:
        _pool = Threads(_WORKERS)
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(_pool, partial(function, *args, **kwargs))
