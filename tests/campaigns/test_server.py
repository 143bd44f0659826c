"""What the campaigns found in the server: each case failed before it was mended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import aiohttp

from upload_kit.server.app import running_server
from upload_kit.server.config import Durability, ServerConfig


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_begun_uploads_hold_no_files_open(tmp_path: Path) -> None:
    """Whoever begins uploads and leaves them uses up no descriptors of the server."""
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)
    async with running_server(config) as server, aiohttp.ClientSession() as client:
        counts = []
        for _ in range(4):
            for _ in range(100):
                asked = {"name": "a.bin", "size": 1000, "chunk_size": 100}
                url = f"{server.url}upload/resumable"
                async with client.post(url, json=asked) as reply:
                    assert reply.status == 201
            counts.append(open_files())
    assert counts[-1] == counts[-2]


async def test_upload_that_was_killed_as_it_began_expires(tmp_path: Path) -> None:
    """A folder in which there is nothing yet goes with the first cleanup."""
    folder = tmp_path / "incoming" / ("0" * 32)
    config = ServerConfig(directory=tmp_path, port=0, expires_after=60.0)
    async with running_server(config) as server, aiohttp.ClientSession() as client:
        folder.mkdir()
        for age, stays in ((30, True), (90, False)):
            stamp = time.time() - age
            os.utime(folder, (stamp, stamp))
            async with client.post(f"{server.url}upload/cleanup") as reply:
                assert reply.status == 200
            assert folder.exists() is stays
