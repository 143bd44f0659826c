"""
One suite for every storage of the server.

A new storage is a subclass of `StorageSuite` and a `storage` fixture; one that keeps
bytes where others can read them adds `ReadableSuite`.
"""

from __future__ import annotations

import hashlib
import secrets
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.upload import names_in
from upload_kit.models import ChunkMetadata
from upload_kit.server.config import Durability
from upload_kit.server.discard import DiscardStorage
from upload_kit.server.folder import FolderStorage
from upload_kit.server.storage import (
    UploadInfo,
    UploadMissing,
    UploadMoved,
    UploadPublished,
)

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.server.storage import Storage, StoredUpload

CHUNK: Final = 1000
KEY: Final = "ab" * 32


def info(size: int | None = 3 * CHUNK, **more: object) -> UploadInfo:
    plain = UploadInfo(
        upload_id=secrets.token_hex(16),
        owner="ann",
        name="data.bin",
        size=size,
        chunk_size=CHUNK,
        created_at=time.time(),
    )
    return replace(plain, **more)  # type: ignore[arg-type]  # a field by its name


def data_of(index: int) -> bytes:
    return hashlib.shake_128(bytes([index])).digest(CHUNK)


def chunk_of(index: int) -> ChunkMetadata:
    digest = hashlib.sha256(data_of(index)).hexdigest()
    return ChunkMetadata(index=index, start=index * CHUNK, size=CHUNK, sha256=digest)


def put(upload: StoredUpload, *indexes: int) -> None:
    for index in indexes:
        data = data_of(index)
        upload.write(index * CHUNK, [data[:1], data[1:700], data[700:]])
        upload.acknowledge(chunk_of(index))


def finish(upload: StoredUpload, size: int = 3 * CHUNK) -> UploadInfo:
    final = replace(upload.info, size=size, completed_at=time.time(), sha256="0" * 64)
    return upload.finish(final)


class StorageSuite:
    """What every storage does."""

    def test_unfinished_upload_is_opened(self, storage: Storage) -> None:
        """What was acknowledged is there for whoever opens the upload, in any order."""
        upload = storage.create(info())
        put(upload, 2, 0)
        found = storage.open(upload.info.upload_id)
        assert found.info == upload.info
        assert dict(found.chunks) == {0: chunk_of(0), 2: chunk_of(2)}
        assert found.touched_at >= upload.info.created_at

    def test_upload_that_never_was(self, storage: Storage) -> None:
        """An ID that stands for nothing opens nothing."""
        with pytest.raises(UploadMissing):
            storage.open(secrets.token_hex(16))

    @pytest.mark.parametrize(
        "upload_id",
        ["", ".", "..", "../files", "a/b", "A" * 32, "0" * 31, "0" * 33, "\0" * 32],
    )
    def test_hostile_id_opens_nothing(self, storage: Storage, upload_id: str) -> None:
        """An ID is never a path."""
        with pytest.raises(UploadMissing):
            storage.open(upload_id)

    def test_finished_upload_is_published(self, storage: Storage) -> None:
        """After it is finished, it is opened as finished, with its chunks."""
        upload = storage.create(info())
        put(upload, 0, 1, 2)
        final = finish(upload)
        found = storage.open(final.upload_id)
        assert found.info == final
        assert found.info.completed_at
        assert sorted(found.chunks) == [0, 1, 2]
        assert list(storage.scan("ann")) == []

    def test_upload_in_one_piece(self, storage: Storage) -> None:
        """One that is not resumable shows only once it is finished, as one chunk."""
        upload = storage.create(info(None), resumable=False)
        upload.write(0, [b"hello"])
        with pytest.raises(UploadMissing):
            storage.open(upload.info.upload_id)
        assert list(storage.scan("ann")) == []
        final = finish(upload, 5)
        (chunk,) = storage.open(final.upload_id).chunks.values()
        assert (chunk.index, chunk.start, chunk.size) == (0, 0, 5)
        assert chunk.sha256 == final.sha256

    @pytest.mark.parametrize("resumable", [True, False])
    def test_empty_file(self, storage: Storage, *, resumable: bool) -> None:
        """A file without bytes is a file."""
        upload = storage.create(info(0), resumable=resumable)
        final = finish(upload, 0)
        assert storage.open(final.upload_id).info.size == 0

    def test_discarded_upload_is_gone(self, storage: Storage) -> None:
        """It is gone for everybody, and may be discarded again."""
        upload = storage.create(info())
        other = storage.open(upload.info.upload_id)
        put(upload, 0)
        upload.discard()
        upload.discard()
        with pytest.raises(UploadMissing):
            storage.open(upload.info.upload_id)
        with pytest.raises(UploadMoved):
            other.refresh()

    def test_others_are_told_what_was_acknowledged(self, storage: Storage) -> None:
        """Who has the upload open sees new chunks after a refresh."""
        upload = storage.create(info())
        other = storage.open(upload.info.upload_id)
        put(upload, 1)
        other.refresh()
        put(other, 0)
        upload.refresh()
        assert dict(upload.chunks) == dict(other.chunks)
        assert sorted(upload.chunks) == [0, 1]

    def test_others_are_told_that_it_is_finished(self, storage: Storage) -> None:
        """Who has the upload open finds out at the next refresh, and opens it again."""
        upload = storage.create(info())
        put(upload, 0, 1, 2)
        other = storage.open(upload.info.upload_id)
        finish(upload)
        try:
            other.refresh()
        except UploadMoved:
            other = storage.open(upload.info.upload_id)
        assert other.info.completed_at

    def test_many_threads_acknowledge_at_once(self, storage: Storage) -> None:
        """Chunks that end together all count, once each."""
        upload = storage.create(info(200 * CHUNK))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda index: put(upload, index), range(200)))
        assert sorted(upload.chunks) == list(range(200))
        assert len(storage.open(upload.info.upload_id).chunks) == 200

    def test_scan_finds_what_is_unfinished(self, storage: Storage) -> None:
        """Unfinished uploads of the owner who asks, and of nobody else."""
        mine = storage.create(info())
        storage.create(info(owner="bob"))
        done = storage.create(info(0))
        finish(done, 0)
        assert list(storage.scan("ann")) == [mine.info.upload_id]

    def test_first_of_one_id_counts(self, storage: Storage) -> None:
        """Of two files in one request with one ID, the one that is published stays."""
        facts = info(0)
        first = storage.create(facts, resumable=False)
        second = storage.create(facts, resumable=False)
        finish(first, 0)
        with pytest.raises(UploadPublished):
            finish(second, 0)
        second.discard()
        assert storage.open(facts.upload_id).info == first.info

    def test_key_finds_what_is_published(self, storage: Storage) -> None:
        """A key stands for its upload from the moment that it is published."""
        assert storage.find(KEY) is None
        upload = storage.create(info(0), resumable=False)
        storage.remember(KEY, upload.info.upload_id)
        assert storage.find(KEY) is None
        finish(upload, 0)
        assert storage.find(KEY) == upload.info.upload_id

    def test_key_is_used_again_after_a_failure(self, storage: Storage) -> None:
        """An upload that was never published leaves its key to the next one."""
        storage.remember(KEY, storage.create(info(0)).info.upload_id)
        upload = storage.create(info(0), resumable=False)
        storage.remember(KEY, upload.info.upload_id)
        finish(upload, 0)
        assert storage.find(KEY) == upload.info.upload_id

    def test_remains_are_what_nothing_came_for(self, storage: Storage) -> None:
        """Expired are uploads that are unfinished and untouched; others stay."""
        old = storage.create(info())
        put(old, 0)
        done = storage.create(info(0))
        finish(done, 0)
        before = time.time() + 60
        assert list(storage.remains(before)) == [old.info.upload_id]
        assert list(storage.remains(time.time() - 60)) == []
        assert storage.expire(old.info.upload_id, time.time() - 60) is None
        assert storage.expire(old.info.upload_id, before) == 3 * CHUNK
        assert storage.expire(old.info.upload_id, before) is None
        with pytest.raises(UploadMissing):
            storage.open(old.info.upload_id)
        assert storage.open(done.info.upload_id).info.completed_at

    def test_usage_counts_sessions(self, storage: Storage) -> None:
        """Unfinished uploads are counted by their owner."""
        for _ in range(3):
            storage.create(info())
        storage.create(info(owner="bob"))
        finish(storage.create(info(0)), 0)
        assert storage.usage(with_sizes=False).sessions == {"ann": 3, "bob": 1}

    def test_checks_of_health(self, storage: Storage) -> None:
        """A storage that works says so."""
        storage.check()


class ReadableSuite(StorageSuite):
    """What a storage does that keeps bytes."""

    def test_bytes_are_read_back(self, storage: Storage) -> None:
        """What was written is read, also before it counts; beyond it is nothing."""
        upload = storage.create(info())
        put(upload, 1)
        assert upload.read(CHUNK, CHUNK) == data_of(1)
        assert upload.read(CHUNK + 10, 5) == data_of(1)[10:15]
        assert upload.read(3 * CHUNK, 10) == b""

    def test_thousands_of_pieces(self, storage: Storage) -> None:
        """More pieces than the system takes in one call are all written."""
        upload = storage.create(info(5000))
        data = secrets.token_bytes(5000)
        upload.write(0, [data[i : i + 1] for i in range(5000)])
        assert upload.read(0, 5000) == data

    def test_usage_counts_bytes(self, storage: Storage) -> None:
        """Announced bytes count as much as stored ones."""
        storage.create(info(500))
        upload = storage.create(info(None), resumable=False)
        upload.write(0, [bytes(70)])
        finish(upload, 70)
        assert storage.usage(with_sizes=True).size == 570


class TestDiscardStorage(StorageSuite):
    """Counts and forgets."""

    @pytest.fixture
    def storage(self) -> DiscardStorage:
        return DiscardStorage()

    def test_reading_is_refused(self, storage: DiscardStorage) -> None:
        """It says that it cannot be read, rather than give back something else."""
        assert not storage.is_readable
        with pytest.raises(OSError, match="discards"):
            storage.create(info()).read(0, 1)

    def test_memory_is_bounded(self, storage: DiscardStorage) -> None:
        """Records of published files are kept for a while, not for ever."""
        first = finish(storage.create(info(0), resumable=False), 0)
        for _ in range(10_000):
            finish(storage.create(info(0), resumable=False), 0)
        with pytest.raises(UploadMissing):
            storage.open(first.upload_id)


class FolderSuite(ReadableSuite):
    """What is particular about a folder."""

    durability: Durability

    @pytest.fixture
    def storage(self, tmp_path: Path) -> FolderStorage:
        return FolderStorage(tmp_path / "store", self.durability)

    def test_published_file_is_where_it_says(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """The file stands alone under its safe name, with exactly its bytes."""
        upload = storage.create(info(name="../ü?.bin"))
        put(upload, 2, 1, 0)
        final = finish(upload)
        assert final.stored_as == f"files/{final.upload_id}/_ü_.bin"
        path = tmp_path / "store" / final.stored_as
        assert path.read_bytes() == b"".join(map(data_of, range(3)))
        visible = [n for n in names_in(path.parent) if not n.startswith(".")]
        assert visible == [path.name]
        assert names_in(tmp_path / "store" / "incoming") == []

    @pytest.mark.parametrize("name", ["data.part", ".info.json", ".journal", ".lock"])
    def test_names_of_our_own_files(self, storage: FolderStorage, name: str) -> None:
        """A file may be called like one of ours, and disturbs nothing."""
        for resumable in (True, False):
            upload = storage.create(info(5, name=name), resumable=resumable)
            upload.write(0, [b"12345"])
            final = finish(upload, 5)
            assert storage.open(final.upload_id).info == final

    def test_nothing_is_published_before_its_time(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """Until it is finished, nothing of it is below `files`."""
        upload = storage.create(info())
        put(upload, 0, 1, 2)
        storage.create(info(None), resumable=False).write(0, [b"half"])
        assert names_in(tmp_path / "store" / "files") == []

    def test_others_see_nothing(self, storage: FolderStorage, tmp_path: Path) -> None:
        """What arrives, and what is known of it, is for the server's user only."""
        upload = storage.create(info())
        final = finish(upload)
        store = tmp_path / "store"
        for path in (store, store / "incoming", store / "keys"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        sidecar = store / "files" / final.upload_id / ".info.json"
        assert stat.S_IMODE(sidecar.stat().st_mode) == 0o600

    def test_killed_while_publishing(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """With the final name inside its folder already, it is still an upload."""
        upload = storage.create(info(name="x.bin"))
        put(upload, 0, 1, 2)
        folder = tmp_path / "store" / "incoming" / upload.info.upload_id
        (folder / "data.part").rename(folder / "x.bin")
        found = storage.open(upload.info.upload_id)
        found.refresh()
        assert found.info.completed_at is None
        assert found.read(CHUNK, CHUNK) == data_of(1)
        final = finish(found)
        assert final.stored_as
        assert (tmp_path / "store" / final.stored_as).stat().st_size == 3 * CHUNK

    def test_killed_while_removing(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """A removal that was cut off is no upload, and is ended by the next cleanup."""
        upload = storage.create(info())
        incoming = tmp_path / "store" / "incoming"
        trash = incoming / f".gone-{upload.info.upload_id}"
        (incoming / upload.info.upload_id).rename(trash)
        assert list(storage.scan("ann")) == []
        storage.forget(0)
        assert not trash.exists()

    def test_remains_of_one_request(self, storage: FolderStorage) -> None:
        """What a killed process left of a file in one request is removed in time."""
        upload = storage.create(info(None), resumable=False)
        upload.write(0, [b"half"])
        upload.close()
        before = time.time() + 60
        [left] = storage.remains(before)
        assert storage.expire(left, before) == 4
        assert list(storage.remains(before)) == []

    def test_old_keys_are_forgotten(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """Keys do not pile up."""
        storage.remember(KEY, "0" * 32)
        storage.forget(time.time() - 60)
        assert names_in(tmp_path / "store" / "keys") == [KEY]
        storage.forget(time.time() + 60)
        assert names_in(tmp_path / "store" / "keys") == []

    def test_links_are_not_followed(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """A link in the place of the data leads nowhere."""
        upload = storage.create(info())
        folder = tmp_path / "store" / "incoming" / upload.info.upload_id
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        (folder / "data.part").unlink()
        (folder / "data.part").symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            storage.open(upload.info.upload_id)
        with pytest.raises(UploadMoved):
            upload.refresh()
        assert victim.read_bytes() == b"precious"

    def test_strangers_in_the_folder(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """Whatever else lies around there is left alone."""
        for place in ("incoming", "files"):
            (tmp_path / "store" / place / "README").write_text("mine")
            (tmp_path / "store" / place / "folder").mkdir()
        assert list(storage.scan("ann")) == []
        assert list(storage.remains(time.time() + 60)) == []
        assert storage.usage(with_sizes=True).size == 0

    def test_broken_info_is_no_upload(
        self, storage: FolderStorage, tmp_path: Path
    ) -> None:
        """What a power cut left of an info is removed in its time."""
        upload = storage.create(info())
        folder = tmp_path / "store" / "incoming" / upload.info.upload_id
        (folder / ".info.json").write_bytes(bytes(100))
        with pytest.raises(UploadMissing):
            storage.open(upload.info.upload_id)
        assert list(storage.remains(time.time() + 60)) == [upload.info.upload_id]


class TestFolderWithFsync(FolderSuite):
    """Survives loss of power."""

    durability = Durability.FSYNC


class TestFolderInPageCache(FolderSuite):
    """Survives the death of the server."""

    durability = Durability.PAGE_CACHE
