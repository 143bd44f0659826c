"""A store that another process holds, or whose disk hangs, ends nobody's patience."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from upload_kit.config import RetryPolicy
from upload_kit.errors import SessionError
from upload_kit.models import UploadSession
from upload_kit.sessions.json_files import JsonFileStore
from upload_kit.sessions.manager import SessionManager
from upload_kit.sessions.sqlite import SqliteStore
from upload_kit.uploaders.keeper import Keeper
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_LIMIT: Final = 0.2
_PATIENCE: Final = 20.0
_CHUNK: Final = 300_000
_ID: Final = "0123456789abcdef0123456789abcdef"

_FLOCK: Final = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
_TRANSACTION: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def another_process(script: str, path: Path) -> AsyncIterator[None]:
    """Have another process hold a file until the context ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE):
            assert await process.stdout.readline() == b"held\n"
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def session() -> UploadSession:
    return UploadSession(
        session_id=_ID,
        name="a",
        source=None,
        destination="memory://",
        size=1,
        chunk_size=1,
        total_chunks=1,
    )


def store_in(folder: Path, kind: str) -> JsonFileStore | SqliteStore:
    if kind == "json":
        return JsonFileStore(folder, lock_timeout=_LIMIT)
    return SqliteStore(folder / "s.db", lock_timeout=_LIMIT)


@pytest.mark.parametrize(
    ("kind", "script", "held"),
    [
        pytest.param("json", _FLOCK, ".lock", id="folder"),
        pytest.param("sqlite", _TRANSACTION, "s.db", id="database"),
        pytest.param("sqlite", _FLOCK, "s.db.lock", id="opening-a-database"),
    ],
)
async def test_store_that_another_process_holds(
    tmp_path: Path, kind: str, script: str, held: str
) -> None:
    """Whoever needs it is told, and by then nothing is broken."""
    async with asyncio.timeout(_PATIENCE), aclosing(store_in(tmp_path, kind)) as store:
        version = await store.put(session(), expected=None)
        async with (
            another_process(script, tmp_path / held),
            aclosing(store_in(tmp_path, kind)) as late,
        ):
            with pytest.raises(SessionError, match=r"held|locked"):
                await late.put(session(), expected=version)
        assert await store.put(session(), expected=version) == version + 1


async def test_sessions_on_a_disk_that_hangs(tmp_path: Path) -> None:
    """Reading a session has a limit; later ones are read once the disk works again."""
    # Opening a FIFO waits for its other end, as opening a file waits for a dead disk.
    fifo = tmp_path / f"{_ID}.json"
    os.mkfifo(fifo)
    async with aclosing(JsonFileStore(tmp_path, lock_timeout=_LIMIT / 6)) as store:
        try:
            async with asyncio.timeout(_PATIENCE):
                with pytest.raises(SessionError, match="did not answer"):
                    await store.get(_ID)
        finally:
            os.close(os.open(fifo, os.O_RDWR))
        async with asyncio.timeout(_PATIENCE):
            assert await store.get("f" * 32) is None


async def test_upload_whose_sessions_are_held(tmp_path: Path) -> None:
    """It ends with the session to go on with, and goes on where it was."""
    path, place = tmp_path / "big.bin", tmp_path / "s.db"
    path.write_bytes(random.Random(2).randbytes(8 * _CHUNK))

    def keeper(shown: str) -> Keeper:
        store = SqliteStore(place, lock_timeout=_LIMIT)
        # What could not be given back is free again when its lease runs out.
        return Keeper(SessionManager(store, lease_seconds=2 * _LIMIT), shown)

    async with KnobServer() as server, asyncio.timeout(_PATIENCE):
        up = ResumableUploader(
            server.url,
            chunk_size=_CHUNK,
            max_parallel=1,
            compression="off",
            history=False,
            retry=RetryPolicy(attempts=1),
        )
        up._resources.make_keeper = keeper
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=3))
        transfer = up.start(path)
        await server.until(lambda: server.count(Step.CHUNK) == 4)
        async with another_process(_TRANSACTION, place):
            gate.set()
            with pytest.raises(SessionError, match="locked") as raised:
                await transfer
        session_id = raised.value.session_id
        assert session_id is not None
        await asyncio.sleep(2 * _LIMIT)
        result = await up.upload_file_resumable(path, session_id)
        assert result.bytes_resumed >= 3 * _CHUNK
