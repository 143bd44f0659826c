"""A server as a process: killed, stopped, in several workers; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.servers.upload import (
    RawConnection,
    ServeProcess,
    UploadApi,
    names_in,
    open_api,
    sha256,
    until,
)
from upload_kit.errors import ConfigurationError
from upload_kit.server import ServerConfig, running_server, serve
from upload_kit.server.file_locks import HAS_FILE_LOCKS

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
CHUNK = 100_000
COUNT = 30

needs_workers = pytest.mark.skipif(
    not HAS_FILE_LOCKS, reason="several workers need file locks that only Linux has"
)
LEVELS = pytest.mark.parametrize("durability", ["fsync", "page-cache"])
WORKERS = pytest.mark.parametrize(
    "workers", [1, pytest.param(3, marks=needs_workers)], ids=["one", "three"]
)


def children_of(server: ServeProcess) -> list[psutil.Process]:
    """Return the worker processes."""
    assert server.process is not None
    return psutil.Process(server.process.pid).children()


async def fresh_put(
    server: ServeProcess, session_id: str, index: int, data: bytes
) -> Any:
    """Send a chunk over a connection of its own, so that any worker may get it."""
    async with open_api(server.url) as api:
        return await api.put(session_id, index, data)


@LEVELS
@WORKERS
async def test_killed_in_mid_upload(
    tmp_path: Path, *, durability: str, workers: int
) -> None:
    """After kill -9 what was acknowledged counts, and nothing else does."""
    data = os.urandom(COUNT * CHUNK)
    acknowledged: set[int] = set()
    options: dict[str, Any] = {"durability": durability, "workers": workers}
    async with ServeProcess(tmp_path / "store", **options) as server:
        async with open_api(server.url) as api:
            session_id = await api.begun(data, CHUNK)
            enough = asyncio.Event()

            async def send(indexes: range) -> None:
                for index in indexes:
                    start = index * CHUNK
                    reply = await api.put(
                        session_id, index, data[start : start + CHUNK]
                    )
                    assert reply.status == 200
                    acknowledged.add(index)
                    if len(acknowledged) >= COUNT // 3:
                        enough.set()

            senders = [
                asyncio.create_task(send(range(first, COUNT, 4))) for first in range(4)
            ]
            await enough.wait()
            await server.kill()
            await asyncio.gather(*senders, return_exceptions=True)
        assert names_in(tmp_path / "store" / "files") == []
        await server.start()
        async with open_api(server.url) as api:
            status = (await api.status(session_id, "?chunks=1")).body
            held = {chunk["index"]: chunk["sha256"] for chunk in status["chunks"]}
            # An answer may have been lost on its way, but never what it told of.
            assert acknowledged <= set(held)
            assert len(held) <= len(acknowledged) + 4
            for index, digest in held.items():
                assert digest == sha256(data[index * CHUNK : (index + 1) * CHUNK])
            await api.send(session_id, data, CHUNK)
            done = await api.complete(session_id, sha256=sha256(data))
            assert done.status == 200
    stored = tmp_path / "store" / done.body["stored_as"]
    assert stored.read_bytes() == data


async def test_killed_in_a_file_of_one_request(tmp_path: Path) -> None:
    """A file that a kill cut off is never seen, and is cleaned up in its time."""
    store = tmp_path / "store"
    async with ServeProcess(store, expires_after=0.5) as server:
        async with RawConnection(server.url) as connection:
            await connection.head(
                "POST", "/upload/foundation", f"Content-Length: {20 * MIB}"
            )
            await connection.send(bytes(6 * MIB))
            await until(lambda: bool(names_in(store / "incoming")))
            await server.kill()
        assert names_in(store / "files") == []
        await server.start()
        async with open_api(server.url) as api:
            await asyncio.sleep(0.6)  # This is how long it may lie there.
            reply = await api.call("POST", "upload/cleanup")
            assert reply.body["removed"] == 1
            assert reply.body["bytes"] > MIB
    assert names_in(store / "incoming") == []


@needs_workers
async def test_chunks_spread_over_workers(tmp_path: Path) -> None:
    """Workers take chunks of the same upload, and see those of the others."""
    data = os.urandom(COUNT * CHUNK)
    async with ServeProcess(tmp_path / "store", workers=3) as server:
        assert len(children_of(server)) == 3
        async with open_api(server.url) as api:
            session_id = await api.begun(data, CHUNK)

        async def put(index: int) -> int:
            piece = data[index * CHUNK : (index + 1) * CHUNK]
            reply = await fresh_put(server, session_id, index, piece)
            assert reply.status == 200, reply.body
            async with open_api(server.url) as api:
                status = (await api.status(session_id)).body
                assert status["received_chunks"] >= 1
                assert all(not a <= index < b for a, b in status["missing"])
            return os.getpid()

        await asyncio.gather(*map(put, range(COUNT)))
        again = await asyncio.gather(
            *(
                fresh_put(server, session_id, i, data[i * CHUNK : (i + 1) * CHUNK])
                for i in range(0, COUNT, 5)
            )
        )
        assert all(reply.body["duplicate"] for reply in again)
        conflict = await fresh_put(server, session_id, 0, bytes(CHUNK))
        assert conflict.problem == "chunk-conflict"
        replies = []
        for _ in range(6):
            async with open_api(server.url) as api:
                replies.append(await api.complete(session_id, sha256=sha256(data)))
                status = await api.status(session_id)
                late = await api.put(session_id, 0, data[:CHUNK])
            assert status.body["state"] == "complete"
            assert late.problem == "already-complete"
        assert {reply.status for reply in replies} == {200}
        code, _log = await server.stop()
    assert code == 0
    (name,) = names_in(tmp_path / "store" / "files")
    assert (tmp_path / "store" / "files" / name / "a.bin").read_bytes() == data


@needs_workers
async def test_same_chunk_at_several_workers(tmp_path: Path) -> None:
    """Twenty requests for one chunk, over all workers: it counts once, and whole."""
    data = os.urandom(CHUNK)
    async with ServeProcess(tmp_path / "store", workers=3) as server:
        async with open_api(server.url) as api:
            session_id = await api.begun(data, CHUNK)
        replies = await asyncio.gather(
            *(fresh_put(server, session_id, 0, data) for _ in range(20))
        )
        assert {reply.status for reply in replies} <= {200, 409}
        new = [r for r in replies if r.status == 200 and not r.body["duplicate"]]
        assert len(new) == 1
        async with open_api(server.url) as api:
            assert (await api.complete(session_id, sha256=sha256(data))).status == 200


@needs_workers
async def test_newer_request_at_another_worker(tmp_path: Path) -> None:
    """A chunk that hangs at one worker is let go when another one is asked for it."""
    data = os.urandom(CHUNK)
    async with ServeProcess(tmp_path / "store", workers=3) as server:
        async with open_api(server.url) as api:
            session_id = await api.begun(data, CHUNK)
        for _ in range(4):
            dead = RawConnection(server.url)
            await dead.__aenter__()
            path = f"/upload/resumable/{session_id}/chunks/0"
            await dead.head("PUT", path, f"Content-Length: {CHUNK}")
            await dead.send(data[:1000])
            lock = tmp_path / "store" / "incoming" / session_id / ".lock"
            await until(lock.exists)
            status = await fresh_put(server, session_id, 0, data)
            assert status.status == 200, status.body
            await dead.__aexit__(None, None, None)


@needs_workers
async def test_one_worker_is_killed(tmp_path: Path) -> None:
    """The others go on, what it acknowledged is kept, and another takes its place."""
    data = os.urandom(COUNT * CHUNK)
    async with ServeProcess(tmp_path / "store", workers=2) as server:
        async with open_api(server.url) as api:
            session_id = await api.begun(data, CHUNK)
        for index in range(10):
            piece = data[index * CHUNK : (index + 1) * CHUNK]
            assert (await fresh_put(server, session_id, index, piece)).status == 200
        victim, survivor = children_of(server)
        # Chunks that hang at either worker, one of which will be killed with its locks.
        hanging = [RawConnection(server.url) for _ in range(6)]
        for index, connection in enumerate(hanging, start=20):
            await connection.__aenter__()
            path = f"/upload/resumable/{session_id}/chunks/{index}"
            await connection.head("PUT", path, f"Content-Length: {CHUNK}")
            await connection.send(b"x")
        victim.kill()
        await until(
            lambda: len({c.pid for c in children_of(server)} - {victim.pid}) == 2
        )
        assert survivor.is_running()
        for connection in hanging:
            await connection.__aexit__(None, None, None)
        for index in range(COUNT):
            piece = data[index * CHUNK : (index + 1) * CHUNK]
            reply = await retried(
                lambda i=index, p=piece: fresh_put(server, session_id, i, p)
            )
            assert reply.status == 200, reply.body
            assert reply.body["duplicate"] == (index < 10)
        async with open_api(server.url) as api:
            done = await api.complete(session_id, sha256=sha256(data))
            assert done.status == 200
        code, log = await server.stop()
    assert code == 0
    assert "Worker" in log


async def retried(call: Any) -> Any:
    """Try again while a worker that was killed is still on its way back."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except OSError:
                await asyncio.sleep(0.05)


@needs_workers
async def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """When the parent is killed, the workers stop by themselves."""
    async with ServeProcess(tmp_path / "store", workers=2) as server:
        workers = children_of(server)
        assert server.process is not None
        server.process.kill()
        await server.process.communicate()
        await asyncio.to_thread(psutil.wait_procs, workers, timeout=20)
        assert not any(worker.is_running() for worker in workers)


@needs_workers
async def test_limits_hold_over_all_workers(tmp_path: Path) -> None:
    """Requests, sessions and bytes are counted together."""
    async with ServeProcess(
        tmp_path / "store", workers=3, request_limit=5, max_sessions=3
    ) as server:
        statuses = []
        for _ in range(12):
            async with open_api(server.url) as api:
                statuses.append((await api.begin(10)).status)
        assert statuses.count(201) <= 3
        assert 429 in statuses
        assert len(names_in(tmp_path / "store" / "incoming")) <= 3


@WORKERS
async def test_stop_lets_requests_end(tmp_path: Path, *, workers: int) -> None:
    """SIGTERM, once or twice: open requests get their time, and the code is 0."""
    data = os.urandom(CHUNK)
    options: dict[str, Any] = {"workers": workers, "grace": 10}
    async with ServeProcess(tmp_path / "store", **options) as server:
        async with open_api(server.url) as api:
            session_id = await api.begun(data, CHUNK)
            async with RawConnection(server.url) as connection:
                path = f"/upload/resumable/{session_id}/chunks/0"
                await connection.head("PUT", path, f"Content-Length: {CHUNK}")
                await connection.send(data[:50_000])
                lock = tmp_path / "store" / "incoming" / session_id / ".lock"
                await until(lock.exists)
                server.signal(signal.SIGTERM)
                await until(lambda: refuses(server.url))
                server.signal(signal.SIGTERM)
                await connection.send(data[50_000:])
                reply = await connection.reply()
                assert reply.status == 200
        code, _log = await server.ended()
        assert code == 0
        await server.start()
        async with open_api(server.url) as api:
            assert (await api.complete(session_id, sha256=sha256(data))).status == 200


def refuses(url: str) -> bool:
    """Return whether nobody listens any more."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


@WORKERS
async def test_stop_cuts_what_takes_too_long(tmp_path: Path, *, workers: int) -> None:
    """After the grace the rest is cut off; what counted before still does."""
    data = os.urandom(2 * CHUNK)
    options: dict[str, Any] = {"workers": workers, "grace": 0.3}
    async with ServeProcess(tmp_path / "store", **options) as server:
        async with open_api(server.url) as api, RawConnection(server.url) as hanging:
            session_id = await api.begun(data, CHUNK)
            assert (await api.put(session_id, 0, data[:CHUNK])).status == 200
            path = f"/upload/resumable/{session_id}/chunks/1"
            await hanging.head("PUT", path, f"Content-Length: {CHUNK}")
            await hanging.send(data[CHUNK : CHUNK + 10])
            begun = asyncio.get_running_loop().time()
            code, log = await server.stop()
            assert code == 0
            assert asyncio.get_running_loop().time() - begun < 8
            assert "Traceback" not in log
        await server.start()
        async with open_api(server.url) as api:
            status = (await api.status(session_id)).body
            assert status["missing"] == [[1, 2]]


@WORKERS
async def test_interrupt_is_a_stop(tmp_path: Path, *, workers: int) -> None:
    """Ctrl-C ends the server as SIGTERM does."""
    async with ServeProcess(tmp_path / "store", workers=workers) as server:
        assert server.process is not None
        os.killpg(server.process.pid, signal.SIGINT)
        async with asyncio.timeout(20):
            _out, log = await server.process.communicate()
        assert server.process.returncode == 0
        assert b"Traceback" not in log


@WORKERS
async def test_hangup_reads_tokens_again(tmp_path: Path, *, workers: int) -> None:
    """SIGHUP: new tokens are known, old ones are not, and nothing restarts."""
    tokens = tmp_path / "tokens"
    tokens.write_text("ann:one\n")
    options: dict[str, Any] = {"workers": workers, "token_file": str(tokens)}
    async with ServeProcess(tmp_path / "store", **options) as server:
        async with open_api(server.url, "one") as api:
            session_id = await api.begun(bytes(10), 10)
        tokens.write_text("ann:two\n")
        server.signal(signal.SIGHUP)
        await until_known(server, "two", times=8 * workers)
        async with open_api(server.url, "one") as api:
            assert (await api.status(session_id)).status == 401
        async with open_api(server.url, "two") as api:
            assert (await api.status(session_id)).status == 200


async def until_known(server: ServeProcess, token: str, times: int) -> None:
    """Wait until every worker, most likely, knows a token."""
    known = 0
    async with asyncio.timeout(20):
        while known < times:
            async with open_api(server.url, token) as api:
                reply = await api.call("GET", "upload/sessions")
            known = known + 1 if reply.status == 200 else 0


@WORKERS
async def test_port_that_is_taken(tmp_path: Path, *, workers: int) -> None:
    """Somebody else's port is refused, even one that could be shared."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with ServeProcess(tmp_path, workers=workers, port=port) as server:
            assert server.url == ""
            code, log = await server.ended()
    assert code != 0
    assert f"Cannot listen on 127.0.0.1:{port}" in log


@needs_workers
async def test_worker_that_cannot_start(tmp_path: Path) -> None:
    """What keeps workers from starting keeps the server from being ready."""
    (tmp_path / "store").write_text("a file")
    async with ServeProcess(tmp_path / "store", workers=2) as server:
        assert server.url == ""
        code, log = await server.ended()
    assert code != 0
    assert "Cannot keep uploads in" in log


async def test_serve_needs_the_main_thread(tmp_path: Path) -> None:
    """Signals only reach the main thread; elsewhere there is `running_server`."""
    config = ServerConfig(directory=tmp_path, port=0)
    with pytest.raises(ConfigurationError, match="running_server"):
        await asyncio.to_thread(serve, config)


async def test_server_in_a_loop_has_one_worker(tmp_path: Path) -> None:
    """Several workers are several processes, which a loop is not."""
    config = ServerConfig(directory=tmp_path, port=0, workers=2)
    with pytest.raises(ConfigurationError, match="one worker"):
        async with running_server(config):
            pass


async def test_two_servers_in_one_loop(tmp_path: Path) -> None:
    """Two servers on the same folder go on with each other's uploads."""
    config = ServerConfig(directory=tmp_path, port=0)
    data = os.urandom(2 * CHUNK)
    async with (
        running_server(config) as one,
        running_server(config) as two,
        open_api(one.url) as first,
        open_api(two.url) as second,
    ):
        session_id = await first.begun(data, CHUNK)
        assert (await second.put(session_id, 0, data[:CHUNK])).status == 200
        assert (await first.put(session_id, 0, data[:CHUNK])).body["duplicate"]
        assert (await first.put(session_id, 1, data[CHUNK:])).status == 200
        assert (await second.complete(session_id, sha256=sha256(data))).status == 200
        assert (await first.status(session_id)).body["state"] == "complete"
        assert (await first.complete(session_id)).status == 200


async def test_open_server_for_others_warns(tmp_path: Path) -> None:
    """Without tokens, on an address that others reach, the log says so."""
    async with ServeProcess(tmp_path, host="0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        async with open_api(server.url) as api:
            assert (await UploadApi(api.session).foundation(b"x")).status == 201
        _code, log = await server.stop()
    assert "there are no tokens" in log
