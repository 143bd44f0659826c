"""When to try again, how long to wait before, and when to give up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.config import RetryPolicy
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    SourceChanged,
    TransferStalled,
    UploadKitError,
)
from upload_kit.retry import RetryState


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def longest(_low: float, high: float) -> float:
    """Draw the longest wait there is."""
    return high


def state(policy: RetryPolicy, clock: Clock | None = None) -> RetryState:
    return RetryState(policy, uniform=longest, clock=clock or Clock())


BUSY = RemoteUnavailable("Busy.")


def test_waits_double_up_to_the_longest() -> None:
    """Exponential backoff; jitter is drawn below it."""
    retry = state(RetryPolicy(base_delay=0.5, max_delay=5.0, attempts=9))
    waits = [retry.wait_after(BUSY) for _ in range(7)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


@given(base=st.floats(0, 10), most=st.floats(0, 100), failures=st.integers(1, 60))
def test_wait_is_drawn_evenly_from_zero(
    base: float, most: float, failures: int
) -> None:
    """Full jitter: between nothing and the ceiling, after any failure."""
    drawn: list[tuple[float, float]] = []

    def note(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    policy = RetryPolicy(base_delay=base, max_delay=most, attempts=100, max_elapsed=1e9)
    retry = RetryState(policy, uniform=note)
    waits = [retry.wait_after(BUSY) for _ in range(failures)]
    assert waits == [0.0] * failures
    assert all(low == 0.0 and high <= most for low, high in drawn)


def test_real_jitter_differs() -> None:
    """Two clients that failed together do not come back together."""
    policy = RetryPolicy(base_delay=10.0, max_delay=10.0)
    waits = {RetryState(policy).wait_after(BUSY) for _ in range(50)}
    assert len(waits) > 40
    assert all(0 <= wait <= 10 for wait in waits)


def test_tries_are_counted_with_the_first() -> None:
    """Three attempts are two waits, and then the error itself."""
    retry = state(RetryPolicy(attempts=3))
    retry.wait_after(BUSY)
    retry.wait_after(BUSY)
    with pytest.raises(RemoteUnavailable) as raised:
        retry.wait_after(BUSY)
    assert raised.value is BUSY


def test_one_attempt_is_no_retry() -> None:
    """The first failure is the last."""
    with pytest.raises(RemoteUnavailable):
        state(RetryPolicy(attempts=1)).wait_after(BUSY)


def test_time_is_capped_too() -> None:
    """A wait that would end too late is not begun."""
    clock = Clock()
    retry = state(RetryPolicy(attempts=99, max_elapsed=10.0, base_delay=1.0), clock)
    retry.wait_after(BUSY)
    clock.now += 8.5
    with pytest.raises(RemoteUnavailable):
        retry.wait_after(BUSY)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed("Who are you?"),
        ConfigurationError("No."),
        RemoteGone("Gone."),
        RemoteRejected("No."),
        SourceChanged("Changed."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_will_fail_again_is_not_tried_again(error: UploadKitError) -> None:
    """It is raised at once, whatever the policy."""
    with pytest.raises(type(error)):
        state(RetryPolicy(attempts=99)).wait_after(error)


@pytest.mark.parametrize(
    "error",
    [
        BUSY,
        OffsetConflict("Elsewhere."),
        TransferStalled("Stuck."),
        IntegrityError("X."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_is_tried_again(error: UploadKitError) -> None:
    """At least once."""
    assert state(RetryPolicy()).wait_after(error) == 0.5


def test_wrong_digest_is_tried_once_more_only() -> None:
    """The class's own cap is below the policy's."""
    retry = state(RetryPolicy(attempts=99))
    retry.wait_after(IntegrityError("Differs."))
    with pytest.raises(IntegrityError):
        retry.wait_after(IntegrityError("Differs."))


def test_other_failures_do_not_count_against_a_cap_of_its_own() -> None:
    """A server that was busy twice before has not sent wrong bytes yet."""
    retry = state(RetryPolicy(attempts=99))
    for _ in range(3):
        retry.wait_after(BUSY)
    retry.wait_after(IntegrityError("Differs."))
    retry.wait_after(BUSY)
    with pytest.raises(IntegrityError):
        retry.wait_after(IntegrityError("Differs."))


def test_wait_of_the_server_is_the_least() -> None:
    """`Retry-After` and then the jitter, so that not all come back in one moment."""
    retry = state(RetryPolicy(base_delay=0.5))
    assert retry.wait_after(RemoteUnavailable("Busy.", retry_after=7.0)) == 7.5


def test_too_long_a_wait_of_the_server_ends_the_upload() -> None:
    """Nobody sits before a cell for a day."""
    retry = state(RetryPolicy(max_retry_after=60.0, max_elapsed=1e9))
    assert retry.wait_after(RemoteUnavailable("Busy.", retry_after=60.0)) >= 60
    with pytest.raises(RemoteUnavailable):
        retry.wait_after(RemoteUnavailable("Busy.", retry_after=61.0))
