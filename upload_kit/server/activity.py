"""
What moves right now, so that others can watch it.

Watchers are told that something changed, never what: they look at the whole state when
they are ready for it. So a slow one sees fewer states, and holds nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from upload_kit.models import (
    Leg,
    Stage,
    StreamingProgress,
    UploadProgress,
    UploadResult,
    UploadStatus,
    Verification,
)
from upload_kit.server.documents import Snapshot, total_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upload_kit.events import EventKind
    from upload_kit.server.problems import UploadProblem

# Seconds over which the current rate is measured.
_WINDOW: Final = 3.0
_MARKS: Final = 64


class Activity:
    """What one upload does in this process."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.closed = False
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._moved = 0
        self._begun = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._begun, 0)], _MARKS)

    def changed(self) -> None:
        """Tell everybody who waits."""
        self._version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Tell everybody that there will be no more: the server stops."""
        self.closed = True
        self.changed()

    @contextmanager
    def receiving(self) -> Iterator[Counter]:
        """Count the bytes of one body while it comes; they are gone if it fails."""
        counter = Counter(self)
        try:
            yield counter
        finally:
            self.in_flight -= counter.size
            self.changed()

    async def wait(self, version: int, timeout: float) -> int:
        """Wait until the version is another one, or for some time; return it."""
        if self._version == version:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait([waiter], timeout=timeout)
            finally:
                self._waiters.discard(waiter)
        return self._version

    def arrived(self, size: int) -> None:
        """Count bytes that came."""
        self.in_flight += size
        self._moved += size
        now = time.monotonic()
        if now - self._marks[-1][0] > _WINDOW / _MARKS:
            self._marks.append((now, self._moved))
        self.changed()

    @property
    def elapsed(self) -> float:
        """Seconds since somebody took an interest."""
        return time.monotonic() - self._begun

    @property
    def average_rate(self) -> float:
        """Bytes a second since somebody took an interest."""
        return self._moved / self.elapsed if self._moved else 0.0

    @property
    def rate(self) -> float:
        """Bytes a second over the last few seconds."""
        now = time.monotonic()
        for at, moved in self._marks:
            if now - at <= _WINDOW:
                return (self._moved - moved) / max(now - at, 1e-3)
        return 0.0


class Counter:
    """Counts the bytes of one body."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self.size = 0

    def __call__(self, size: int) -> None:
        """Count some more."""
        self.size += size
        self._activity.arrived(size)


class Activities:
    """The activities of all uploads that somebody works on or watches."""

    def __init__(self) -> None:
        self._activities: dict[str, tuple[Activity, int]] = {}
        self._closed = False

    @contextmanager
    def of(self, upload_id: str) -> Iterator[Activity]:
        """Take an interest in an upload for as long as the context lasts."""
        activity, users = self._activities.get(upload_id, (None, 0))
        if activity is None:
            activity = Activity()
            activity.closed = self._closed
        self._activities[upload_id] = activity, users + 1
        try:
            yield activity
        finally:
            users = self._activities[upload_id][1] - 1
            if users:
                self._activities[upload_id] = activity, users
            else:
                del self._activities[upload_id]

    def changed(self, upload_id: str) -> None:
        """Tell those who watch an upload that something happened to it."""
        if (entry := self._activities.get(upload_id)) is not None:
            entry[0].changed()

    def close(self) -> None:
        """Send all watchers away: the server stops."""
        self._closed = True
        for activity, _users in self._activities.values():
            activity.close()


def streaming_progress(
    kind: EventKind,
    snapshot: Snapshot,
    activity: Activity,
    *,
    error: UploadProblem | None = None,
    leg: Leg | None = None,
) -> StreamingProgress:
    """
    Return one line of a stream about an upload.

    Args:
        kind: What happened.

        snapshot: How far the upload is.

        activity: What moves right now.

        error: Why it failed; None if it did not.

        leg: Which part of the way it is about, where there is more than one.
    """
    complete = snapshot.is_complete
    progress = _progress(snapshot, activity, failed=error is not None)
    return StreamingProgress(
        kind=kind.value,
        progress=progress,
        at=time.time(),
        leg=leg,
        error=None if error is None else str(error),
        result=_result(snapshot, activity, error) if complete or error else None,
    )


def _progress(
    snapshot: Snapshot, activity: Activity, *, failed: bool
) -> UploadProgress:
    info, confirmed = snapshot.info, snapshot.received_bytes
    sent = confirmed + max(0, activity.in_flight)
    if info.size is not None:
        # A chunk that comes a second time is on the wire, but not for the first time.
        sent = min(sent, max(confirmed, info.size))
    rate = activity.rate
    left = None if info.size is None or not rate else (info.size - sent) / rate
    stage, status = Stage.UPLOADING, UploadStatus.UPLOADING
    if failed:
        stage, status = Stage.FAILED, UploadStatus.FAILED
    elif snapshot.is_complete:
        stage, status, left = Stage.COMPLETE, UploadStatus.COMPLETE, 0.0
    return UploadProgress(
        transfer_id=info.upload_id,
        name=info.name,
        stage=stage,
        status=status,
        total=info.size,
        sent=sent,
        confirmed=confirmed,
        chunks_total=total_chunks(info),
        chunks_confirmed=len(snapshot.chunks),
        rate=rate,
        average_rate=activity.average_rate,
        elapsed=activity.elapsed,
        eta=left,
    )


def _result(
    snapshot: Snapshot, activity: Activity, error: UploadProblem | None
) -> UploadResult:
    info = snapshot.info
    if error is not None:
        return UploadResult(
            success=False,
            name=info.name,
            seconds=activity.elapsed,
            error=str(error),
            error_type=error.client_error,
            transfer_id=info.upload_id,
        )
    digests = Verification.SHA256 if info.sha256 else Verification.CHUNKS
    if info.grows and not info.sha256:
        digests = Verification.SIZE
    return UploadResult(
        success=True,
        name=info.name,
        location=f"upload/status/{info.upload_id}",
        size=info.size,
        sha256=info.sha256,
        verified=digests,
        chunks=tuple(snapshot.chunks[i] for i in sorted(snapshot.chunks)),
        seconds=activity.elapsed,
        bytes_sent=snapshot.received_bytes,
        transfer_id=info.upload_id,
    )
