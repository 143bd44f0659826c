"""A storage that counts and forgets: for measuring everything but the disk."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from upload_kit.models import ChunkMetadata
from upload_kit.server.config import Durability
from upload_kit.server.ledger import Usage
from upload_kit.server.storage import (
    UploadMissing,
    UploadMoved,
    UploadPublished,
    whole_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from upload_kit.server.storage import StoredUpload, UploadInfo

_T = TypeVar("_T")

# Records of published files and keys that are kept; older ones are forgotten.
_MAX_KEPT: Final = 10_000


class DiscardStorage:
    """A `Storage` that keeps records, in memory, and no bytes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._incoming: dict[str, DiscardUpload] = {}
        self._files: OrderedDict[str, DiscardUpload] = OrderedDict()
        self._keys: OrderedDict[str, str] = OrderedDict()

    @property
    def is_readable(self) -> bool:
        """Bytes are gone at once."""
        return False

    @property
    def durability(self) -> Durability:
        """Bytes survive nothing, but the weaker promise is the nearer one."""
        return Durability.PAGE_CACHE

    def create(self, info: UploadInfo, *, resumable: bool = True) -> DiscardUpload:
        """Begin an upload."""
        upload = DiscardUpload(self, info)
        if resumable:
            with self._guard:
                self._incoming[info.upload_id] = upload
        return upload

    def open(self, upload_id: str) -> DiscardUpload:
        """Open an upload, unfinished or published."""
        with self._guard:
            found = self._incoming.get(upload_id) or self._files.get(upload_id)
        if found is None:
            raise UploadMissing
        return found

    def find(self, key: str) -> str | None:
        """Return the published upload that `remember` was told of, or None."""
        with self._guard:
            upload_id = self._keys.get(key, "")
            return upload_id if upload_id in self._files else None

    def remember(self, key: str, upload_id: str) -> None:
        """Have `find` return this upload for the key, once it is published."""
        with self._guard:
            _keep(self._keys, key, upload_id)

    def scan(self, owner: str) -> Iterator[str]:
        """Yield the ID of every unfinished resumable upload of an owner."""
        with self._guard:
            uploads = list(self._incoming.values())
        yield from (u.info.upload_id for u in uploads if u.info.owner == owner)

    def expire(self, upload_id: str, before: float) -> int | None:
        """Remove an unfinished upload."""
        with self._guard:
            found = self._incoming.get(upload_id)
            if found is None or found.touched_at >= before:
                return None
            del self._incoming[upload_id]
        return found.info.size or 0

    def remains(self, before: float) -> Iterator[str]:
        """Yield the ID of everything unfinished that nothing was written to since."""
        with self._guard:
            uploads = list(self._incoming.values())
        yield from (u.info.upload_id for u in uploads if u.touched_at < before)

    def check(self) -> None:
        """Whatever comes can be thrown away."""

    def forget(self, before: float) -> None:
        """Keys are forgotten by their number, not by their age."""

    def usage(self, *, with_sizes: bool) -> Usage:
        """Count what there is."""
        usage = Usage()
        with self._guard:
            for upload in self._incoming.values():
                usage.add(upload.info.owner, upload.info.size or 0, 1)
        return usage

    def publish(self, upload: DiscardUpload) -> None:
        """Keep the record of an upload that is finished."""
        with self._guard:
            self._incoming.pop(upload.info.upload_id, None)
            _keep(self._files, upload.info.upload_id, upload)

    def is_published(self, upload_id: str) -> bool:
        """Return whether a finished upload has this ID."""
        with self._guard:
            return upload_id in self._files

    def remove(self, upload: DiscardUpload) -> None:
        """Forget an upload, but none that merely has the same ID."""
        upload_id = upload.info.upload_id
        with self._guard:
            for uploads in (self._incoming, self._files):
                if uploads.get(upload_id) is upload:
                    del uploads[upload_id]

    def holds(self, upload: DiscardUpload) -> bool:
        """Return whether an upload is still unfinished."""
        with self._guard:
            return self._incoming.get(upload.info.upload_id) is upload

    def close(self) -> None:
        """Nothing is held open."""


class DiscardUpload:
    """A `StoredUpload` that counts."""

    def __init__(self, storage: DiscardStorage, info: UploadInfo) -> None:
        self._storage = storage
        self._info = info
        self._chunks: dict[int, ChunkMetadata] = {}
        self._waiters: list[str] = []
        self._touched_at = info.created_at

    @property
    def info(self) -> UploadInfo:
        """What is known of it."""
        return self._info

    @property
    def chunks(self) -> Mapping[int, ChunkMetadata]:
        """Every acknowledged chunk."""
        return self._chunks

    @property
    def touched_at(self) -> float:
        """When a chunk was last acknowledged, or the upload began or was published."""
        return self._info.completed_at or self._touched_at

    def refresh(self) -> None:
        """See whether it was removed."""
        if self._info.completed_at is None and not self._storage.holds(self):
            raise UploadMoved

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Throw bytes away."""

    def acknowledge(self, chunk: ChunkMetadata) -> None:
        """Make a chunk count."""
        self._chunks.setdefault(chunk.index, chunk)
        self._touched_at = time.time()

    def extend(self, end: int) -> None:
        """Make every byte before `end` count."""
        known = self._chunks.get(0)
        self._chunks[0] = ChunkMetadata(
            index=0, start=0, size=max(end, 0 if known is None else known.size)
        )
        self._touched_at = time.time()

    def update(self, info: UploadInfo) -> None:
        """Replace what is known of it."""
        self._info = info

    def add_waiter(self, upload_id: str) -> None:
        """Remember that another upload waits for this one."""
        self._waiters.append(upload_id)

    def waiters(self) -> list[str]:
        """Return the IDs of the uploads that wait for this one."""
        return list(self._waiters)

    def copy(self, source: StoredUpload, offset: int, start: int, size: int) -> None:
        """Copy nothing: there is nothing."""

    def read(self, offset: int, size: int) -> bytes:
        """
        Refuse: the bytes are gone.

        Raises:
            OSError: Always.
        """
        raise OSError("a storage that discards has nothing to read")

    def finish(self, info: UploadInfo) -> UploadInfo:
        """Note that the file is complete."""
        if self._storage.is_published(info.upload_id):
            raise UploadPublished
        self._info = replace(info, stored_as=None)
        if not self._chunks:
            self._chunks[0] = whole_chunk(info)
        self._storage.publish(self)
        return self._info

    def discard(self) -> None:
        """Forget the upload."""
        self._storage.remove(self)

    def close(self) -> None:
        """Nothing is held open."""


def _keep(records: OrderedDict[str, _T], key: str, record: _T) -> None:
    """Remember one more, and forget the oldest if they are too many."""
    records[key] = record
    if len(records) > _MAX_KEPT:
        records.popitem(last=False)
