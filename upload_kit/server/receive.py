"""
From the wire to a thread: bodies are collected in batches, hashed and written there.

The loop only collects. While one batch is hashed and written, the next one arrives; no
piece is ever copied or joined.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

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
    Move a body into a sink, with one batch in the thread while the next is collected.

    No call of the sink runs any more when this returns, raises or is cancelled.

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
    loop = asyncio.get_running_loop()
    writing: asyncio.Future[None] | None = None
    try:
        while True:
            pieces, last = await body.batch()
            arrived(sum(map(len, pieces)))
            if writing is not None:
                await asyncio.shield(writing)
            if last:
                return await run(pool, sink.finish, pieces)
            writing = loop.run_in_executor(pool, sink.write, pieces)
    finally:
        if writing is not None and not writing.done():
            await _settle(writing)


async def _settle(future: asyncio.Future[_T]) -> None:
    """Wait for a thread's call to end; it ends soon, and cannot be stopped."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    future.exception()
