"""Nothing that arrived is sent twice, whatever broke: kill -9 on either side too."""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.killed import forget_the_end
from tests.servers.knobs import Fault, KnobServer, Step
from tests.servers.process import ServerProcess
from upload_kit import (
    RemoteRejected,
    RemoteUnavailable,
    ResumableUploader,
    RetryPolicy,
    SessionConflict,
    Verification,
)
from upload_kit.server import Durability, ServerConfig, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from upload_kit import UploadResult

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 150_000
COUNT: Final = 10
DATA: Final = random.Random(13).randbytes(COUNT * CHUNK - 1)
PATIENT: Final = RetryPolicy(base_delay=0.05, max_delay=0.2, attempts=200)

# What a user's script is, in a process of its own.
SCRIPT: Final = """
    import asyncio, os, signal, sys
    from upload_kit import ResumableUploader

    path, url, sessions, parallel, kill_at = sys.argv[1:]

    def watch(progress):
        if progress.chunks_confirmed >= int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    uploader = ResumableUploader(
        url,
        chunk_size=150_000,
        max_parallel=int(parallel),
        session_dir=sessions,
        history=False,
        compression="off",
        on_progress=watch if int(kill_at) >= 0 else None,
    )
    asyncio.run(uploader.upload_file(path))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place: Path = tmp_path / getattr(request, "param", "sessions")
    return place


in_both_stores = pytest.mark.parametrize(
    "sessions", ["sessions", "sessions.db"], ids=["json", "sqlite"], indirect=True
)


@pytest.fixture
async def server() -> AsyncIterator[KnobServer]:
    async with KnobServer() as server:
        yield server


def uploader(url: str, sessions: Path, **options: Any) -> ResumableUploader:
    settings: dict[str, Any] = {
        "chunk_size": CHUNK,
        "session_dir": sessions,
        "history": False,
        "compression": "off",
        "max_parallel": 2,
        **options,
    }
    return ResumableUploader(url, **settings)


async def client(
    path: Path, url: str, sessions: Path, *, parallel: int = 2, kill_at: int = -1
) -> asyncio.subprocess.Process:
    """Start an upload in another process; it kills itself after so many chunks."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", textwrap.dedent(SCRIPT)),
        *(str(path), url, str(sessions), str(parallel), str(kill_at)),
        stderr=asyncio.subprocess.DEVNULL,
    )


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process as the machine's end would."""
    process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(20):
        assert await process.wait() == -signal.SIGKILL


def written(path: Path) -> tuple[int, int]:
    """Return what is another number once a file is written anew."""
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns


def prove(result: UploadResult, at_least: int, at_most: int = COUNT) -> None:
    """Make sure that so many chunks were not sent again."""
    assert result.success
    assert result.verified is Verification.SHA256
    assert result.sha256 == hashlib.sha256(DATA).hexdigest()
    assert result.size == len(DATA)
    sizes = [chunk.size for chunk in result.chunks]
    assert sizes == [CHUNK] * (COUNT - 1) + [CHUNK - 1]
    assert at_least * CHUNK - 1 <= result.bytes_resumed <= at_most * CHUNK
    assert result.bytes_sent == len(DATA) - result.bytes_resumed


@pytest.mark.parametrize("overwrite", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("journal", [False, True], ids=["late", "early"])
async def test_killed_once_it_was_published(
    path: Path, tmp_path: Path, *, overwrite: bool, journal: bool
) -> None:
    """What stands in the folder is known again: nothing is sent, nothing replaced."""
    folder, sessions = tmp_path / "store", tmp_path / "sessions"
    options = {"overwrite": overwrite, "keep_sessions": True}
    client = uploader(folder.as_uri(), sessions, **options)
    await client.upload_file(path)
    (published,) = folder.iterdir()
    before = written(published)
    await forget_the_end(sessions)
    if journal:
        # Killed a moment earlier.
        (session,) = await client.sessions()
        (folder / f".upload_kit-{session.remote_token}.journal").touch()
    prove(await client.upload_file(path), COUNT)
    assert list(folder.iterdir()) == [published]
    assert written(published) == before
    # Another file of that size is none of ours, and treated like any other.
    await forget_the_end(sessions)
    published.write_bytes(DATA[::-1])
    if overwrite:
        prove(await client.upload_file(path), 0, 0)
        return
    with pytest.raises(RemoteRejected, match="exists already"):
        await client.upload_file(path)
    assert published.read_bytes() == DATA[::-1]


@pytest.mark.parametrize(
    ("done", "lanes"),
    [(0, 3), (1, 1), (COUNT - 1, 3), (COUNT - 1, 1), (COUNT, 3)],
)
async def test_client_that_is_killed(
    server: KnobServer, path: Path, sessions: Path, *, done: int, lanes: int
) -> None:
    """After none, one, all but one, all chunks: what was acknowledged stays sent."""
    gate = asyncio.Event()
    step, chunk = (Step.CHUNK, done) if done < COUNT else (Step.COMPLETE, None)
    server.fault(step, Fault(gate=gate, chunk=chunk))
    process = await client(path, server.url, sessions, parallel=lanes)
    await server.until(lambda: server.count(step, chunk) == 1)
    (upload,) = server.uploads.values()
    await server.until(lambda: len(upload.parts) >= done)
    await kill(process)
    gate.set()
    await server.until(lambda: server.open_chunks == 0)
    before = server.count(Step.CHUNK)
    result = await uploader(server.url, sessions).upload_file(path)
    assert server.published["big.bin"] == DATA
    prove(result, at_least=done)
    assert server.count(Step.CHUNK) - before <= COUNT - done


async def test_killed_again_and_again(
    server: KnobServer, path: Path, sessions: Path
) -> None:
    """Every process gets further; in all, hardly more than the file was sent."""
    for chunk in (2, 5, 8):
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=chunk))
        process = await client(path, server.url, sessions, parallel=1)
        await server.until(lambda: server.open_chunks == 1 and last(server) == chunk)  # noqa: B023 (awaited at once)
        await kill(process)
        gate.set()
        await server.until(lambda: server.open_chunks == 0)
    result = await uploader(server.url, sessions).upload_file(path)
    prove(result, at_least=8)
    received = sum(seen.received for seen in server.requests(Step.CHUNK))
    assert received <= len(DATA) + 3 * CHUNK


def last(server: KnobServer) -> int | None:
    return server.requests(Step.CHUNK)[-1].chunk


@in_both_stores
@pytest.mark.parametrize("place", ["server", "folder"])
async def test_client_that_is_killed_by_itself(
    tmp_path: Path, path: Path, sessions: Path, place: str
) -> None:
    """At a moment that nobody chose; our own server, and a folder."""
    config = ServerConfig(
        directory=tmp_path / "store", port=0, durability=Durability.PAGE_CACHE
    )
    async with running_server(config) as server:
        folder = tmp_path / "folder"
        url = server.url if place == "server" else folder.as_uri()
        process = await client(path, url, sessions, kill_at=4)
        async with asyncio.timeout(30):
            assert await process.wait() == -signal.SIGKILL
        result = await uploader(url, sessions).upload_file(path)
        prove(result, at_least=4)
        store = folder if place == "folder" else tmp_path / "store" / "files"
        assert found_in(store) == [DATA]


def found_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("big.bin")]


@pytest.mark.parametrize("lanes", [1, 3])
async def test_server_that_is_killed_and_comes_back(
    tmp_path: Path, path: Path, sessions: Path, lanes: int
) -> None:
    """The client goes on by itself; what was acknowledged is still there."""
    process = ServerProcess(tmp_path / "store")
    await asyncio.to_thread(process.start)
    try:
        up = uploader(
            process.url,
            sessions,
            retry=PATIENT,
            bandwidth_limit=3_000_000.0,
            max_parallel=lanes,
        )
        transfer = up.start(path)
        async for event in transfer:
            if event.progress.chunks_confirmed == 4:
                process.kill()
                break
        await asyncio.to_thread(process.restart)
        up.bandwidth_limit = None
        result = await asyncio.wait_for(wait(transfer), 40)
    finally:
        await asyncio.to_thread(process.stop)
    assert found_in(tmp_path / "store" / "files") == [DATA]
    assert result.verified is Verification.SHA256
    assert result.retries >= 1
    # No chunk that was acknowledged went a second time: only those on the wire.
    assert result.bytes_sent <= len(DATA) + result.retries * CHUNK


async def wait(transfer: Any) -> UploadResult:
    result: UploadResult = await transfer
    return result


async def test_server_that_is_killed_and_stays_away(
    tmp_path: Path, path: Path, sessions: Path
) -> None:
    """The upload fails, its session stays, and another day it goes on."""
    process = ServerProcess(tmp_path / "store")
    await asyncio.to_thread(process.start)
    try:
        few = RetryPolicy(base_delay=0.01, attempts=3)
        up = uploader(process.url, sessions, retry=few, bandwidth_limit=3_000_000.0)
        transfer = up.start(path)
        async for event in transfer:
            if event.progress.chunks_confirmed == 4:
                process.kill()
                break
        with pytest.raises(RemoteUnavailable) as raised:
            await asyncio.wait_for(wait(transfer), 40)
        assert raised.value.session_id is not None
        (session,) = await up.sessions()
        assert session.session_id == raised.value.session_id
        assert session.chunks_completed >= 4
        await asyncio.to_thread(process.restart)
        result = await uploader(process.url, sessions).resume(session.session_id)
        prove(result, at_least=session.chunks_completed)
        assert found_in(tmp_path / "store" / "files") == [DATA]
    finally:
        await asyncio.to_thread(process.stop)


@in_both_stores
async def test_client_that_lives_keeps_others_out(
    server: KnobServer, path: Path, sessions: Path
) -> None:
    """Two processes never write one upload; one that died keeps nobody out."""
    gate = asyncio.Event()
    server.fault(Step.CHUNK, Fault(gate=gate, chunk=3))
    process = await client(path, server.url, sessions, parallel=1)
    await server.until(lambda: server.count(Step.CHUNK, 3) == 1)
    with pytest.raises(SessionConflict, match=f"process {process.pid}"):
        await uploader(server.url, sessions).upload_file(path)
    await kill(process)
    gate.set()
    result = await uploader(server.url, sessions).upload_file(path)
    prove(result, at_least=3)
