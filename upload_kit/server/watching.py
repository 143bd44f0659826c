"""Live progress: a line for every change that the reader had time for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind
from upload_kit.models import Leg, Stage, UploadStatus
from upload_kit.server.activity import Activity, streaming_progress
from upload_kit.server.documents import Snapshot
from upload_kit.server.problems import UploadProblem, as_problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from upload_kit.models import StreamingProgress
    from upload_kit.server.core import UploadCore
    from upload_kit.server.forward_lines import ForwardWatcher
    from upload_kit.server.parts import Parts
    from upload_kit.server.storage import UploadInfo

# Seconds between two lines at least: people read them, and charts draw them.
_PAUSE: Final = 0.1

# Seconds between two looks at what other processes took.
_LOOK: Final = 0.5

# Seconds without news until a line says that the stream is alive.
_ALIVE: Final = 15.0


class Watcher:
    """
    Watches uploads.

    Args:
        parts: What it works with.

        core: Knows how far uploads are.

        onward: Knows how far their forwards are; None if nothing is forwarded.
    """

    def __init__(
        self, parts: Parts, core: UploadCore, onward: ForwardWatcher | None
    ) -> None:
        self._parts = parts
        self._core = core
        self._onward = onward
        self._leg = _leg(onward)
        self._look = _LOOK if parts.config.workers > 1 else _ALIVE

    async def watch(
        self, owner: str, first: Snapshot
    ) -> AsyncGenerator[StreamingProgress | None, None]:
        """
        Yield a line now and at every change, until the upload or the server ends.

        Args:
            owner: Whose upload it is.

            first: How far it is.

        Yields:
            A line, or None when there is no news but the stream is alive.
        """
        upload_id = first.info.upload_id
        with self._parts.activities.of(upload_id) as activity:
            snapshot, kind, version, quiet = first, EventKind.STARTED, -1, 0.0
            seen: tuple[int, int] | None = None
            while not activity.closed:
                state = (len(snapshot.chunks), activity.in_flight)
                if snapshot.is_complete:
                    async for line in last_lines(snapshot, activity, self._onward):
                        yield line
                    return
                if state != seen:
                    yield streaming_progress(
                        _kind(kind, state, seen), snapshot, activity, leg=self._leg
                    )
                    seen, kind, quiet = state, EventKind.BYTES, time.monotonic()
                elif time.monotonic() - quiet > _ALIVE:
                    yield None
                    quiet = time.monotonic()
                await asyncio.sleep(_PAUSE)
                version = await activity.wait(version, self._look)
                try:
                    snapshot = await self._core.status(owner, upload_id)
                except UploadProblem as gone:
                    yield streaming_progress(
                        EventKind.FAILED,
                        snapshot,
                        activity,
                        error=gone,
                        leg=self._leg,
                    )
                    return


async def last_lines(
    snapshot: Snapshot, activity: Activity, onward: ForwardWatcher | None
) -> AsyncGenerator[StreamingProgress | None, None]:
    """
    Yield how an upload ended; where it is forwarded, all about that too.

    Args:
        snapshot: The upload, complete.

        activity: Counts its bytes.

        onward: Knows how far its forward is; None if it is not forwarded.
    """
    done = streaming_progress(EventKind.COMPLETED, snapshot, activity)
    if onward is None or not await onward.expects(snapshot):
        # It may have been received before anything was forwarded.
        yield done
        return
    # The stream is not at its end, so nothing in it may look like that.
    progress = replace(
        done.progress, stage=Stage.UPLOADING, status=UploadStatus.UPLOADING
    )
    yield replace(
        done,
        kind=EventKind.CONFIRMED.value,
        progress=progress,
        leg=Leg.RECEIVING,
        result=None,
    )
    async for line in onward.watch(snapshot):
        yield line


async def follow(
    info: UploadInfo,
    activity: Activity,
    storing: Awaitable[Snapshot],
    onward: ForwardWatcher | None,
) -> AsyncGenerator[StreamingProgress | None, None]:
    """
    Yield lines about a file in one request while it is stored, and how that ended.

    Where it is forwarded, that comes after it; who does not wait for that loses lines,
    and nothing else.

    Args:
        info: What is known of it.

        activity: Counts its bytes.

        storing: Ends with the file stored, or raises.

        onward: Knows how far its forward is; None if it is not forwarded.
    """
    task = asyncio.ensure_future(storing)
    task.add_done_callback(lambda _task: activity.changed())
    empty = Snapshot(info=info, chunks={}, touched_at=info.created_at)
    kind, version, leg = EventKind.STARTED, -1, _leg(onward)
    try:
        while not task.done():
            yield streaming_progress(kind, empty, activity, leg=leg)
            kind = EventKind.BYTES
            await asyncio.wait([task], timeout=_PAUSE)
            if not task.done():
                version = await activity.wait(version, _ALIVE)
        problem = _problem(task, info)
        if problem is not None:
            yield streaming_progress(
                EventKind.FAILED, empty, activity, error=problem, leg=leg
            )
            return
        async for line in last_lines(task.result(), activity, onward):
            yield line
    finally:
        # Whoever reads the lines went away, or the server stops: so does the file.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _problem(task: asyncio.Future[Snapshot], info: UploadInfo) -> UploadProblem | None:
    """Return why a file could not be stored; None if it was."""
    try:
        task.result()
    except (UploadProblem, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        return as_problem(error, f"storing {info.upload_id}")
    return None


def _leg(onward: ForwardWatcher | None) -> Leg | None:
    """Return what a line about receiving is tagged with, if there is more to come."""
    return None if onward is None else Leg.RECEIVING


def _kind(
    kind: EventKind, state: tuple[int, int], seen: tuple[int, int] | None
) -> EventKind:
    if seen is not None and state[0] != seen[0]:
        return EventKind.CONFIRMED
    return kind
