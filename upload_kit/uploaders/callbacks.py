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

    from upload_kit.progress import Feed

ProgressCallback = Callable[[UploadProgress], object]
"""A function, called in a thread, or a coroutine function, awaited in the loop."""

logger = logging.getLogger("upload_kit.uploaders")

# Seconds that a callback may lag behind the end of the upload before it is left.
_LAG: Final = 5.0


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
        _, late = await asyncio.wait({reader}, timeout=_LAG)
        if late:
            logger.warning("A progress callback takes too long; it is left behind.")
            reader.cancel()


async def _read(feed: Feed, callback: ProgressCallback) -> None:
    in_loop = inspect.iscoroutinefunction(callback)
    async for event in feed:
        try:
            if in_loop:
                await callback(event.progress)  # type: ignore[misc] # told apart above
            else:
                await in_thread(callback, event.progress)
        except Exception:  # An upload must not fail because a callback does.
            logger.exception("A progress callback failed; it is not called again.")
            return
