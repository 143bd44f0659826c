"""What was received goes on: whole, once, whatever breaks, and everybody can see it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.killed import forget_the_end
from tests.servers.knobs import Fault, KnobServer, Step
from tests.servers.process import ServerProcess
from tests.servers.tus_api import TusApi
from tests.servers.upload import (
    UploadApi,
    files_below,
    names_in,
    open_api,
    sha256,
    until,
    upload_server,
)
from upload_kit.config import Secret
from upload_kit.errors import ConfigurationError
from upload_kit.models import (
    Leg,
    RemoteObject,
    StreamingProgress,
    UploadSpec,
    UploadStatus,
    Verification,
)
from upload_kit.server import (
    Durability,
    Forwarding,
    ForwardName,
    ServerConfig,
    running_server,
)
from upload_kit.server.file_locks import HAS_FILE_LOCKS
from upload_kit.server.forward_record import Forward, ForwardState
from upload_kit.server.outbox import Outbox
from upload_kit.sessions.manager import SessionManager, open_store
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NDJSON: Final = "application/x-ndjson"
CHUNK: Final = 100_000
LEFT: Final = [".lock", ".server-id", ".sessions"]
DATA: Final = random.Random(7).randbytes(8 * CHUNK - 1)


def onward(url: str, **options: Any) -> Forwarding:
    return Forwarding(url=Secret(url), **options)


async def forwarded(
    api: UploadApi, upload_id: str, state: str, *, tries: int = 0
) -> Any:
    """Wait until the forward of an upload stands so, and return what is told of it."""
    async with asyncio.timeout(30):
        while True:
            told = (await api.status(upload_id)).body["forwarded"]
            if told["state"] == state and told["tries"] >= tries:
                return told
            await asyncio.sleep(0.05)


async def counted(api: UploadApi, **counts: int) -> None:
    """Wait until `readyz` counts so many."""
    async with asyncio.timeout(10):
        while True:
            body = (await api.call("GET", "readyz")).body
            assert body["status"] == "ready"
            if body["forwarding"] == {"waiting": 0, "failed": 0, **counts}:
                return
            await asyncio.sleep(0.05)


async def lines_of(
    api: UploadApi, path: str, *, accept: str, data: bytes | None = None
) -> list[StreamingProgress]:
    """Return all lines of a stream, in either of its forms."""
    method = "GET" if data is None else "POST"
    options: dict[str, Any] = {"headers": {"Accept": accept}, "data": data}
    async with api.session.request(method, path, **options) as response:
        assert response.status == 200
        text = (await response.read()).decode()
    if accept != NDJSON:
        text = text.replace("data: ", "").replace("\n\n", "\n")
    return [StreamingProgress.from_json(line) for line in text.splitlines()]


def stored(folder: Path) -> list[str]:
    """Return the digests of the files that a server published."""
    files = [path for path in files_below(folder / "files") if path.name[0] != "."]
    return sorted(sha256(path.read_bytes()) for path in files)


@asynccontextmanager
async def relay(folder: Path, url: str, **options: Any) -> AsyncIterator[UploadApi]:
    """Run a server that forwards."""
    async with upload_server(folder, forward=onward(url, **options)) as api:
        yield api


@pytest.mark.usefixtures("nothing_left")
async def test_every_protocol_is_forwarded(tmp_path: Path) -> None:
    """In one request, in chunks, by tus: it arrives, proved, and keeps what it is."""
    names = {"one.txt": b"hello", "chunks.bin": DATA, "tus.bin": DATA[::-1], "0": b""}
    async with (
        upload_server(tmp_path / "b", tokens=(Secret("relay:hunter2"),)) as b,
        relay(tmp_path / "a", str(b.session._base_url), token=Secret("hunter2")) as api,
    ):
        form = "application/x-www-form-urlencoded"
        one = await api.foundation(b"hello", "one.txt", Content_Type=form)
        assert one.body["forwarded"]["state"] in {"waiting", "forwarding", "complete"}
        empty = await api.foundation(b"", "0")
        chunked = await api.begun(DATA, CHUNK, name="chunks.bin", metadata={"k": "v"})
        await api.send(chunked, DATA, CHUNK)
        assert (await api.status(chunked)).body["forwarded"] is None
        assert (await api.complete(chunked, sha256=sha256(DATA))).status == 200
        tus = TusApi(api)
        url = await tus.begun(len(DATA), Upload_Metadata="filename dHVzLmJpbg==")
        assert (await tus.patch(url, 0, DATA[::-1])).status == 204
        ids = [one.body["session_id"], empty.body["session_id"], chunked]
        for upload_id in (*ids, url.rpartition("/")[2]):
            done = await forwarded(api, upload_id, "complete")
            assert done["verified"] == "sha256"
            assert done["error"] is None
            async with open_api(str(b.session._base_url), "hunter2") as there:
                arrived = (await there.call("GET", done["location"])).body
            assert arrived["sha256"] == sha256(names[arrived["name"]])
            if arrived["name"] == "one.txt":
                # What curl says of any body is not what it is.
                assert arrived["content_type"] == "text/plain"
            if upload_id == chunked:
                assert arrived["metadata"] == {"k": "v"}
        assert stored(tmp_path / "a") == stored(tmp_path / "b")
        assert stored(tmp_path / "b") == sorted(map(sha256, names.values()))
    assert names_in(tmp_path / "a/outbox") == LEFT
    secrets = [p for p in files_below(tmp_path / "a") if b"hunter2" in p.read_bytes()]
    assert secrets == []


@pytest.mark.parametrize("accept", [NDJSON, "text/event-stream"])
async def test_streaming_shows_both_legs(tmp_path: Path, accept: str) -> None:
    """First it is received, then it goes on; only the last line looks like the end."""
    target = tmp_path / "b"
    async with relay(tmp_path / "a", target.as_uri()) as api:
        path = "upload/streaming?name=a.bin"
        lines = await lines_of(api, path, accept=accept, data=DATA)
        assert (target / "a.bin").read_bytes() == DATA
        # Repeats left out, the one comes after the other.
        legs = [leg for leg, _ in itertools.groupby(line.leg for line in lines)]
        assert legs == [Leg.RECEIVING, Leg.FORWARDING]
        last = lines[-1]
        assert not any(line.is_final or line.result for line in lines[:-1])
        received = [line for line in lines if line.leg is Leg.RECEIVING]
        assert received[-1].progress.confirmed == len(DATA)
        assert (last.kind, last.progress.confirmed) == ("completed", len(DATA))
        assert last.result is not None
        assert last.result.location == (target / "a.bin").as_uri()
        assert last.result.sha256 == sha256(DATA)
        # Who asks afterwards is told the same; what stands there is not replaced.
        path = f"upload/status/{last.result.transfer_id}/events"
        again = await lines_of(api, path, accept=accept)
        assert again[-1].kind == "completed"
        path = "upload/streaming?name=a.bin"
        refused = (await lines_of(api, path, accept=accept, data=b"other"))[-1]
        assert (refused.kind, refused.leg) == ("failed", Leg.FORWARDING)
        assert refused.result is not None
        assert refused.result.error_type == "RemoteRejected"
        assert (target / "a.bin").read_bytes() == DATA


async def test_nothing_goes_on_that_was_refused(tmp_path: Path) -> None:
    """A file with a wrong digest ends on the first leg, and is not forwarded."""
    async with relay(tmp_path / "a", (tmp_path / "b").as_uri()) as api:
        async with api.session.post(
            "upload/streaming?name=a.bin",
            data=b"x",
            headers={"Accept": NDJSON, "Content-Digest": f"sha-256=:{'A' * 43}=:"},
        ) as response:
            last = (await response.read()).splitlines()[-1]
        line = StreamingProgress.from_json(last)
        assert (line.kind, line.leg) == ("failed", Leg.RECEIVING)
        await counted(api)
    assert not (tmp_path / "b").exists()


async def test_destination_that_comes_up_later(tmp_path: Path) -> None:
    """A file waits here, visibly, and goes on as soon as it can."""
    # Bound and not listened on, it refuses; and nobody else gets it.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://u:hunter2@127.0.0.1:{listener.getsockname()[1]}/"
    there = ServerConfig(directory=tmp_path / "b")
    async with relay(tmp_path / "a", url) as api:
        upload_id = (await api.foundation(DATA)).body["session_id"]
        now = await forwarded(api, upload_id, "waiting", tries=1)
        assert now["error_type"] == "RemoteUnavailable"
        assert now["retry_at"] is not None
        assert "hunter2" not in json.dumps(now)
        tus = TusApi(api)
        doomed = await tus.begun(1)
        assert (await tus.patch(doomed, 0, b"x")).status == 204
        await counted(api, waiting=2)
        # What is thrown away is waited for no more.
        assert (await tus.delete(doomed)).status == 204
        await counted(api, waiting=1)
        async with running_server(there, listener=listener):
            done = await forwarded(api, upload_id, "complete")
            assert (done["tries"], done["error"], done["retry_at"]) == (0, None, None)
    assert sha256(DATA) in stored(tmp_path / "b")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://localhost:{}/store/", id="own protocol"),
        pytest.param("tus+http://127.0.0.1:{}/store/files/", id="tus"),
        pytest.param("tus+http://127.0.0.1:{}/store/files/?parts=2", id="tus in parts"),
    ],
)
async def test_server_that_forwards_to_itself(tmp_path: Path, url: str) -> None:
    """By whatever name it is found, it takes nothing that came through itself."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = ServerConfig(
        directory=tmp_path, prefix="/store", forward=onward(url.format(port))
    )
    async with (
        running_server(config, listener=listener) as server,
        open_api(server.url) as api,
    ):
        # One that goes in one request, and one that goes in several.
        for data in (b"small", os.urandom(6_000_000)):
            upload_id = (await api.foundation(data)).body["session_id"]
            failed = await forwarded(api, upload_id, "failed")
            assert failed["error_type"] == "RemoteRejected"
            assert "508" in failed["error"]
        sent = {"Upload-Kit-Via": "not an ID"}
        assert (await api.foundation(b"x", "x", **sent)).problem == "malformed"
        assert names_in(tmp_path / "incoming") == []
        assert len(stored(tmp_path)) == 2


async def test_servers_that_forward_to_each_other(tmp_path: Path) -> None:
    """A file goes once around, and is at both of them then."""
    there = socket.socket()
    there.bind(("127.0.0.1", 0))
    b_url = f"http://127.0.0.1:{there.getsockname()[1]}/"
    async with relay(tmp_path / "a", b_url) as a:
        config = ServerConfig(
            directory=tmp_path / "b", forward=onward(str(a.session._base_url))
        )
        async with (
            running_server(config, listener=there) as server,
            open_api(server.url) as b,
        ):
            for data in (b"small", os.urandom(2_000_000)):
                upload_id = (await a.foundation(data)).body["session_id"]
                done = await forwarded(a, upload_id, "complete")
                at_b = done["location"].rpartition("/")[2]
                assert "508" in (await forwarded(b, at_b, "failed"))["error"]
    assert stored(tmp_path / "a") == stored(tmp_path / "b")
    assert len(stored(tmp_path / "a")) == 2


async def test_refusal_is_visible_until_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told and counted, the file stays; the next start tries once more."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.bin").write_bytes(b"was here first")
    async with relay(tmp_path / "a", (tmp_path / "b").as_uri()) as api:
        upload_id = (await api.foundation(DATA)).body["session_id"]
        failed = await forwarded(api, upload_id, "failed")
        assert failed["error_type"] == "RemoteRejected"
        assert "exists already" in failed["error"]
        await counted(api, failed=1)
        path = f"upload/status/{upload_id}/events"
        told = await lines_of(api, path, accept=NDJSON)
        assert told[-1].error == failed["error"]
    assert "cannot be forwarded" in caplog.text
    assert stored(tmp_path / "a") == [sha256(DATA)]
    (tmp_path / "b/a.bin").unlink()
    async with relay(tmp_path / "a", (tmp_path / "b").as_uri()) as api:
        await forwarded(api, upload_id, "complete")
        await counted(api)
    assert (tmp_path / "b/a.bin").read_bytes() == DATA


@asynccontextmanager
async def stuck_halfway(knob: KnobServer) -> AsyncIterator[set[int]]:
    """Hold a destination's chunks back after five; yield which it has in the end."""
    gate, held = asyncio.Event(), set[int]()
    knob.fault(Step.CHUNK, Fault(gate=gate, times=None, after=5))
    yield held
    (upload,) = knob.uploads.values()
    held.update(upload.parts)
    assert len(held) == 5
    knob.clear_faults()
    gate.set()


def assert_went_on(knob: KnobServer, held: set[int]) -> None:
    """Begun once, asked about once; and what had arrived was not sent again."""
    assert (knob.count(Step.BEGIN), len(knob.uploads)) == (2, 1)
    assert all(knob.count(Step.CHUNK, index) == 1 for index in held)
    (upload,) = knob.uploads.values()
    assert b"".join(upload.parts[n] for n in sorted(upload.parts)) == DATA


async def test_killed_in_mid_forward(tmp_path: Path) -> None:
    """After kill -9 it goes on where the destination is, and does nothing twice."""
    async with KnobServer(max_chunk=CHUNK) as knob:
        server = ServerProcess(tmp_path / "a", "--forward", knob.url)
        await asyncio.to_thread(server.start)
        try:
            async with stuck_halfway(knob) as held, open_api(server.url) as api:
                upload_id = (await api.foundation(DATA)).body["session_id"]
                await knob.until(lambda: knob.count(Step.CHUNK) >= 8)
                await forwarded(api, upload_id, "forwarding")
                await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            async with open_api(server.url) as api:
                done = await forwarded(api, upload_id, "complete")
            assert_went_on(knob, held)
            seen = len(knob.seen)
            # What is done is done, also after the next kill.
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            async with open_api(server.url) as api:
                await counted(api)
                assert (await api.status(upload_id)).body["forwarded"] == done
            assert len(knob.seen) == seen
        finally:
            await asyncio.to_thread(server.stop)


async def test_stopped_in_mid_forward(tmp_path: Path) -> None:
    """A server that stops keeps the session, and tells its readers that it goes."""
    async with KnobServer(max_chunk=CHUNK) as knob:
        config = ServerConfig(
            directory=tmp_path / "a", port=0, forward=onward(knob.url)
        )
        async with stuck_halfway(knob) as held, AsyncExitStack() as later:
            async with running_server(config) as server:
                api = await later.enter_async_context(open_api(server.url))
                upload_id = (await api.foundation(DATA)).body["session_id"]
                path = f"upload/status/{upload_id}/events"
                reading = asyncio.create_task(lines_of(api, path, accept=NDJSON))
                await knob.until(lambda: knob.count(Step.CHUNK) >= 8)
                await forwarded(api, upload_id, "forwarding")
            told = await reading
            assert told
            assert not told[-1].is_final
        async with relay(tmp_path / "a", knob.url) as api:
            await forwarded(api, upload_id, "complete")
        assert_went_on(knob, held)


@pytest.mark.parametrize("left", ["session", "session of the file", "entry"])
async def test_killed_once_it_had_arrived(tmp_path: Path, left: str) -> None:
    """What is left of it says that it arrived: nothing is sent again."""
    folder = tmp_path / "a"
    async with upload_server(folder) as api:
        upload_id = (await api.foundation(DATA)).body["session_id"]
    outbox = await asyncio.to_thread(Outbox, folder, Durability.PAGE_CACHE)
    sessions = SessionManager(open_store(outbox.sessions), keep_completed=True)
    source = str(folder / "files" / upload_id / "a.bin")
    async with KnobServer() as knob:
        session = await sessions.create(
            UploadSpec(name="a.bin", size=len(DATA)),
            source=source,
            destination=knob.url,
            chunk_size=CHUNK,
            total_chunks=8,
        )
        async with sessions.lease(session.session_id) as lease:
            stored = RemoteObject(location="there", size=len(DATA), sha256=sha256(DATA))
            lease.arrived(stored, Verification.SHA256)
            lease.finish(UploadStatus.COMPLETE)
        complete, begun = ForwardState.COMPLETE, ForwardState.FORWARDING
        forward = Forward(
            state=complete if left == "entry" else begun,
            destination=knob.url,
            session_id=None if left == "session of the file" else session.session_id,
        )
        # All that a kill leaves before it is written down here that it arrived.
        await asyncio.to_thread(outbox.write, upload_id, forward)
        async with relay(folder, knob.url) as api:
            done = await forwarded(api, upload_id, "complete")
            await counted(api)
        assert knob.seen == []
    if left != "entry":
        told = done["location"], done["sha256"], done["verified"]
        assert told == ("there", sha256(DATA), "sha256")
    assert (folder / "files" / upload_id / ".forwarded.json").exists()
    assert await sessions.list(expired=True) == []
    await sessions.aclose()


async def test_killed_once_it_stood_in_its_folder(tmp_path: Path) -> None:
    """Its own file is no reason to refuse it, and is not written anew."""
    folder, target = tmp_path / "a", tmp_path / "b"
    async with upload_server(folder) as api:
        upload_id = (await api.foundation(DATA)).body["session_id"]
    outbox = await asyncio.to_thread(Outbox, folder, Durability.PAGE_CACHE)
    carrier = ResumableUploader(
        target.as_uri(),
        session_dir=outbox.sessions,
        keep_sessions=True,
        overwrite=False,
        history=False,
    )
    result = await carrier.upload_file(folder / "files" / upload_id / "a.bin")
    await forget_the_end(outbox.sessions)
    begun = Forward(
        state=ForwardState.FORWARDING,
        destination=target.as_uri(),
        session_id=result.session_id,
    )
    await asyncio.to_thread(outbox.write, upload_id, begun)
    before = (target / "a.bin").stat()
    async with relay(folder, target.as_uri()) as api:
        done = await forwarded(api, upload_id, "complete")
    assert (done["location"], done["verified"]) == (result.location, "sha256")
    after = (target / "a.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names_in(target) == ["a.bin"]


@pytest.mark.skipif(not HAS_FILE_LOCKS, reason="several workers need file locks")
async def test_workers_share_the_work(tmp_path: Path) -> None:
    """Whichever worker takes a file, it goes on once, and each of them can tell."""
    files = [os.urandom(1000 + n) for n in range(12)]
    async with upload_server(tmp_path / "b") as b:
        url = str(b.session._base_url)
        options = ("--workers", "2", "--forward", url)
        server = ServerProcess(tmp_path / "a", *options)
        await asyncio.to_thread(server.start)
        try:

            async def send(data: bytes) -> None:
                async with open_api(server.url) as api:
                    path = f"upload/streaming?name={sha256(data)[:8]}"
                    lines = await lines_of(api, path, accept=NDJSON, data=data)
                assert lines[-1].kind == "completed"
                assert lines[-1].result is not None
                upload_id = str(lines[-1].result.transfer_id)
                async with open_api(server.url) as other:
                    done = (await other.status(upload_id)).body["forwarded"]
                assert done["location"] == lines[-1].result.location

            await asyncio.gather(*map(send, files))
        finally:
            await asyncio.to_thread(server.stop)
    assert stored(tmp_path / "b") == sorted(map(sha256, files))


async def test_forwarded_files_are_removed_if_asked(tmp_path: Path) -> None:
    """What is proved to be there goes here; its record answers for it for a while."""
    target = tmp_path / "b"
    forward = onward(target.as_uri(), remove=True, names=ForwardName.UNIQUE)
    options: dict[str, Any] = {"forward": forward, "quota": 2 * len(DATA)}
    key = "the-same-key-again"
    async with upload_server(tmp_path / "a", **options, expires_after=0.5) as api:
        # With what was removed still counted, there would be no room for the third.
        for name in ("a.bin", "b.bin", "a.bin"):
            reply = await api.foundation(DATA, name)
            assert reply.status == 201, reply.body
            upload_id = reply.body["session_id"]
            assert (await forwarded(api, upload_id, "complete"))["removed"]
            assert (target / upload_id / name).read_bytes() == DATA
            assert (await api.status(upload_id)).body["stored_as"] is None
        first = await api.foundation(b"x", Idempotency_Key=key)
        await forwarded(api, first.body["session_id"], "complete")
        again = await api.foundation(b"x", Idempotency_Key=key)
        assert again.body["forwarded"]["state"] == "complete"
        await until(lambda: names_in(tmp_path / "a/outbox") == LEFT)
        assert stored(tmp_path / "a") == []
        await asyncio.sleep(0.6)
        await api.call("POST", "upload/cleanup")
        assert names_in(tmp_path / "a/files") == []
    assert len(names_in(target)) == 4


async def test_forwards_share_a_limit(tmp_path: Path) -> None:
    """However many files go on at once, together they take no more than is allowed."""
    target = tmp_path / "b"
    async with relay(tmp_path / "a", target.as_uri(), limit=500_000) as api:
        began = time.monotonic()
        for name in "abcd":
            await api.foundation(os.urandom(150_000), name)
        await until(lambda: target.exists() and names_in(target) == list("abcd"))
        # A twentieth of a second's worth may go ahead.
        assert time.monotonic() - began > 0.9 * 600_000 / 500_000


def test_outbox_is_shared(tmp_path: Path) -> None:
    """One process has an entry at a time; what is not there is waited for in vain."""
    (tmp_path / "files").mkdir()
    first, second = (Outbox(tmp_path, Durability.FSYNC) for _ in range(2))
    one, two = "0" * 32, "1" * 32
    for upload_id in (one, two):
        with first.publishing(upload_id):
            assert upload_id in second.waiting()
        # It is not published yet, or no more.
        assert second.take(upload_id) is None
        assert upload_id in first.waiting()
    held = first.hold(one)
    assert held is not None
    assert second.hold(one) is None
    other = second.hold(two)
    assert other is not None
    held.close()
    other.close()
    again = second.hold(one)
    assert again is not None
    again.close()
    os.utime(tmp_path / "outbox" / one, (0, 0))
    assert first.take(one) is None
    # Torn by a kill in the middle of its first write: it is still to be forwarded.
    (tmp_path / "outbox" / two).write_bytes(b'{"sta')
    assert list(first.waiting()) == [two]
    assert first.waiting()[two].state is ForwardState.WAITING
    assert first.server_id == second.server_id


def test_what_cannot_be_forwarded_is_told_at_the_start(tmp_path: Path) -> None:
    """An unknown scheme is wrong use; so is forwarding what is thrown away."""
    with pytest.raises(ConfigurationError, match="limit must be above 0"):
        onward("file:///x", limit=0)
    with pytest.raises(ConfigurationError, match="null:"):
        ServerConfig(directory="null:", forward=onward("file:///x"))

    async def start(url: str) -> None:
        async with relay(tmp_path / "a", url):
            pass

    with pytest.raises(ConfigurationError, match="nothing"):
        asyncio.run(start("nothing://host/"))
    # A file would be forwarded onto itself, and then perhaps removed.
    (tmp_path / "link").symlink_to(tmp_path / "a" / "files")
    with pytest.raises(ConfigurationError, match="own folder"):
        asyncio.run(start((tmp_path / "link").as_uri()))
