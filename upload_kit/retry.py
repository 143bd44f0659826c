"""
When to try again: exponential backoff with full jitter, capped in count and in time.

The n-th wait is drawn evenly from 0 to `min(max_delay, base_delay * 2 ** (n - 1))`.
Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from upload_kit.errors import RemoteError, UploadKitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from upload_kit.config import RetryPolicy


class RetryState:
    """
    Counts the failures of one piece of work and says how long to wait.

    Args:
        policy: The caps.

        uniform: Draws a number between two others.

        clock: Monotonic seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._uniform = uniform
        self._clock = clock
        self._first_failure: float | None = None
        # Some errors have a cap of their own; what failed otherwise is not theirs.
        self._kinds: Counter[type[UploadKitError]] = Counter()
        self.failures = 0

    def progressed(self) -> None:
        """Start counting anew: something moved, so the other side is alive."""
        self.failures = 0
        self._first_failure = None
        self._kinds.clear()

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
            self.failures >= self._policy.attempts
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
