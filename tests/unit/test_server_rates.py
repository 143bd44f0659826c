"""Limits on bytes and requests hold for each client, over all processes."""

from __future__ import annotations

import asyncio
import tempfile

import pytest

from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.rates import SHARED_SIZE, RateLimits


def admitted(limits: RateLimits, who: str, tries: int = 100) -> int:
    count = 0
    for _ in range(tries):
        try:
            limits.admit(who)
        except UploadProblem:
            break
        count += 1
    return count


def test_no_limit_is_no_limit() -> None:
    """Without limits nothing is counted."""
    limits = RateLimits()
    assert admitted(limits, "ann") == 100
    assert limits.pace("ann") is None


def test_requests_beyond_the_rate_are_refused() -> None:
    """A second's worth of requests may come at once, and hardly one more."""
    limits = RateLimits(requests_per_second=10)
    assert 10 <= admitted(limits, "ann") <= 12
    with pytest.raises(UploadProblem) as caught:
        list(map(limits.admit, ["ann"] * 3))
    assert caught.value.type is ProblemType.RATE_LIMITED
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 1
    limits.close()


def test_clients_do_not_count_for_one_another() -> None:
    """Whoever is loud silences nobody else."""
    limits = RateLimits(requests_per_second=5)
    for number in range(300):
        assert 5 <= admitted(limits, f"client-{number}") <= 6
    limits.close()


def test_processes_share_what_they_count() -> None:
    """Two workers together let through what one would."""
    with tempfile.TemporaryFile() as file:
        file.truncate(SHARED_SIZE)
        one = RateLimits(requests_per_second=10, fd=file.fileno())
        two = RateLimits(requests_per_second=10, fd=file.fileno())
        assert 10 <= admitted(one, "ann") <= 12
        assert admitted(two, "ann") <= 1
        one.close()
        two.close()


async def test_bytes_beyond_the_rate_wait() -> None:
    """After a second's worth of bytes, time passes as the rate says."""
    limits = RateLimits(bytes_per_second=1000)
    pace = limits.pace("ann")
    assert pace is not None
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(12):
        await pace(100)
    assert loop.time() - begun == pytest.approx(0.2, abs=0.15)
    limits.close()
