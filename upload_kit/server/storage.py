"""
The port between incoming uploads and where their bytes are kept.

Every method may block and is called in a worker thread, those of one upload also in
several threads at once. What may be written when, and who may ask for it, is decided in
`core.py`; a storage only keeps what it is told to keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from upload_kit.models import ChunkMetadata
from upload_kit.records import Record
from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from upload_kit.server.config import Durability
    from upload_kit.server.ledger import Usage


class UploadMissing(UploadProblem):
    """The storage has no such upload; it was removed, or it never was."""

    def __init__(self) -> None:
        super().__init__(ProblemType.NOT_FOUND, "There is no such upload.")


class UploadPublished(Exception):
    """An upload of this ID stands there already; nothing was published in its place."""


class UploadMoved(UploadProblem):
    """The upload was published or removed since it was opened; open it again."""

    def __init__(self) -> None:
        super().__init__(ProblemType.NOT_FOUND, "The upload was finished or removed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadInfo(Record):
    """What is known of an upload besides its bytes."""

    upload_id: str
    """128 random bits in hexadecimal."""

    owner: str
    """Whose token began it; nobody else sees it."""

    name: str
    """The file's name, as its sender wrote it."""

    size: int | None
    """Bytes; None while it is not known."""

    chunk_size: int
    """Bytes of every chunk but the last."""

    content_type: str = "application/octet-stream"
    """MIME type."""

    metadata: dict[str, str] = field(default_factory=dict)
    """What its sender wants to be kept beside the bytes."""

    whole_digest: bool = False
    """Whether the digest of the whole file will be asked for."""

    grows: bool = False
    """Whether it grows at its end, instead of coming in chunks."""

    is_part: bool = False
    """Whether it is only there to be joined with others; it is never published."""

    joins: tuple[str, ...] = ()
    """IDs of the parts that it is joined from, in order; nothing else is added."""

    traits: dict[str, str] = field(default_factory=dict)
    """What the protocol that it came by remembers of it, and nobody else reads."""

    via: tuple[str, ...] = ()
    """IDs of the servers that it came through."""

    created_at: float = 0.0
    """When it began."""

    completed_at: float | None = None
    """When it was published; None before."""

    sha256: str | None = None
    """Digest of the whole file, where it was computed."""

    stored_as: str | None = None
    """Path below the storage, once published."""


def whole_chunk(info: UploadInfo) -> ChunkMetadata:
    """Return the one chunk of a file that came in one request."""
    return ChunkMetadata(index=0, start=0, size=info.size or 0, sha256=info.sha256)


class StoredUpload(Protocol):
    """One upload in a storage, open until it is closed."""

    @property
    def info(self) -> UploadInfo:
        """What is known of it; once published, with `completed_at`."""
        ...

    @property
    def chunks(self) -> Mapping[int, ChunkMetadata]:
        """Every acknowledged chunk as of the last `refresh`, in no order."""
        ...

    @property
    def touched_at(self) -> float:
        """When a chunk was last acknowledged, or the upload began or was published."""
        ...

    def refresh(self) -> None:
        """
        See what other processes acknowledged.

        Raises:
            UploadMoved: It was published or removed meanwhile.
        """
        ...

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """
        Put bytes where nothing is acknowledged yet; they do not count until then.

        Args:
            offset: Of the first byte, in the file.

            pieces: What follows from there, without gaps.
        """
        ...

    def acknowledge(self, chunk: ChunkMetadata) -> None:
        """
        Make a chunk count; once this returns it is as durable as is promised.

        May be called for different chunks at once, also by several processes.
        """
        ...

    def extend(self, end: int) -> None:
        """
        Make every byte before `end` count, in an upload that grows.

        Once this returns they are as durable as is promised. An end below what counts
        already changes nothing.
        """
        ...

    def update(self, info: UploadInfo) -> None:
        """
        Replace what is known of an unfinished upload; only where it is held.

        Args:
            info: With the same ID, owner and name.
        """
        ...

    def add_waiter(self, upload_id: str) -> None:
        """Remember that another upload waits for this one, whoever holds it."""
        ...

    def waiters(self) -> list[str]:
        """Return the IDs of the uploads that wait for this one, or did."""
        ...

    def copy(self, source: StoredUpload, offset: int, start: int, size: int) -> None:
        """
        Put bytes of another upload of this storage where nothing counts yet.

        Args:
            source: Where they are.

            offset: Of the first byte, in this upload.

            start: Of the first byte, in the other one.

            size: Bytes.
        """
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes that were written; fewer only at the end."""
        ...

    def finish(self, info: UploadInfo) -> UploadInfo:
        """
        Publish the file in one atomic step, and return where it stands.

        Args:
            info: With the final size, digest and time; `stored_as` is filled in.
        """
        ...

    def discard(self) -> None:
        """
        Remove the upload and its bytes, published or not.

        Nothing happens when it is gone.
        """
        ...

    def close(self) -> None:
        """Let go of open files; safe to call again."""
        ...


class Storage(Protocol):
    """Where uploads are kept."""

    @property
    def is_readable(self) -> bool:
        """Whether `StoredUpload.read` works."""
        ...

    @property
    def durability(self) -> Durability:
        """What an acknowledged chunk survives."""
        ...

    def create(self, info: UploadInfo, *, resumable: bool = True) -> StoredUpload:
        """
        Begin an upload.

        Args:
            info: Its `upload_id` must be new.

            resumable: False when all bytes come in one request: such an upload
                cannot be opened before it is finished, and costs less.
        """
        ...

    def open(self, upload_id: str) -> StoredUpload:
        """
        Open an upload, unfinished or published.

        Raises:
            UploadMissing: There is none.
        """
        ...

    def find(self, key: str) -> str | None:
        """Return the published upload that `remember` was told of, or None."""
        ...

    def remember(self, key: str, upload_id: str) -> None:
        """
        Have `find` return this upload for the key, from the moment it is published.

        Args:
            key: Hexadecimal digits; one that is known already is replaced.

            upload_id: An upload that is about to be finished.
        """
        ...

    def scan(self, owner: str) -> Iterator[str]:
        """Yield the ID of every unfinished resumable upload of an owner, unordered."""
        ...

    def expire(self, upload_id: str, before: float) -> int | None:
        """
        Remove an unfinished upload, or what is left of one.

        Args:
            upload_id: Which one.

            before: Only if nothing was written to it since, seconds since the epoch.

        Returns:
            The bytes that its removal made free; None if it was not removed.
        """
        ...

    def remains(self, before: float) -> Iterator[str]:
        """
        Yield the ID of everything unfinished that nothing was written to since.

        Args:
            before: Seconds since the epoch.
        """
        ...

    def check(self) -> None:
        """
        See whether anything can be stored now.

        Raises:
            OSError: It cannot.
        """
        ...

    def forget(self, before: float) -> None:
        """Let go of keys that `remember` was told of before then."""
        ...

    def usage(self, *, with_sizes: bool) -> Usage:
        """
        Count what there is.

        Args:
            with_sizes: Whether bytes are wanted, which takes longer.
        """
        ...

    def close(self) -> None:
        """Let go of everything; safe to call again."""
        ...
