"""What happens in an upload, as flat records that every reader shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from upload_kit.models import StreamingProgress, UploadProgress, UploadResult
from upload_kit.records import Record


class EventKind(StrEnum):
    """What happened."""

    STARTED = "started"
    STAGE = "stage"
    PLANNED = "planned"
    BYTES = "bytes"
    CONFIRMED = "confirmed"
    RETRYING = "retrying"
    PAUSED = "paused"
    RESUMED = "resumed"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no event of this transfer comes after it."""
        return self in {self.COMPLETED, self.FAILED, self.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadEvent(Record):
    """
    One thing that happened in one upload.

    It carries the whole state after it, so that a late subscriber needs no history.
    """

    kind: EventKind
    """What happened."""

    transfer_id: str
    """In which upload."""

    seq: int
    """From 0, without gaps in one upload as it emits them."""

    at: float
    """When, seconds since the epoch."""

    progress: UploadProgress
    """The whole state after it."""

    chunk: int | None = None
    """The chunk it happened to."""

    attempt: int = 0
    """For a retry: how many tries have failed, from 1."""

    wait: float = 0.0
    """For a retry: seconds until the next try."""

    error: str | None = None
    """For a retry, a failure or a cancellation: the cause."""

    result: UploadResult | None = None
    """How the upload ended; on the final event only."""

    def to_streaming(self) -> StreamingProgress:
        """Return the line of a progress stream that tells of this event."""
        return StreamingProgress(
            kind=self.kind.value,
            progress=self.progress,
            at=self.at,
            chunk=self.chunk,
            error=self.error,
            result=self.result,
        )
