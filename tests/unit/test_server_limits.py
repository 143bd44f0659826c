"""Full disks, quotas, old uploads: nothing half-counted, nothing kept for ever."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.servers.upload import (
    RawConnection,
    UploadApi,
    digest_field,
    names_in,
    sha256,
    until,
    upload_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MIB = 1 << 20
CHUNK = 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_disk_is_full_in_mid_file(small_disk: Path) -> None:
    """A file that does not fit is refused, leaves nothing, and may come back later."""
    async with upload_server(small_disk) as api:
        reply = await api.foundation(bytes(3 * MIB))
        assert (reply.status, reply.problem) == (507, "disk-full")
        assert int(reply.headers["Retry-After"]) > 0
        assert str(small_disk) not in str(reply.body)
        assert names_in(small_disk / "incoming") == names_in(small_disk / "files") == []
        assert (await api.foundation(bytes(MIB))).status == 201


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_disk_is_full_in_mid_upload(small_disk: Path, durability: str) -> None:
    """What was acknowledged stays, what did not fit does not count, and space heals."""
    data = os.urandom(3 * MIB)
    async with upload_server(small_disk, durability=durability) as api:
        ballast = await api.begun(bytes(MIB), MIB)
        assert (await api.put(ballast, 0, bytes(MIB))).status == 200
        session_id = await api.begun(data, CHUNK)
        counted = []
        for index in range(len(data) // CHUNK):
            piece = data[index * CHUNK : (index + 1) * CHUNK]
            reply = await api.put(session_id, index, piece)
            if reply.status == 200:
                counted.append(index)
                continue
            assert (reply.status, reply.problem) == (507, "disk-full")
            break
        else:
            pytest.fail("3 MiB fit on a disk of 2 MiB")
        status = (await api.status(session_id, "?chunks=1")).body
        assert [chunk["index"] for chunk in status["chunks"]] == counted
        assert (await api.delete(ballast)).status == 204
        assert (await api.put(session_id, counted[-1] + 1, piece)).status == 200


def fill(folder: Path) -> None:
    """Leave no room on a file system."""
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_disk_is_too_full_to_begin(small_disk: Path) -> None:
    """Without any room nothing begins; what is there can still be thrown away."""
    async with upload_server(small_disk / "store") as api:
        session_id = await api.begun(bytes(CHUNK), CHUNK)
        assert (await api.put(session_id, 0, bytes(CHUNK))).status == 200
        fill(small_disk)
        reply = await api.begin(10)
        assert (reply.status, reply.problem) == (507, "disk-full")
    async with upload_server(small_disk / "store") as api:
        assert await api.sessions() == [session_id]
        assert (await api.delete(session_id)).status == 204
        assert (await api.begin(10)).status == 201


async def test_full_disk_is_not_ready(small_disk: Path) -> None:
    """Who asks whether the server can take uploads is told that it cannot."""
    async with upload_server(small_disk / "store") as api:
        assert (await api.call("GET", "readyz")).status == 200
        fill(small_disk)
        reply = await api.call("GET", "readyz")
        assert (reply.status, reply.problem) == (507, "disk-full")
        assert (await api.call("GET", "healthz")).status == 200


async def test_quota_counts_what_is_announced(tmp_path: Path) -> None:
    """Bytes are reserved when an upload begins, and given back when it ends."""
    async with upload_server(tmp_path, quota=10 * CHUNK) as api:
        first = await api.begun(bytes(6 * CHUNK), CHUNK)
        reply = await api.begin(5 * CHUNK)
        assert (reply.status, reply.problem) == (507, "disk-full")
        assert (await api.foundation(bytes(5 * CHUNK))).status == 507
        assert (await api.foundation(bytes(4 * CHUNK))).status == 201
        assert (await api.begin(1)).status == 507
        await api.delete(first)
        assert (await api.begin(6 * CHUNK)).status == 201
    assert len(names_in(tmp_path / "files")) == 1


async def test_quota_counts_what_was_not_announced(tmp_path: Path) -> None:
    """Without a size, bytes are reserved as they come, and given back if refused."""

    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(CHUNK)

    async with upload_server(tmp_path, quota=60 * CHUNK) as api:
        reply = await api.foundation(pieces(100))
        assert (reply.status, reply.problem) == (507, "disk-full")
        assert names_in(tmp_path / "incoming") == []
        assert (await api.foundation(pieces(54))).status == 201
        begun = await api.begin(None, chunk_size=2 * CHUNK)
        session_id = begun.body["session_id"]
        wrong = digest_field(b"other")
        for _ in range(5):
            bad = await api.put(session_id, 0, bytes(2 * CHUNK), Content_Digest=wrong)
            assert bad.problem == "digest-mismatch"
        for index in range(3):
            assert (await api.put(session_id, index, bytes(2 * CHUNK))).status == 200
        full = await api.put(session_id, 3, bytes(2 * CHUNK))
        assert (full.status, full.problem) == (507, "disk-full")
        await api.delete(session_id)
        assert (await api.foundation(bytes(6 * CHUNK))).status == 201


async def test_quota_is_counted_anew_at_the_start(tmp_path: Path) -> None:
    """What is in the folder counts, whatever the book says of it."""
    async with upload_server(tmp_path, quota=10 * CHUNK) as api:
        await api.begun(bytes(3 * CHUNK), CHUNK)
        assert (await api.foundation(bytes(3 * CHUNK))).status == 201
    (tmp_path / ".ledger").write_bytes(b"\x00garbage")
    async with upload_server(tmp_path, quota=10 * CHUNK) as api:
        assert (await api.begin(5 * CHUNK)).status == 507
        assert (await api.begin(4 * CHUNK)).status == 201


async def test_expired_upload_is_gone(tmp_path: Path) -> None:
    """Not continued in time, it is 410 until it is removed, and 404 after that."""
    async with upload_server(tmp_path, expires_after=0.5) as api:
        session_id = await api.begun(bytes(CHUNK), CHUNK)
        assert (await api.status(session_id)).status == 200
        await expired(api, session_id)
        for reply in (
            await api.status(session_id),
            await api.put(session_id, 0, bytes(CHUNK)),
            await api.complete(session_id),
            await api.begin(None, session_id=session_id),
        ):
            assert (reply.status, reply.problem) == (410, "expired")
        assert await api.sessions() == []
        reply = await api.call("POST", "upload/cleanup")
        assert reply.body == {"removed": 1, "bytes": CHUNK}
        assert (await api.status(session_id)).status == 404
        again = await api.call("POST", "upload/cleanup")
        assert again.body == {"removed": 0, "bytes": 0}
    assert names_in(tmp_path / "incoming") == []


async def expired(api: UploadApi, session_id: str) -> None:
    """Wait until an upload has expired."""
    async with asyncio.timeout(10):
        reply = await api.status(session_id)
        while reply.status != 410:
            await asyncio.sleep(0.05)
            reply = await api.status(session_id)


async def test_upload_that_goes_on_does_not_expire(tmp_path: Path) -> None:
    """Each chunk gives the upload its whole time anew; what is published has no end."""
    data = os.urandom(6 * 1000)
    async with upload_server(tmp_path, expires_after=1.5, cleanup_interval=0.1) as api:
        session_id = await api.begun(data, 1000)
        done = await api.foundation(b"for ever")
        for index in range(6):
            await asyncio.sleep(0.4)
            piece = data[index * 1000 : (index + 1) * 1000]
            assert (await api.put(session_id, index, piece)).status == 200
        assert (await api.complete(session_id, sha256=sha256(data))).status == 200
        assert (await api.status(done.body["session_id"])).status == 200


async def test_cleanup_comes_by_itself(tmp_path: Path) -> None:
    """Once an interval, what expired is removed, and its room is free again."""
    async with upload_server(
        tmp_path, expires_after=2.0, cleanup_interval=0.2, max_sessions=2, quota=CHUNK
    ) as api:
        for _ in range(2):
            await api.begun(bytes(1000), 1000)
        assert (await api.begin(1)).status == 429
        await until(lambda: names_in(tmp_path / "incoming") == [])
        assert (await api.begin(CHUNK)).status == 201


async def test_cleanup_leaves_alone_what_moves(tmp_path: Path) -> None:
    """A chunk on its way, however slow, keeps its upload."""
    data = os.urandom(CHUNK)
    async with (
        upload_server(tmp_path, expires_after=1.5, cleanup_interval=0.1) as api,
        RawConnection(str(api.session._base_url)) as slow,
    ):
        session_id = await api.begun(data, CHUNK)
        path = f"/upload/resumable/{session_id}/chunks/0"
        await slow.head("PUT", path, f"Content-Length: {CHUNK}")
        for start in range(0, CHUNK, 10_000):
            await slow.send(data[start : start + 10_000])
            await asyncio.sleep(0.25)
        assert (await slow.reply()).status == 200


async def test_cleanup_ends_what_hangs(tmp_path: Path) -> None:
    """A chunk that brings nothing for so long goes with its upload, and is told."""
    async with (
        upload_server(tmp_path, expires_after=0.5) as api,
        RawConnection(str(api.session._base_url)) as hanging,
    ):
        session_id = await api.begun(bytes(CHUNK), CHUNK)
        path = f"/upload/resumable/{session_id}/chunks/0"
        await hanging.head("PUT", path, f"Content-Length: {CHUNK}")
        await until((tmp_path / "incoming" / session_id / ".lock").exists)
        await expired(api, session_id)
        reply = await api.call("POST", "upload/cleanup")
        assert reply.body["removed"] == 1
        assert (await hanging.reply()).problem == "superseded"
    assert names_in(tmp_path / "incoming") == []
