"""The thread that does a store's blocking work, so that the event loop never does."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from upload_kit.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")

# Waits for a lock that a job may have before it: those of other jobs, and its own.
_TURNS: Final = 6


class Worker:
    """
    Does blocking jobs one after the other, in the order they came.

    A thread of its own: the shared one is busy reading and hashing chunks, and SQLite
    wants a connection to stay in one thread. It may be used from several event loops.
    What was handed in before the interpreter ends is still done.

    Args:
        name: What the thread is called.

        lock_timeout: Seconds that a job waits for a lock; for a disk it may take six
            times as long.
    """

    def __init__(self, name: str, *, lock_timeout: float) -> None:
        self._patience = _TURNS * lock_timeout
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def submit(
        self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """
        Hand in a job and return at once.

        Raises:
            SessionError: It was closed.
        """
        try:
            return self._executor.submit(job, *args, **kwargs)
        except RuntimeError as error:  # The only sign of a closed executor.
            raise SessionError("This store was closed.") from error

    async def run(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do a job and return what it returns.

        A job that has begun is ended even if the caller is cancelled.

        Raises:
            SessionError: It was closed, or the disk does not answer.
        """
        return await self.ended(self.submit(job, *args, **kwargs))

    async def ended(self, future: Future[T]) -> T:
        """
        Wait for a job that was handed in, and return what it returns.

        Raises:
            SessionError: The disk does not answer; the job goes on if it has begun.
        """
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=self._patience)
            if waiting.done():
                return waiting.result()
        finally:
            waiting.cancel()
        raise SessionError(
            f"The disk that sessions are on did not answer for {self._patience:g} s.",
            hint="Does it hang? Name another folder, or resume once it works.",
        )

    def close(self) -> None:
        """Take no more jobs; those handed in are still done. Safe to call again."""
        self._executor.shutdown(wait=False)
