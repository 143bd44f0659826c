"""
From the wire to a thread: bodies are collected in batches, hashed and written there.

The loop only collects. While one batch is hashed and written, the next ones arrive; no
piece is ever copied or joined.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from upload_kit.server.problems import UploadProblem

_T = TypeVar("_T")
_R_co = TypeVar("_R_co", covariant=True)


class Body(Protocol):
    """The bytes of one request, with every limit on their arrival."""

    @property
    def size(self) -> int | None:
        """Bytes announced; None when it shows only at the end."""
        ...

    async def batch(self) -> tuple[Sequence[bytes], bool]:
        """
        Return the pieces that come next, and whether they are the last.

        Raises:
            UploadProblem: They came too slowly, were too many, or `stop` was called.
            ConnectionError: The sender went away.
        """
        ...

    def stop(self, problem: UploadProblem) -> None:
        """Make `batch` raise the problem, at once and from now on."""
        ...


class Sink(Protocol[_R_co]):
    """What takes batches, in a thread, one after another."""

    def write(self, pieces: Sequence[bytes]) -> None:
        """Take the next pieces."""
        ...

    def finish(self, pieces: Sequence[bytes]) -> _R_co:
        """Take the last pieces and return what came of it all."""
        ...


async def run(pool: Executor, function: Callable[..., _T], /, *args: object) -> _T:
    """
    Run a blocking function in a thread and await its end, even when cancelled.

    Whatever guards the function's work must stay in force while it runs; so a
    cancellation is passed on only after it has ended.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, function, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _settle(future)
        raise


async def pump(
    body: Body, sink: Sink[_T], pool: Executor, arrived: Callable[[int], None]
) -> _T:
    """
    Move a body into a sink: while a thread takes one batch, the next ones come.

    No call of the sink runs any more when this returns, raises or is cancelled, and it
    got every batch that the body gave, unless it refused one.

    Args:
        body: Where bytes come from.

        sink: Where they go.

        pool: Threads for the sink.

        arrived: Told of the bytes of every batch.

    Returns:
        What the sink made of them.

    Raises:
        UploadProblem: The body or the sink refused.
        ConnectionError: The sender went away.
    """
    pieces, last = await body.batch()
    arrived(sum(map(len, pieces)))
    if last:
        # As with most small files: there is nothing to be done at the same time.
        return await run(pool, sink.finish, pieces)
    line = _Line(sink, pool)
    try:
        line.put(pieces, last=False)
        while not last:
            pieces, last = await body.batch()
            arrived(sum(map(len, pieces)))
            await line.room()
            line.put(pieces, last=last)
        return await line.outcome()
    finally:
        await line.settle()


class _Line(Generic[_T]):
    """
    Room for one batch between the loop and the thread that feeds a sink.

    The thread goes from batch to batch by itself: on a busy machine, the way back to
    the loop and on to a thread again may take as long as the batch did.

    Args:
        sink: Where batches go.

        pool: Has the thread.
    """

    def __init__(self, sink: Sink[_T], pool: Executor) -> None:
        self._sink = sink
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._guard = threading.Lock()
        self._next: tuple[Sequence[bytes], bool] | None = None
        self._is_taking = False
        self._is_awaited = False
        self._taken = asyncio.Event()
        self._work: asyncio.Future[_T | None] | None = None

    async def room(self) -> None:
        """
        Wait until another batch may be put.

        Raises:
            UploadProblem: The sink refused one.
        """
        while self._work is not None:
            if self._work.done():
                self._work.result()
            if not self._must_wait():
                return
            await self._taken.wait()

    def _must_wait(self) -> bool:
        with self._guard:
            self._taken.clear()
            self._is_awaited = self._next is not None
            return self._is_awaited

    def put(self, pieces: Sequence[bytes], *, last: bool) -> None:
        """Have the sink take a batch; there has to be room for it."""
        with self._guard:
            self._next = pieces, last
            if self._is_taking:
                return
            self._is_taking = True
        self._work = self._loop.run_in_executor(self._pool, self._take)
        self._work.add_done_callback(lambda _: self._taken.set())

    async def outcome(self) -> _T:
        """Return what the sink made of it all, after the last batch."""
        assert self._work is not None
        return cast("_T", await asyncio.shield(self._work))

    async def settle(self) -> None:
        """Wait until the sink has had every batch."""
        if self._work is not None:
            await _settle(self._work)

    def _take(self) -> _T | None:
        """Feed the sink until nothing is left, in a thread."""
        while True:
            with self._guard:
                batch, self._next = self._next, None
                self._is_taking = batch is not None
                is_awaited, self._is_awaited = self._is_awaited, False
            if batch is None:
                return None
            if is_awaited:
                self._loop.call_soon_threadsafe(self._taken.set)
            pieces, last = batch
            if last:
                return self._sink.finish(pieces)
            self._sink.write(pieces)


async def _settle(future: asyncio.Future[_T]) -> None:
    """Wait for a thread's call to end; it ends soon, and cannot be stopped."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    future.exception()
