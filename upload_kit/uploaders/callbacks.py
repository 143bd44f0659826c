"""Progress callbacks: called beside the upload, never in its way."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from upload_kit.models import UploadProgress
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from upload_kit.progress.feeds import Feed

ProgressCallback = Callable[[UploadProgress], object]
"""
A function, called in a thread, or a coroutine function, called in the loop. Whatever
awaitable it returns is awaited in the loop.
"""

logger = logging.getLogger("upload_kit.uploaders")

# Seconds that a callback may lag behind the end of the upload before it is left.
_LAG: Final = 5.0
# Seconds that one that is left behind gets to end.
_GRACE: Final = 1.0


@asynccontextmanager
async def calling(
    callback: ProgressCallback | None, feed: Feed | None
) -> AsyncIterator[None]:
    """
    Call back with the progress of every event that comes through the feed.

    On leaving, the callback gets what is still in the feed, up to a time limit.

    Args:
        callback: None: nothing happens.

        feed: Closed on leaving.
    """
    if callback is None or feed is None:
        yield
        return
    reader = asyncio.create_task(_read(feed, callback))
    try:
        yield
    finally:
        feed.close()
        try:
            await asyncio.wait({reader}, timeout=_LAG)
        finally:
            await _leave_behind(reader)


async def _leave_behind(reader: asyncio.Task[None]) -> None:
    if not reader.done():
        logger.warning("A progress callback takes too long; it is left behind.")
        reader.cancel()
        await asyncio.wait({reader}, timeout=_GRACE)


async def _read(feed: Feed, callback: ProgressCallback) -> None:
    async for event in feed:
        try:
            await _call(callback, event.progress)
        except Exception:  # An upload must not fail because a callback does.
            logger.exception("A progress callback failed; it is not called again.")
            return


async def _call(callback: ProgressCallback, progress: UploadProgress) -> None:
    if inspect.iscoroutinefunction(callback):
        returned: object = callback(progress)
    else:
        returned = await in_thread(callback, progress)
    if inspect.isawaitable(returned):
        await returned
