"""The thread that does a store's blocking work, so that the event loop never does."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from upload_kit.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """
    Does blocking jobs one after the other, in the order they came.

    A thread of its own: the shared one is busy reading and hashing chunks, and SQLite
    wants a connection to stay in one thread. It may be used from several event loops.
    What was handed in before the interpreter ends is still done.

    Args:
        name: What the thread is called.
    """

    def __init__(self, name: str) -> None:
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
            SessionError: It was closed.
        """
        return await asyncio.wrap_future(self.submit(job, *args, **kwargs))

    def close(self) -> None:
        """Take no more jobs; those handed in are still done. Safe to call again."""
        self._executor.shutdown(wait=False)
