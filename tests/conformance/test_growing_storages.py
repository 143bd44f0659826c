"""One suite for every storage: uploads that grow, and those that are joined."""

from __future__ import annotations

import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.server.config import Durability
from upload_kit.server.discard import DiscardStorage
from upload_kit.server.extents import copy_all
from upload_kit.server.folder import FolderStorage
from upload_kit.server.storage import UploadInfo, UploadMissing, UploadMoved

if TYPE_CHECKING:
    from upload_kit.server.storage import Storage

DATA: Final = os.urandom(3 << 20)


def info(**more: object) -> UploadInfo:
    plain = UploadInfo(
        upload_id=secrets.token_hex(16),
        owner="ann",
        name="data.bin",
        size=None,
        chunk_size=1,
        grows=True,
        created_at=time.time(),
    )
    return replace(plain, **more)  # type: ignore[arg-type]  # a field by its name


class GrowingSuite:
    """What every storage does."""

    def test_what_counts_grows(self, storage: Storage) -> None:
        """However often it is said, an upload never gets shorter."""
        upload = storage.create(info())
        assert dict(upload.chunks) == {}
        for end, counts in ((3, 3), (5, 5), (4, 5), (5, 5)):
            upload.write(0, [b"hello"])
            upload.extend(end)
            assert upload.chunks[0].end == counts
        assert storage.open(upload.info.upload_id).chunks[0].end == 5

    def test_what_is_known_changes(self, storage: Storage) -> None:
        """Whoever has the upload open sees what somebody else noted of it."""
        upload = storage.create(info())
        other = storage.open(upload.info.upload_id)
        upload.update(replace(upload.info, size=5))
        other.refresh()
        assert other.info.size == 5
        assert other.info.completed_at is None

    def test_waiters_are_remembered(self, storage: Storage) -> None:
        """Everybody's, in the order in which they came."""
        upload = storage.create(info(is_part=True))
        assert upload.waiters() == []
        ids = [secrets.token_hex(16) for _ in range(20)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(upload.add_waiter, ids))
        assert sorted(storage.open(upload.info.upload_id).waiters()) == sorted(ids)

    def test_published_upload_is_discarded(self, storage: Storage) -> None:
        """It is gone for everybody, and may be discarded again."""
        upload = storage.create(info())
        upload.write(0, [b"hello"])
        upload.extend(5)
        upload.finish(replace(upload.info, size=5, completed_at=time.time()))
        published = storage.open(upload.info.upload_id)
        assert (published.info.size, published.chunks[0].end) == (5, 5)
        published.refresh()
        published.discard()
        published.discard()
        with pytest.raises(UploadMissing):
            storage.open(upload.info.upload_id)

    def test_bytes_are_copied_from_upload_to_upload(self, storage: Storage) -> None:
        """Ranges of others become ranges of this one."""
        part, whole = storage.create(info()), storage.create(info())
        part.write(0, [DATA])
        part.extend(len(DATA))
        whole.copy(part, 0, 100, 1000)
        whole.copy(part, 1000, 0, 500)
        whole.extend(1500)
        if storage.is_readable:
            assert whole.read(0, 1500) == DATA[100:1100] + DATA[:500]


class TestFolder(GrowingSuite):
    """Uploads in a folder."""

    @pytest.fixture(params=list(Durability))
    def storage(self, tmp_path: Path, request: pytest.FixtureRequest) -> Storage:
        return FolderStorage(tmp_path / "store", request.param)

    def test_removed_file_is_seen(self, storage: Storage) -> None:
        """A published upload that is gone says so when it is looked at."""
        upload = storage.create(info())
        upload.finish(replace(upload.info, size=0, completed_at=time.time()))
        one = storage.open(upload.info.upload_id)
        storage.open(upload.info.upload_id).discard()
        with pytest.raises(UploadMoved):
            one.refresh()

    def test_half_done_publishing_is_none(self, storage: Storage) -> None:
        """What a kill in the middle of publishing wrote is not taken for the whole."""
        upload = storage.create(info())
        other = storage.open(upload.info.upload_id)
        upload.update(replace(upload.info, size=5, completed_at=1.0, stored_as="x"))
        other.refresh()
        assert (other.info.size, other.info.completed_at) == (5, None)


class TestDiscard(GrowingSuite):
    """Uploads that are thrown away."""

    @pytest.fixture
    def storage(self) -> Storage:
        return DiscardStorage()


@given(
    start=st.integers(0, 2 << 20),
    offset=st.integers(0, 5000),
    size=st.integers(0, 1 << 20),
)
@pytest.mark.parametrize("place", ["same", "other"])
def test_ranges_are_copied_whole(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    place: str,
    start: int,
    offset: int,
    size: int,
) -> None:
    """Within a file system and from one to another, every byte is where it belongs."""
    here = tmp_path_factory.mktemp("copies")
    memory = Path("/dev/shm")
    there = memory if place == "other" and memory.is_dir() else here
    source, target = there / f"s-{secrets.token_hex(8)}", here / "target"
    source.write_bytes(DATA)
    try:
        with source.open("rb") as one, target.open("w+b") as two:
            fds = one.fileno(), two.fileno()
            copy_all(*fds, start=start, offset=offset, size=size)
            two.seek(offset)
            assert two.read() == DATA[start : start + size]
    finally:
        source.unlink()


def test_a_source_that_is_too_short_is_told(tmp_path: Path) -> None:
    """A range that ends too early is an error, and not silently less."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"hello")
    with (
        source.open("rb") as one,
        target.open("wb") as two,
        pytest.raises(OSError, match="shorter"),
    ):
        copy_all(one.fileno(), two.fileno(), start=0, offset=0, size=6)
