"""
When to try again: exponential backoff with full jitter, capped in count and in time.

The n-th wait is drawn evenly from 0 to `min(max_delay, base_delay * 2 ** (n - 1))`.
Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from upload_kit.errors import RemoteError, UploadKitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from upload_kit.config import RetryPolicy

_T = TypeVar("_T")


class RetryState:
    """
    Counts the failures of one piece of work and says how long to wait.

    Args:
        policy: The caps.

        attempts: Tries at most, where that is less than the policy has.

        uniform: Draws a number between two others.

        clock: Monotonic seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        attempts: int = sys.maxsize,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._attempts = min(policy.attempts, attempts)
        self._uniform = uniform
        self._clock = clock
        self._first_failure: float | None = None
        # Some errors have a cap of their own; what failed otherwise is not theirs.
        self._kinds: Counter[type[UploadKitError]] = Counter()
        self.failures = 0

    def wait_after(self, error: UploadKitError) -> float:
        """
        Return the seconds to wait before the next try.

        Args:
            error: Why the last try failed.

        Raises:
            UploadKitError: The same error, when another try is pointless or one too
                many.
        """
        if not error.retryable:
            raise error
        self.failures += 1
        now = self._clock()
        if self._first_failure is None:
            self._first_failure = now
        wait = self._wait(error)
        self._kinds[type(error)] += 1
        if (
            self.failures >= self._attempts
            or self._kinds[type(error)] >= (error.max_tries or sys.maxsize)
            or now + wait - self._first_failure > self._policy.max_elapsed
        ):
            raise error
        return wait

    def _wait(self, error: UploadKitError) -> float:
        """Draw the wait; a `Retry-After` is the least of it, or too long to obey."""
        ceiling = min(
            self._policy.max_delay,
            self._policy.base_delay * 2.0 ** min(self.failures - 1, 32),
        )
        drawn = self._uniform(0.0, ceiling)
        if not isinstance(error, RemoteError) or error.retry_after is None:
            return drawn
        if error.retry_after > self._policy.max_retry_after:
            raise error
        return error.retry_after + drawn


async def retrying(
    call: Callable[[], Awaitable[_T]],
    policy: RetryPolicy,
    *,
    attempts: int = sys.maxsize,
    tell: Callable[[UploadKitError, int, float], None] | None = None,
    passing: type[UploadKitError] | tuple[()] = (),
) -> _T:
    """
    Call until it works or the policy gives up.

    Args:
        call: Makes a new try.

        policy: The caps.

        attempts: Tries at most, where that is less than the policy has.

        tell: Called before each wait: the error, how many tries have failed, the
            seconds until the next one.

        passing: What is no reason to try again, whatever it says of itself.

    Raises:
        UploadKitError: The last try's error.
    """
    retry: RetryState | None = None
    while True:
        try:
            return await call()
        except passing:
            raise
        except UploadKitError as error:
            retry = retry or RetryState(policy, attempts=attempts)
            wait = retry.wait_after(error)
            if tell is not None:
                tell(error, retry.failures, wait)
        await asyncio.sleep(wait)
