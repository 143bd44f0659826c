"""A deadline that moves: it ends what is late, nothing else, and needs one timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from upload_kit.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def within(*steps: Callable[[Deadline], Awaitable[object] | None]) -> None:
    """Take steps, then wait for much longer than any test may take."""
    async with Deadline() as deadline:
        for step in steps:
            if (pause := step(deadline)) is not None:
                await pause
        await asyncio.sleep(30)


async def test_what_is_late_ends() -> None:
    """Without another step, the wait ends with a TimeoutError."""
    seen: list[Deadline] = []
    with pytest.raises(TimeoutError):
        await within(seen.append, lambda deadline: deadline.allow(0.01))
    assert seen[0].has_passed


async def test_steps_move_it() -> None:
    """A timer that fires before its time looks on, and ends nothing."""
    async with Deadline() as deadline:
        for _ in range(3):
            deadline.allow(0.02)
            deadline.allow(60)
            await asyncio.sleep(0.05)
    assert not deadline.has_passed


async def test_it_can_be_moved_back() -> None:
    """A shorter time counts at once, whatever the timer was set to."""
    with pytest.raises(TimeoutError):
        await within(
            lambda deadline: deadline.allow(60), lambda deadline: deadline.allow(0.01)
        )


async def test_no_limit() -> None:
    """Without a limit nothing ends, also when the timer of an old one fires."""
    async with Deadline() as deadline:
        deadline.allow(0.01)
        deadline.allow(None)
        deadline.extend(-1.0)
        await asyncio.sleep(0.05)
    assert not deadline.has_passed


async def test_limit_again() -> None:
    """After a time without a limit, a new one counts."""
    with pytest.raises(TimeoutError):
        await within(
            lambda deadline: deadline.allow(0.01),
            lambda deadline: deadline.allow(None),
            lambda _: asyncio.sleep(0.05),
            lambda deadline: deadline.allow(0.01),
        )


async def test_more_time() -> None:
    """What is added counts from the deadline, not from now."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(TimeoutError):
        await within(
            lambda deadline: deadline.allow(0.1), lambda deadline: deadline.extend(0.2)
        )
    assert loop.time() - begun >= 0.3


async def test_errors_pass() -> None:
    """What goes wrong within it is told as it is."""
    with pytest.raises(ZeroDivisionError):
        await within(
            lambda deadline: deadline.allow(60), lambda _: asyncio.sleep(1 // 0)
        )


async def test_cancellation_passes() -> None:
    """Whoever is cancelled within it was cancelled, not late."""
    waiting = asyncio.create_task(within(lambda deadline: deadline.allow(60)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_once_passed_it_stays_so() -> None:
    """A step after the end changes nothing, and nobody is ended twice."""
    seen: list[Deadline] = []
    with pytest.raises(TimeoutError):
        await within(seen.append, lambda deadline: deadline.allow(0.01))
    seen[0].allow(0.01)
    await asyncio.sleep(0.05)
    assert seen[0].has_passed


async def test_steps_need_no_timers() -> None:
    """Of a thousand steps, the loop has one timer to keep."""
    loop = asyncio.get_running_loop()
    async with Deadline() as deadline:
        timers = len(loop._scheduled)  # type: ignore[attr-defined]
        for _ in range(1000):
            deadline.allow(60)
        assert len(loop._scheduled) - timers <= 1  # type: ignore[attr-defined]
