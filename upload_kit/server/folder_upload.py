"""One upload in a folder: its bytes, its journal, and how it is published."""

# Small files cost a dozen of these calls and little else, so paths are plain strings.
# ruff: noqa: PTH102, PTH104, PTH108, PTH123

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from upload_kit.models import ChunkMetadata
from upload_kit.server.extents import copy_all, write_all
from upload_kit.server.folder_files import (
    DATA,
    JOURNAL,
    LOCK,
    SAFELY,
    WAITERS,
    read_info,
    remove,
    sync_folder,
    write_info,
)
from upload_kit.server.journal import Journal
from upload_kit.server.names import safe_name
from upload_kit.server.storage import (
    UploadMissing,
    UploadMoved,
    UploadPublished,
    whole_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from upload_kit.server.folder_files import FolderUploadPaths
    from upload_kit.server.storage import StoredUpload, UploadInfo


class FolderUpload:
    """A `StoredUpload` in a folder; made by `create` or `open`."""

    def __init__(
        self,
        paths: FolderUploadPaths,
        info: UploadInfo,
        *,
        data: int | None,
        journal: Journal | None,
        durable: bool,
    ) -> None:
        self._paths = paths
        self._info = info
        self._name = safe_name(info.name)
        self._data = data
        self._journal = journal
        self._durable = durable
        self._chunks: dict[int, ChunkMetadata] = {}
        self._touched_at = info.created_at
        # Guards the journal and the chunks; held for microseconds, but for a sync.
        self._lock = threading.Lock()
        self._queue = threading.Lock()
        self._waiting: list[ChunkMetadata] = []

    @classmethod
    def create(
        cls,
        paths: FolderUploadPaths,
        info: UploadInfo,
        *,
        resumable: bool,
        durable: bool,
    ) -> Self:
        """Make the folder and what belongs in it."""
        folder = paths.incoming
        # Only what comes back later has to be found under a name that never changes.
        name = DATA if resumable else safe_name(info.name)
        os.mkdir(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFELY
        data = os.open(f"{folder}/{name}", flags, 0o666)
        upload = cls(paths, info, data=data, journal=None, durable=durable)
        if resumable:
            try:
                upload._make_resumable()
            except BaseException:
                upload.discard()
                raise
        return upload

    @classmethod
    def open(cls, paths: FolderUploadPaths, *, durable: bool) -> Self:
        """
        Open what `create` made, in this process or in another one.

        Raises:
            UploadMissing: There is none.
        """
        # An upload that is published between the two looks is in the second place.
        for place in (paths.incoming, paths.files, paths.incoming):
            info = read_info(place)
            if info is None:
                continue
            if place == paths.files:
                return cls._open_published(paths, info)
            with suppress(FileNotFoundError):
                return cls._open_incoming(paths, info, durable=durable)
        raise UploadMissing

    @classmethod
    def _open_incoming(
        cls, paths: FolderUploadPaths, info: UploadInfo, *, durable: bool
    ) -> Self:
        folder = paths.incoming
        info = replace(info, completed_at=None, stored_as=None)
        try:
            data = os.open(f"{folder}/{DATA}", os.O_RDWR | SAFELY)
        except FileNotFoundError:
            # Being published, or killed between the two renames of publishing.
            data = os.open(f"{folder}/{safe_name(info.name)}", os.O_RDWR | SAFELY)
        try:
            journal = Journal(f"{folder}/{JOURNAL}")
        except BaseException:
            os.close(data)
            raise
        upload = cls(paths, info, data=data, journal=journal, durable=durable)
        upload._load()
        return upload

    @classmethod
    def _open_published(cls, paths: FolderUploadPaths, info: UploadInfo) -> Self:
        upload = cls(paths, info, data=None, journal=None, durable=False)
        try:
            upload._journal = Journal(f"{paths.files}/{JOURNAL}")
        except FileNotFoundError:
            upload._chunks[0] = whole_chunk(info)
        else:
            upload._load()
            upload.close()
        return upload

    def _make_resumable(self) -> None:
        assert self._data is not None
        folder = self._paths.incoming
        if self._info.size:
            os.ftruncate(self._data, self._info.size)
        self._journal = Journal(f"{folder}/{JOURNAL}", create=True)
        write_info(folder, self._info, durable=self._durable)
        if self._durable:
            sync_folder(folder)
            sync_folder(f"{self._paths.root}/incoming")

    @property
    def info(self) -> UploadInfo:
        """What is known of it."""
        return self._info

    @property
    def chunks(self) -> Mapping[int, ChunkMetadata]:
        """Every acknowledged chunk as of the last `refresh`."""
        return self._chunks

    @property
    def touched_at(self) -> float:
        """When a chunk was last acknowledged, or the upload began or was published."""
        return self._info.completed_at or self._touched_at

    def refresh(self) -> None:
        """See what other processes acknowledged."""
        if self._data is None:
            if not Path(self._paths.files).exists():
                raise UploadMoved
            return
        inode = os.fstat(self._data).st_ino
        if inode not in (self._inode_of(DATA), self._inode_of(self._name)):
            raise UploadMoved
        with self._lock:
            if self._info.grows:
                self._read_info()
            self._load()

    def _read_info(self) -> None:
        """See what another process may have changed; a half-done publishing is none."""
        if (info := read_info(self._paths.incoming)) is not None:
            self._info = replace(info, completed_at=None, stored_as=None)

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Put bytes where nothing is acknowledged yet."""
        assert self._data is not None
        write_all(self._data, offset, pieces)

    def acknowledge(self, chunk: ChunkMetadata) -> None:
        """Make a chunk count, together with those that wait for the same."""
        with self._queue:
            self._waiting.append(chunk)
        with self._lock:
            with self._queue:
                group, self._waiting = self._waiting, []
            if chunk.index in self._chunks:
                # Whoever had the lock before committed it along; leave the rest alone.
                with self._queue:
                    self._waiting = group + self._waiting
                return
            if chunk not in group:
                # It was in a group that failed; nobody else answers for it.
                group.append(chunk)
            self._commit(group)

    def extend(self, end: int) -> None:
        """Make every byte before `end` count, in an upload that grows."""
        with self._lock:
            self._commit([ChunkMetadata(index=0, start=0, size=end)])

    def update(self, info: UploadInfo) -> None:
        """Replace what is known of an unfinished upload."""
        with self._lock:
            write_info(self._paths.incoming, info, durable=self._durable)
            if self._durable:
                sync_folder(self._paths.incoming)
            self._info = info

    def add_waiter(self, upload_id: str) -> None:
        """Remember that another upload waits for this one, in one atomic write."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | SAFELY
        fd = os.open(f"{self._paths.incoming}/{WAITERS}", flags, 0o600)
        try:
            os.write(fd, f"{upload_id}\n".encode())
            if self._durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def waiters(self) -> list[str]:
        """Return the IDs of the uploads that wait for this one, or did."""
        try:
            with open(f"{self._paths.incoming}/{WAITERS}", encoding="ascii") as file:
                return file.read().split()
        except FileNotFoundError:
            return []

    def copy(self, source: StoredUpload, offset: int, start: int, size: int) -> None:
        """Put bytes of another upload here; the system copies, or shares, them."""
        assert isinstance(source, FolderUpload)
        theirs = source._data  # noqa: SLF001 (another one of us)
        assert self._data is not None
        assert theirs is not None
        copy_all(theirs, self._data, start=start, offset=offset, size=size)

    def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes that were written."""
        assert self._data is not None
        return os.pread(self._data, size, offset)

    def finish(self, info: UploadInfo) -> UploadInfo:
        """Publish the file in one atomic step."""
        assert self._data is not None
        folder = self._paths.incoming
        info = replace(info, stored_as=f"files/{info.upload_id}/{self._name}")
        if self._journal is not None:
            self._settle(info)
        if self._durable:
            os.fsync(self._data)
        write_info(folder, info, durable=self._durable, new=self._journal is None)
        if self._durable:
            sync_folder(folder)
        try:
            os.rename(folder, self._paths.files)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise UploadPublished from error
            raise
        if self._durable:
            sync_folder(f"{self._paths.root}/files")
        if self._journal is not None:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._paths.files}/{LOCK}")
        self._info = info
        return info

    def discard(self) -> None:
        """Remove the upload and its bytes."""
        published = self._info.completed_at is not None
        remove(self._paths, self._paths.files if published else self._paths.incoming)
        self.close()

    def close(self) -> None:
        """Let go of open files."""
        data, self._data = self._data, None
        if data is not None:
            os.close(data)
        if self._journal is not None:
            self._journal.close()

    def _settle(self, info: UploadInfo) -> None:
        """Give the data its final size and name, if it has not got them yet."""
        assert self._data is not None
        assert info.size is not None
        folder, stat = self._paths.incoming, os.fstat(self._data)
        if stat.st_size != info.size:
            os.ftruncate(self._data, info.size)
        if stat.st_ino != self._inode_of(self._name):
            os.rename(f"{folder}/{DATA}", f"{folder}/{self._name}")

    def _inode_of(self, name: str) -> int:
        try:
            return os.lstat(f"{self._paths.incoming}/{name}").st_ino
        except FileNotFoundError:
            return 0

    def _load(self) -> None:
        assert self._journal is not None
        if chunks := self._journal.tail():
            for chunk in chunks:
                known = self._chunks.setdefault(chunk.index, chunk)
                # Of an upload that grows, each line says how far it is in all.
                if self._info.grows and chunk.size > known.size:
                    self._chunks[chunk.index] = chunk
            self._touched_at = max(self._touched_at, self._journal.modified_at())

    def _commit(self, group: Sequence[ChunkMetadata]) -> None:
        """Bytes first, then the lines that say they are there."""
        assert self._data is not None
        assert self._journal is not None
        if self._durable:
            os.fdatasync(self._data)
        self._journal.append(group)
        if self._durable:
            self._journal.sync()
        self._load()
