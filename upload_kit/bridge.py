"""
From plain code to the event loop that uploads run in, and back.

One daemon thread with a loop of its own, started when it is first needed. What runs
there goes on while a notebook's cell computes, and works the same from a script, from
inside another running loop, and after a fork.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures

# Its end-of-program hook has to be registered before ours, to run after it.
import concurrent.futures.thread
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from upload_kit.errors import ConfigurationError
from upload_kit.waiting import wait

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")

logger = logging.getLogger("upload_kit.bridge")

THREAD_NAME: Final = "upload_kit-io"
"""What the thread is called."""

# Seconds for the thread to come up, or to take a function that does no waiting.
_PATIENCE: Final = 30.0
# Seconds that things get at the end of the program: first to end well, then to be
# cancelled. A Jupyter server kills a kernel that takes 5 s.
_GRACE: Final = 2.0
_CANCELLING: Final = 1.0


class Bridge:
    """
    A thread with an event loop, and the ways to it.

    Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._endings: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.forget()

    def forget(self) -> None:
        """Start from nothing, as in a forked child, where the thread does not exist."""
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._over = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """
        The loop; the thread is started if need be.

        Raises:
            ConfigurationError: There can be no thread: in a browser's Python, or when
                the program ends.
        """
        with self._starting:
            if self._loop is None:
                self._loop = self._start()
            return self._loop

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._over:
            raise ConfigurationError("The program ends; nothing can be started now.")
        if sys.platform == "emscripten":
            raise ConfigurationError(
                "Python in a browser has neither threads nor sockets.",
                hint="Use a kernel that runs on a machine, such as one of JupyterLab.",
            )
        ready: concurrent.futures.Future[asyncio.AbstractEventLoop]
        ready = concurrent.futures.Future()
        thread = threading.Thread(
            target=_run_loop, args=(ready,), name=THREAD_NAME, daemon=True
        )
        # Threads that hooks of `atexit` would meet are gone by then: those of executors
        # are joined before, and uploads need them to end well.
        register = getattr(threading, "_register_atexit", atexit.register)
        try:
            register(self.close)
        except RuntimeError as error:
            raise ConfigurationError(
                "The program ends; nothing can be started now."
            ) from error
        thread.start()
        self._thread = thread
        return ready.result(_PATIENCE)

    def is_here(self) -> bool:
        """Return whether the caller runs in the thread itself."""
        return threading.current_thread() is self._thread

    def submit(
        self, coroutine: Coroutine[Any, Any, _T]
    ) -> concurrent.futures.Future[_T]:
        """
        Run a coroutine in the loop, and return at once.

        It sees the caller's context variables. Cancelling the future cancels it.

        Raises:
            ConfigurationError: There can be no thread.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except BaseException:
            coroutine.close()
            raise

    def run(
        self, coroutine: Coroutine[Any, Any, _T], *, timeout: float | None = None
    ) -> _T:
        """
        Run a coroutine in the loop, and wait for what it returns.

        Whatever ends the waiting early cancels the coroutine.

        Args:
            coroutine: What to run.

            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            ConfigurationError: Called in the thread itself, which would wait for ever.
            TimeoutError: It was not done by then.
        """
        if self.is_here():
            coroutine.close()
            self.refuse_here()
        future = self.submit(coroutine)
        try:
            return wait(future, timeout)
        except BaseException:
            future.cancel()
            raise

    def call(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """
        Call a function in the loop's thread, and return what it returns.

        For what needs the running loop and does not wait.

        Raises:
            ConfigurationError: There can be no thread.
            TimeoutError: The thread is held up by something else.
        """
        if self.is_here():
            return function(*args, **kwargs)

        async def called() -> _T:
            return function(*args, **kwargs)

        return self.run(called(), timeout=_PATIENCE)

    def refuse_here(self) -> None:
        """
        Make sure that the caller may wait.

        Raises:
            ConfigurationError: It runs in the thread that it would wait for.
        """
        if self.is_here():
            raise ConfigurationError(
                f"This would block the thread {THREAD_NAME!r} that all uploads run in.",
                hint="Await the job there, or call this from another thread.",
            )

    def at_close(self, ending: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """
        Have something done in the loop before what still runs there is cancelled.

        Args:
            ending: A coroutine function; it gets 2 s, together with all others.
        """
        self._endings.append(ending)

    def close(self) -> None:
        """End everything that runs, with a time limit, and the thread."""
        with self._starting:
            self._over = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_all(self._endings), loop)
        thread.join(2 * (_GRACE + _CANCELLING))


def _run_loop(ready: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
    try:
        loop = asyncio.new_event_loop()
    except BaseException as error:
        ready.set_exception(error)
        raise
    asyncio.set_event_loop(loop)
    ready.set_result(loop)
    loop.run_forever()
    # A task that would not end keeps the loop: closing it would only make noise.
    if not asyncio.all_tasks(loop):
        loop.close()


async def _end_all(endings: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    loop = asyncio.get_running_loop()
    try:
        if endings:
            await _let_end([loop.create_task(ending()) for ending in endings])
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CANCELLING)
            if late:
                logger.warning("%d tasks did not end with the program.", len(late))
        await loop.shutdown_asyncgens()
    finally:
        loop.call_soon(loop.stop)


async def _let_end(endings: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(endings, timeout=_GRACE)
    for ending in done:
        if not ending.cancelled() and (error := ending.exception()) is not None:
            logger.error("Something did not end well.", exc_info=error)


bridge: Final = Bridge()
"""The one bridge of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=bridge.forget)
