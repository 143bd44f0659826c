"""Waiting in a thread, so that an interrupt comes through at once."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Final, TypeVar

_T = TypeVar("_T")

# Only if nobody waits longer than this in one go.
_SLICE: Final = 0.2


def wait(future: concurrent.futures.Future[_T], timeout: float | None = None) -> _T:
    """
    Wait for a future, and return its result.

    Args:
        future: What to wait for.

        timeout: Seconds; None for as long as it takes.

    Raises:
        TimeoutError: It was not done by then.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while not future.done():
        left = _SLICE if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"It was not done after {timeout} s.")
        concurrent.futures.wait((future,), timeout=min(_SLICE, left))
    return future.result()
