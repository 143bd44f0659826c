"""Bodies go to their sinks in order, whole, and with little memory."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from upload_kit.server.hashing import hashed_beside
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.receive import pump
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PATIENCE: Final = 20.0
# A batch that the sink takes, one in line, and one that was collected meanwhile.
_AT_ONCE: Final = 3


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class ListBody:
    """A `Body` that has some batches, and then perhaps breaks off."""

    def __init__(self, batches: Sequence[bytes], *, breaks: bool = False) -> None:
        self._batches = batches
        self._breaks = breaks
        self.size = None
        self.given = 0

    async def batch(self) -> tuple[Sequence[bytes], bool]:
        await asyncio.sleep(0)
        if self._breaks and self.given == len(self._batches):
            raise ConnectionResetError
        self.given += 1
        is_last = self.given == len(self._batches) and not self._breaks
        return [self._batches[self.given - 1]], is_last

    def stop(self, problem: UploadProblem) -> None:
        raise problem


class ListSink:
    """A `Sink` that keeps what it gets, waits when told to, and refuses one batch."""

    def __init__(self, *, refuses: bytes | None = None) -> None:
        self._refuses = refuses
        self._alone = threading.Lock()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.got: list[bytes] = []

    def write(self, pieces: Sequence[bytes]) -> None:
        assert self._alone.acquire(blocking=False), "two calls at once"
        try:
            assert self.may_go_on.wait(_PATIENCE)
            if self._refuses in pieces:
                raise UploadProblem(ProblemType.TOO_LARGE, "That one is too large.")
            self.got += pieces
        finally:
            self._alone.release()

    def finish(self, pieces: Sequence[bytes]) -> bytes:
        self.write(pieces)
        return b"".join(self.got)


def _count(_size: int) -> None:
    """Nobody is interested."""


def _batches(count: int) -> list[bytes]:
    return [b"%d " % number for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 500])
async def test_everything_arrives_in_order(
    count: int, pool: ThreadPoolExecutor
) -> None:
    """A sink gets all batches, one after another, and says what became of them."""
    batches, sizes = _batches(count), list[int]()

    got = await pump(ListBody(batches), ListSink(), pool, sizes.append)

    assert got == b"".join(batches)
    assert sizes == [len(batch) for batch in batches]


async def test_a_slow_sink_bounds_what_is_held(pool: ThreadPoolExecutor) -> None:
    """A body is asked for no more than the next two batches while one is written."""
    body, sink = ListBody(_batches(10)), ListSink()
    sink.may_go_on.clear()

    pumping = asyncio.create_task(pump(body, sink, pool, _count))
    for _ in range(200):
        await asyncio.sleep(0.001)
    given = body.given
    sink.may_go_on.set()

    assert await pumping == b"".join(_batches(10))
    assert given == _AT_ONCE


async def test_what_came_before_a_break_is_taken(pool: ThreadPoolExecutor) -> None:
    """The sink has every batch of a body that broke off, before anybody hears of it."""
    sink = ListSink()
    sink.may_go_on.clear()
    threading.Timer(0.1, sink.may_go_on.set).start()

    with pytest.raises(ConnectionResetError):
        await pump(ListBody(_batches(3), breaks=True), sink, pool, _count)

    assert sink.got == _batches(3)


async def test_what_is_cancelled_leaves_no_call_behind(
    pool: ThreadPoolExecutor,
) -> None:
    """A cancelled request is not over before its sink is at rest."""
    sink = ListSink()
    sink.may_go_on.clear()
    pumping = asyncio.create_task(pump(ListBody(_batches(3)), sink, pool, _count))
    await asyncio.sleep(0.05)

    pumping.cancel()
    await asyncio.sleep(0.05)
    assert not pumping.done()
    sink.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await pumping

    got = list(sink.got)
    await asyncio.sleep(0.05)
    assert sink.got == got


@pytest.mark.parametrize("number", [0, 1, 5, 9])
async def test_a_refusal_ends_it(number: int, pool: ThreadPoolExecutor) -> None:
    """Once a sink refused a batch, it gets no other one."""
    batches = _batches(10)
    sink = ListSink(refuses=batches[number])

    with pytest.raises(UploadProblem, match="too large"):
        await pump(ListBody(batches), sink, pool, _count)

    assert sink.got == batches[:number]


@pytest.mark.parametrize("is_busy", [False, True], ids=["free", "busy"])
def test_a_digest_is_complete_with_its_context(
    *, is_busy: bool, pool: ThreadPoolExecutor
) -> None:
    """It is computed while something else is done, whoever has the time."""
    go_on = threading.Event()
    if is_busy:
        for _ in range(2):
            pool.submit(go_on.wait, _PATIENCE)
    digest, pieces = hashlib.sha256(), [b"a" * MIB, b"b" * MIB]

    with hashed_beside(pool, digest, pieces):
        pass
    go_on.set()

    assert digest.digest() == hashlib.sha256(b"".join(pieces)).digest()


def test_a_digest_does_not_hide_what_fails_beside(pool: ThreadPoolExecutor) -> None:
    """An error beside the hashing comes out, after the hashing has ended."""
    digest, piece = hashlib.sha256(), b"a" * MIB

    with pytest.raises(OSError, match="full"), hashed_beside(pool, digest, [piece]):
        raise OSError("full")

    assert digest.digest() == hashlib.sha256(piece).digest()
