"""The threads in which files are read and digests computed, off the event loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Reading and hashing let go of the GIL, so more threads than cores only queue up; a few
# more keep a slow disk from holding up everything else.
_WORKERS: Final = min(32, (os.cpu_count() or 1) + 4)

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """Drop the pool in a forked child, where its threads do not exist."""
    global _pool  # noqa: PLW0603 (one pool a process is the point)
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def in_thread(
    function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
) -> asyncio.Future[_T]:
    """
    Run a blocking function in one of a few threads, and await what it returns.

    Cheaper than `asyncio.to_thread`: the context is not copied. Cancelling the future
    does not stop a function that already runs.
    """
    global _pool  # noqa: PLW0603 (one pool a process is the point)
    if _pool is None:
        _pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="upload_kit-files")
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(_pool, lambda: _run(function, *args, **kwargs))


def _run(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot hold one: whoever awaits it would wait for ever.
        raise RuntimeError("raised StopIteration") from error
