"""
The records that users and stores hold: frozen, keyword-only.

Sizes are bytes, times are seconds since the epoch, durations are seconds, indexes
start at 0, ranges are `[start, end)`. Digests are lower-case hexadecimal SHA-256.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from upload_kit.errors import ConfigurationError, UploadCancelled
from upload_kit.frames import make_frame
from upload_kit.records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Layer(StrEnum):
    """The three layers, each extending the one before."""

    FOUNDATION = "foundation"
    FEATURE = "feature"
    POLISH = "polish"


class UploadStatus(StrEnum):
    """Where an upload stands, as a word for people."""

    PENDING = "pending"
    UPLOADING = "uploading"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it."""
        return self in {self.COMPLETE, self.FAILED, self.CANCELLED}


class Stage(StrEnum):
    """What an upload is doing; the first four always come in this order."""

    VALIDATING = "validating"
    PLANNING = "planning"
    UPLOADING = "uploading"
    VERIFYING = "verifying"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Leg(StrEnum):
    """Which part of the way a line is about, where a server sends files on."""

    RECEIVING = "receiving"
    """From the client to the server."""

    FORWARDING = "forwarding"
    """From the server to the destination behind it."""


class Verification(StrEnum):
    """How far the remote's bytes were compared with ours; the strongest one holds."""

    SHA256 = "sha256"
    """The remote's digest of the whole file equals ours."""

    CHUNKS = "chunks"
    """The remote checked a digest of every chunk before it took it."""

    SIZE = "size"
    """The remote holds as many bytes as we sent."""

    NONE = "none"
    """The remote says nothing that could be compared."""


def _check_part(index: int, size: int, sha256: str | None) -> None:
    """Check what chunks and receipts have in common; called for every chunk."""
    if index < 0:
        raise ConfigurationError(f"A chunk index cannot be negative: {index}.")
    if size < 0:
        raise ConfigurationError(f"A chunk size cannot be negative: {size}.")
    _check_sha256(sha256)


def _check_sha256(sha256: str | None) -> None:
    if sha256 is not None and _SHA256.fullmatch(sha256) is None:
        raise ConfigurationError(
            f"Not a SHA-256 in lower-case hexadecimal: {sha256!r}."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMetadata(Record):
    """One chunk of a source: which bytes, and their digest once they were read."""

    index: int
    """From 0, in the order of the source."""

    start: int
    """Offset of the first byte."""

    size: int
    """Bytes; 0 only for the single chunk of an empty source."""

    sha256: str | None = None
    """Digest of the bytes; None until they were read, or if the file's own will do."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_part(self.index, self.size, self.sha256)
        if self.start < 0:
            raise ConfigurationError(f"A chunk start cannot be negative: {self.start}.")

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Record):
    """What the remote says it holds of one chunk."""

    index: int
    """The chunk's index."""

    size: int
    """Bytes of the source that the remote holds for it."""

    sha256: str | None = None
    """Digest of those bytes, where it is known."""

    prefix_sha256: str | None = None
    """Digest of the source up to the chunk's end, where that was computed instead."""

    tag: str | None = None
    """What the remote wants to see again at the end, such as an S3 ETag."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_part(self.index, self.size, self.sha256)
        _check_sha256(self.prefix_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteObject(Record):
    """What stands at the destination once an upload is complete."""

    location: str
    """Where it is; holds no secret."""

    size: int | None = None
    """Bytes, as the remote says."""

    sha256: str | None = None
    """Digest of the whole object, as the remote says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity(Record):
    """What tells whether a file is still the same one, without reading it."""

    size: int
    """Bytes."""

    mtime_ns: int
    """Time of the last change, nanoseconds since the epoch."""

    inode: int = 0
    """The file's number on its file system; 0 where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSpec(Record):
    """What is to be uploaded, as a destination needs to know it."""

    name: str
    """File name; data, never a path on the other side."""

    size: int | None
    """Bytes; None when it shows only at the end."""

    content_type: str = "application/octet-stream"
    """MIME type."""

    metadata: dict[str, str] = field(default_factory=dict)
    """What the user wants to be kept beside the bytes."""

    overwrite: bool = True
    """False: refuse when something already stands at the destination."""

    whole_digest: bool = False
    """Whether `complete` will come with a digest of the whole file."""

    via: tuple[str, ...] = ()
    """IDs of the servers that it came through; see `upload_kit.via`."""

    has_session: bool = False
    """Whether a session remembers its token, so that the token must lead back to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress(Record):
    """The whole state of one upload at one moment."""

    transfer_id: str
    """Which upload."""

    name: str
    """Its file name."""

    stage: Stage = Stage.VALIDATING
    """What it is doing."""

    status: UploadStatus = UploadStatus.PENDING
    """Where it stands, as a word."""

    total: int | None = None
    """Bytes in all; None while it is not known."""

    sent: int = 0
    """Bytes handed to the wire and not taken back by a retry; at least `confirmed`."""

    confirmed: int = 0
    """Bytes that the remote acknowledged."""

    chunks_total: int | None = None
    """Chunks in all; None while it is not known."""

    chunks_confirmed: int = 0
    """Chunks that the remote acknowledged."""

    resumed: int = 0
    """Bytes, of those confirmed, that were there before this run."""

    rate: float = 0.0
    """Bytes a second now, over the last few seconds."""

    average_rate: float = 0.0
    """Bytes a second since the start, without those that were resumed."""

    elapsed: float = 0.0
    """Seconds since the start."""

    eta: float | None = None
    """Seconds left, estimated; None while it is not known."""

    retries: int = 0
    """Tries after the first, over all chunks."""

    @property
    def in_flight(self) -> int:
        """Bytes sent and not yet confirmed."""
        return self.sent - self.confirmed

    @property
    def fraction(self) -> float | None:
        """Confirmed share, 0 to 1; None while the total is not known."""
        if self.total is None:
            return None
        return self.confirmed / self.total if self.total else 1.0

    @property
    def percent(self) -> float | None:
        """Confirmed share in percent; None while the total is not known."""
        return None if self.fraction is None else 100 * self.fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadResult(Record):
    """How one upload ended."""

    success: bool
    """Whether everything arrived and was verified as far as `verified` says."""

    name: str
    """File name."""

    location: str | None = None
    """Where it is; None if it failed."""

    size: int | None = None
    """Bytes of the source; None if it failed before that was known."""

    sha256: str | None = None
    """Digest of the whole file; None where the layer computes none."""

    verified: Verification = Verification.NONE
    """How far the remote's bytes were compared with ours."""

    chunks: tuple[ChunkMetadata, ...] = ()
    """Every confirmed chunk, in order."""

    seconds: float = 0.0
    """From the start to the end."""

    bytes_sent: int = 0
    """Bytes on the wire, with retries and after compression."""

    bytes_resumed: int = 0
    """Bytes that were already there."""

    retries: int = 0
    """Tries after the first, over all chunks."""

    error: str | None = None
    """What went wrong and what to try, or that it was cancelled; None if nothing."""

    error_type: str | None = None
    """Class name of the error, as in `upload_kit.errors`."""

    session_id: str | None = None
    """The session to resume, where there is one."""

    transfer_id: str | None = None
    """The ID in events, logs and history."""

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody cancelled it, which is no failure."""
        return self.error_type == UploadCancelled.__name__

    @property
    def rate(self) -> float:
        """Bytes of the source that arrived a second, without those resumed."""
        arrived = (
            self.size if self.success else sum(chunk.size for chunk in self.chunks)
        )
        moved = (arrived or 0) - self.bytes_resumed
        return moved / self.seconds if self.seconds > 0 and moved > 0 else 0.0

    def chunks_frame(self) -> DataFrame:
        """
        Return the chunks as a DataFrame; needs pandas.

        Columns: `index`, `start` and `bytes` (Int64), `sha256` (string).
        """
        return make_frame("chunks_frame", self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001 (IPython calls it)
        """Write it for IPython: a line a field that says something."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        del told["chunks"]
        with printer.group(4, f"{type(self).__name__}("):
            for name, value in told.items():
                if value is not None:
                    printer.break_()
                    plain = str(value) if isinstance(value, str) else value
                    printer.text(f"{name}={plain!r},")
            printer.break_()
            printer.text(f"chunks=<{len(self.chunks)}>,")
        printer.break_()
        printer.text(")")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingProgress(Record):
    """One line of a live progress stream (NDJSON, server-sent events)."""

    kind: str
    """What happened: an `EventKind`, for example `confirmed` or `completed`."""

    progress: UploadProgress
    """The whole state after it."""

    at: float
    """When, seconds since the epoch."""

    chunk: int | None = None
    """The chunk it happened to."""

    leg: Leg | None = None
    """Which part of the way it is about, of a file that a server sends on."""

    error: str | None = None
    """The cause of a retry or a failure."""

    result: UploadResult | None = None
    """How the upload ended; on the last line only."""

    @property
    def is_final(self) -> bool:
        """Whether this is the last line."""
        return self.progress.status.is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSession(Record):
    """A half-done upload, as it is remembered across processes."""

    session_id: str
    """128 random bits in hexadecimal."""

    name: str
    """File name."""

    source: str | None
    """Absolute path of the source; None if it cannot be opened again."""

    destination: str
    """URL of the destination, without secrets."""

    size: int | None
    """Bytes of the source."""

    chunk_size: int
    """Bytes of every chunk but the last."""

    total_chunks: int | None
    """Chunks in all; None while the size is not known."""

    identity: SourceIdentity | None = None
    """What the source looked like when the session was made."""

    content_type: str = "application/octet-stream"
    """MIME type."""

    metadata: dict[str, str] = field(default_factory=dict)
    """What is kept beside the bytes at the destination."""

    remote_token: str | None = None
    """All that the destination needs to go on; a capability, so kept private."""

    status: UploadStatus = UploadStatus.PENDING
    """Where it stands."""

    stored: RemoteObject | None = None
    """What stands at the destination; None before the upload is complete."""

    verified: Verification = Verification.NONE
    """How far that was compared with the source."""

    created_at: float = 0.0
    """When it was made."""

    updated_at: float = 0.0
    """When something was last confirmed."""

    expires_at: float | None = None
    """When it is cleaned up; None for never."""

    lease_owner: str | None = None
    """The process that works on it now."""

    lease_until: float = 0.0
    """Until when that process may, unless it renews."""

    fence: int = 0
    """Counts the owners; a checkpoint with an older one is refused."""

    error: str | None = None
    """Why the last run ended, if it failed."""

    version: int = 0
    """Counts the changes, for compare and swap; the store sets it."""

    receipts: tuple[Receipt, ...] = ()
    """What the remote acknowledged, in any order."""

    def __post_init__(self) -> None:
        """Check what a store could have broken."""
        if self.chunk_size <= 0:
            raise ConfigurationError(f"Not a chunk size: {self.chunk_size}.")
        if self.size is not None and self.size < 0:
            raise ConfigurationError(f"A size cannot be negative: {self.size}.")

    @property
    def chunks_completed(self) -> int:
        """How many chunks the remote acknowledged."""
        return len(self.receipts)

    @property
    def bytes_completed(self) -> int:
        """How many bytes the remote acknowledged."""
        return sum(receipt.size for receipt in self.receipts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUploadTask(Record):
    """One file among many: its status and its last 100 updates."""

    task_id: str
    """Equals the transfer ID in its events."""

    name: str
    """File name."""

    status: UploadStatus = UploadStatus.PENDING
    """Where it stands."""

    progress: UploadProgress | None = None
    """The last state; None before the first event."""

    error: str | None = None
    """Why it failed."""

    updates: tuple[UploadProgress, ...] = ()
    """The last 100 states, oldest first."""
