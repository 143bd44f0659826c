"""Many uploads, a few at a time; one that fails stops no other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from upload_kit.batch import run_batch
from upload_kit.buffers import BufferPool
from upload_kit.config import TransferPolicy
from upload_kit.destinations.memory import memory_folder
from upload_kit.destinations.registry import make_destination
from upload_kit.engine.request import Shared, UploadRequest
from upload_kit.engine.run import Engine
from upload_kit.sources.factory import make_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.usefixtures("nothing_left")

COUNT: Final = 20
BUDGET: Final = 1_000_000


@pytest.fixture
def shared() -> Shared:
    return Shared(
        destination=make_destination("memory://batch/"),
        shown="memory://batch/",
        pool=BufferPool(BUDGET),
        slots=asyncio.Semaphore(2),
    )


def engine(shared: Shared, source: Any, name: str) -> Engine:
    policy = TransferPolicy(memory_budget=BUDGET)
    return Engine(make_source(source, name=name), UploadRequest(), policy, shared)


async def waiting(gate: asyncio.Event, data: bytes = b"1") -> AsyncIterator[bytes]:
    await gate.wait()
    yield data


async def failing() -> AsyncIterator[bytes]:
    raise OSError("no disk")
    yield b""


async def test_results_come_in_the_order_of_the_uploads(shared: Shared) -> None:
    """Though the first one ends last."""
    gate = asyncio.Event()
    engines = [engine(shared, waiting(gate), "0")]
    engines += [engine(shared, bytes(n), str(n)) for n in range(1, COUNT)]
    running = asyncio.create_task(run_batch(engines, at_once=4))
    while len(memory_folder("batch").objects) < COUNT - 1:  # noqa: ASYNC110 (it is a dictionary)
        await asyncio.sleep(0.001)
    gate.set()
    results = await running
    assert [result.name for result in results] == [str(n) for n in range(COUNT)]
    assert all(result.success for result in results)
    memory_folder("batch").objects.clear()


@pytest.mark.parametrize("at_once", [1, 3, COUNT + 5])
async def test_uploads_are_made_when_their_turns_come(
    shared: Shared, at_once: int
) -> None:
    """A generator of a million of them makes a few."""
    gate = asyncio.Event()
    made = []

    def engines() -> Iterator[Engine]:
        for number in range(COUNT):
            made.append(number)
            yield engine(shared, waiting(gate), str(number))

    running = asyncio.create_task(run_batch(engines(), at_once=at_once))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(made) == min(at_once, COUNT)
    gate.set()
    assert len(await running) == COUNT


async def test_one_that_fails_stops_no_other(shared: Shared) -> None:
    """Its result says why."""
    engines = [
        engine(shared, failing() if n % 3 == 0 else b"1", str(n)) for n in range(COUNT)
    ]
    results = await run_batch(engines, at_once=3)
    assert [result.success for result in results] == [n % 3 > 0 for n in range(COUNT)]
    assert {result.error_type for result in results} == {None, "SourceError"}


async def test_cancelling_cancels_them_all(shared: Shared) -> None:
    """Those under way end, and the others never begin."""
    gate = asyncio.Event()
    engines = [engine(shared, waiting(gate), str(n)) for n in range(COUNT)]
    running = asyncio.create_task(run_batch(engines, at_once=3))
    for _ in range(100):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    states = [each.state.status for each in engines]
    assert states == ["cancelled"] * 3 + ["pending"] * (COUNT - 3)


async def test_nothing_to_do() -> None:
    """No uploads are no results."""
    assert await run_batch([], at_once=3) == []
