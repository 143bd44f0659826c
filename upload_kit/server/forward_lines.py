"""Live progress of the second leg: what was received, on its way to where it goes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind
from upload_kit.models import (
    Leg,
    Stage,
    StreamingProgress,
    UploadProgress,
    UploadResult,
    UploadStatus,
)
from upload_kit.server.forward_record import Forward, ForwardState
from upload_kit.server.storage import UploadMissing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from upload_kit.server.activity import Activity
    from upload_kit.server.documents import Snapshot
    from upload_kit.server.forward import Forwarder
    from upload_kit.server.parts import Parts

# Seconds between two lines at least: people read them, and charts draw them.
_PAUSE: Final = 0.1
# Seconds between two looks at what other processes forward.
_LOOK: Final = 0.5
# Seconds without news until a line says that the stream is alive.
_ALIVE: Final = 15.0

_GONE: Final = Forward(
    state=ForwardState.FAILED,
    error=str(UploadMissing()),
    error_type=UploadMissing().client_error,
)


class ForwardWatcher:
    """
    Watches forwards.

    Args:
        parts: What the server works with.

        forwarder: Knows how far they are.
    """

    def __init__(self, parts: Parts, forwarder: Forwarder) -> None:
        self._parts = parts
        self._forwarder = forwarder
        self._look = _LOOK if parts.config.workers > 1 else _ALIVE

    async def expects(self, snapshot: Snapshot) -> bool:
        """Return whether an upload is forwarded, or was."""
        forward, _progress = await self._forwarder.look(snapshot.info.upload_id)
        return forward is not None

    async def watch(
        self, snapshot: Snapshot
    ) -> AsyncGenerator[StreamingProgress | None, None]:
        """
        Yield a line now and at every change, until the forward or the server ends.

        It waits as long as the destination does not take the file, however long that
        is: for as long as somebody reads.

        Args:
            snapshot: The upload, complete.

        Yields:
            A line, or None when there is no news but the stream is alive.
        """
        upload_id = snapshot.info.upload_id
        with self._parts.activities.of(upload_id) as activity:
            version, told, quiet = -1, None, time.monotonic()
            known: UploadProgress | None = None
            while not activity.closed:
                forward, progress = await self._forwarder.look(upload_id)
                known = progress or known
                line = _line(snapshot, forward or _GONE, known, activity)
                if line.is_final:
                    yield line
                    return
                if told is None or _differ(told, line):
                    yield replace(line, kind=_kind(told, line))
                    told, quiet = line, time.monotonic()
                elif time.monotonic() - quiet > _ALIVE:
                    yield None
                    quiet = time.monotonic()
                await asyncio.sleep(_PAUSE)
                version = await activity.wait(version, self._look)


def _differ(told: StreamingProgress, line: StreamingProgress) -> bool:
    before, now = told.progress, line.progress
    return (told.error, before.stage, before.sent, before.confirmed) != (
        line.error,
        now.stage,
        now.sent,
        now.confirmed,
    )


def _kind(told: StreamingProgress | None, line: StreamingProgress) -> str:
    if line.error is not None:
        return EventKind.RETRYING.value
    if told is None:
        return EventKind.STARTED.value
    if line.progress.confirmed > told.progress.confirmed:
        return EventKind.CONFIRMED.value
    return EventKind.BYTES.value


def _line(
    snapshot: Snapshot,
    forward: Forward,
    progress: UploadProgress | None,
    activity: Activity,
) -> StreamingProgress:
    """Return what is known of a forward as a line."""
    kind, status, result = EventKind.BYTES, UploadStatus.UPLOADING, None
    if forward.state is ForwardState.COMPLETE:
        kind, status = EventKind.COMPLETED, UploadStatus.COMPLETE
        result = _arrived(snapshot, forward, activity)
    elif forward.state is ForwardState.FAILED:
        kind, status = EventKind.FAILED, UploadStatus.FAILED
        result = _failed(snapshot, forward, activity)
    return StreamingProgress(
        kind=kind.value,
        progress=_progress(snapshot, forward, progress, status),
        at=time.time(),
        leg=Leg.FORWARDING,
        error=forward.error,
        result=result,
    )


def _progress(
    snapshot: Snapshot,
    forward: Forward,
    progress: UploadProgress | None,
    status: UploadStatus,
) -> UploadProgress:
    info = snapshot.info
    if progress is None or forward.state is not ForwardState.FORWARDING:
        # Another process forwards it, or nobody does just now.
        base = progress or UploadProgress(transfer_id=info.upload_id, name=info.name)
        progress = replace(
            base,
            stage=Stage.UPLOADING,
            total=info.size,
            sent=forward.bytes,
            confirmed=forward.bytes,
            eta=0.0 if status is UploadStatus.COMPLETE else None,
        )
    stage = progress.stage
    if status.is_final:
        stage = Stage(status.value)
    elif progress.status.is_final:
        # It is there; that still has to be written down.
        stage = Stage.VERIFYING
    return replace(
        progress,
        transfer_id=info.upload_id,
        name=info.name,
        stage=stage,
        status=status,
    )


def _arrived(snapshot: Snapshot, forward: Forward, activity: Activity) -> UploadResult:
    info = snapshot.info
    return UploadResult(
        success=True,
        name=info.name,
        location=forward.location,
        size=info.size,
        sha256=forward.sha256 or info.sha256,
        verified=forward.verified,
        chunks=tuple(snapshot.chunks[i] for i in sorted(snapshot.chunks)),
        seconds=activity.elapsed,
        bytes_sent=forward.bytes,
        transfer_id=info.upload_id,
    )


def _failed(snapshot: Snapshot, forward: Forward, activity: Activity) -> UploadResult:
    info = snapshot.info
    return UploadResult(
        success=False,
        name=info.name,
        size=info.size,
        seconds=activity.elapsed,
        error=forward.error,
        error_type=forward.error_type,
        transfer_id=info.upload_id,
    )
