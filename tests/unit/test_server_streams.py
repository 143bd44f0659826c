"""Live progress parses, ends with how it ended, and holds nobody up."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.servers.app import running_app
from tests.servers.upload import (
    RawConnection,
    UploadApi,
    digest_field,
    names_in,
    open_api,
    sha256,
    until,
    upload_server,
)
from upload_kit.models import Stage, StreamingProgress, UploadProgress, UploadStatus
from upload_kit.server import ServerConfig, running_server
from upload_kit.server.streams import LineStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1 << 20
NDJSON = "application/x-ndjson"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[UploadApi]:
    async with upload_server(tmp_path) as api:
        yield api


def lines_of(text: bytes, content_type: str) -> list[StreamingProgress]:
    """Read every line of a stream, in either of its forms."""
    if content_type == NDJSON:
        return [StreamingProgress.from_json(line) for line in text.splitlines()]
    events = text.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith(("data: ", ":")) for event in events)
    return [
        StreamingProgress.from_json(event.removeprefix("data: "))
        for event in events
        if event.startswith("data: ")
    ]


async def stream(
    api: UploadApi, data: Any, accept: str, **headers: str
) -> list[StreamingProgress]:
    """Store a file in one request, and return the lines about it."""
    async with api.session.post(
        "upload/streaming?name=a.bin",
        data=data,
        headers={"Accept": accept, **headers},
    ) as response:
        assert response.status == 200
        assert response.content_type == accept
        return lines_of(await response.read(), accept)


class Events:
    """The events of an upload, line by line."""

    def __init__(self, response: Any) -> None:
        self._content = response.content

    async def next(self) -> StreamingProgress:
        """Return the next line that is one."""
        async with asyncio.timeout(10):
            while True:
                line = await self._content.readuntil(b"\n\n")
                if line.startswith(b"data: "):
                    return StreamingProgress.from_json(line[6:])

    async def last(self) -> StreamingProgress:
        """Read to the last line, and return it."""
        line = await self.next()
        while not line.is_final:
            line = await self.next()
        assert await self._content.read() == b""
        return line


@asynccontextmanager
async def events_of(api: UploadApi, session_id: str) -> AsyncIterator[Events]:
    async with api.session.get(f"upload/status/{session_id}/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Events(response)


async def pieces_of(data: bytes, pause: float) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]
        await asyncio.sleep(pause)


@pytest.mark.parametrize("accept", [NDJSON, "text/event-stream"])
async def test_file_with_progress(api: UploadApi, tmp_path: Path, accept: str) -> None:
    """Lines come while the body does; they only grow, and the last has the result."""
    data = os.urandom(MIB)
    lines = await stream(api, pieces_of(data, 0.05), accept)
    sent = [line.progress.sent for line in lines]
    assert len(lines) > 3
    assert sent == sorted(sent)
    assert lines[0].kind == "started"
    assert all(line.result is None for line in lines[:-1])
    last = lines[-1]
    assert last.kind == "completed"
    assert last.progress.stage is Stage.COMPLETE
    assert last.progress.sent == last.progress.confirmed == last.progress.total == MIB
    assert last.result is not None
    assert last.result.success
    assert last.result.sha256 == sha256(data)
    (name,) = names_in(tmp_path / "files")
    assert last.result.location == f"upload/status/{name}"
    assert (tmp_path / "files" / name / "a.bin").read_bytes() == data


@pytest.mark.parametrize("data", [b"", b"small"])
async def test_file_that_needs_no_time(api: UploadApi, data: bytes) -> None:
    """Even what is there at once has a first and a last line."""
    lines = await stream(api, data, NDJSON)
    assert lines[-1].is_final
    assert lines[-1].result is not None
    assert lines[-1].result.size == len(data)


async def test_failure_is_the_last_line(api: UploadApi, tmp_path: Path) -> None:
    """After the answer has begun, a problem is told as a line, and nothing is left."""
    wrong = digest_field(b"other")
    lines = await stream(api, b"data", NDJSON, **{"Content-Digest": wrong})
    last = lines[-1]
    assert last.kind == "failed"
    assert last.progress.status is UploadStatus.FAILED
    assert last.error
    assert last.result is not None
    assert not last.result.success
    assert last.result.error_type == "IntegrityError"
    assert names_in(tmp_path / "files") == names_in(tmp_path / "incoming") == []


async def test_problem_before_the_answer(api: UploadApi) -> None:
    """What is wrong from the start is a problem, as everywhere else."""
    reply = await api.call(
        "POST", "upload/streaming", data=b"x", headers={"Upload-Metadata": ","}
    )
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_streaming_with_expectation(api: UploadApi) -> None:
    """The 100 comes before the answer that begins while the body is sent."""
    async with RawConnection(str(api.session._base_url)) as connection:
        await connection.head(
            "POST",
            "/upload/streaming",
            "Content-Length: 4",
            "Expect: 100-continue",
            f"Accept: {NDJSON}",
        )
        assert (await connection.reply()).status == 100
        assert (await connection.reply()).status == 200
        await connection.send(b"data")
        async with asyncio.timeout(10):
            await connection.reader.readuntil(b'"completed"')


async def test_reader_that_reads_nothing(tmp_path: Path) -> None:
    """A client that does not read its answer gets its file stored all the same."""
    data = os.urandom(200_000)
    async with (
        upload_server(tmp_path, idle_timeout=0.5) as api,
        RawConnection(str(api.session._base_url)) as connection,
    ):
        await connection.head(
            "POST", "/upload/streaming?name=a", f"Content-Length: {len(data)}"
        )
        transport = connection.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]  # of a socket it has it
        for start in range(0, len(data), 10_000):
            await connection.send(data[start : start + 10_000])
            await asyncio.sleep(0.02)
        await until(lambda: bool(names_in(tmp_path / "files")))


async def test_events_follow_an_upload(api: UploadApi) -> None:
    """From what is there to the end, each line is the whole state."""
    data = os.urandom(30_000)
    session_id = await api.begun(data, 10_000, whole_digest=True)
    await api.put(session_id, 0, data[:10_000])
    async with events_of(api, session_id) as events:
        first = await events.next()
        assert first.kind == "started"
        assert first.progress.transfer_id == session_id
        assert first.progress.confirmed == 10_000
        assert first.progress.chunks_total == 3
        await api.put(session_id, 1, data[10_000:20_000])
        line = await events.next()
        while line.progress.confirmed < 20_000:
            line = await events.next()
        assert line.progress.chunks_confirmed == 2
        await api.put(session_id, 2, data[20_000:])
        await api.complete(session_id)
        last = await events.last()
        assert last.kind == "completed"
        assert last.result is not None
        assert last.result.sha256 == sha256(data)
        assert len(last.result.chunks) == 3


async def test_events_show_bytes_on_their_way(api: UploadApi) -> None:
    """Bytes of a chunk show before it counts, and go again if it fails."""
    session_id = await api.begun(bytes(9 * MIB), 9 * MIB)
    path = f"/upload/resumable/{session_id}/chunks/0"
    async with (
        events_of(api, session_id) as events,
        RawConnection(str(api.session._base_url)) as connection,
    ):
        await connection.head("PUT", path, f"Content-Length: {9 * MIB}")
        await connection.send(bytes(6 * MIB))
        line = await events.next()
        while line.progress.sent < 2 * MIB:
            line = await events.next()
        assert line.progress.confirmed == 0
        connection.abort()
        while line.progress.sent:
            line = await events.next()


async def test_events_of_a_complete_upload(api: UploadApi) -> None:
    """Who comes too late is told how it ended, at once."""
    stored = await api.foundation(b"x")
    async with events_of(api, stored.body["session_id"]) as events:
        assert (await events.next()).kind == "completed"


async def test_events_of_an_upload_that_is_thrown_away(api: UploadApi) -> None:
    """The stream ends when the upload does, whichever way."""
    session_id = await api.begun(bytes(10), 10)
    async with events_of(api, session_id) as events:
        await events.next()
        await api.delete(session_id)
        last = await events.last()
        assert last.kind == "failed"
        assert last.result is not None
        assert last.result.error_type == "RemoteGone"


async def test_events_of_nothing(api: UploadApi) -> None:
    """There are no events of what is not there."""
    reply = await api.call("GET", f"upload/status/{'0' * 32}/events")
    assert (reply.status, reply.problem) == (404, "not-found")


async def test_slow_watchers_hold_nothing_up(api: UploadApi) -> None:
    """Watchers that never read do not keep an upload from going on."""
    data = os.urandom(100 * 1000)
    session_id = await api.begun(data, 1000)
    deaf = [RawConnection(str(api.session._base_url)) for _ in range(5)]
    for connection in deaf:
        await connection.__aenter__()
        await connection.head("GET", f"/upload/status/{session_id}/events")
    try:
        await api.send(session_id, data, 1000)
        assert (await api.complete(session_id)).status == 200
    finally:
        for connection in deaf:
            await connection.__aexit__(None, None, None)


async def test_watchers_do_not_keep_the_server(tmp_path: Path) -> None:
    """A server that stops sends its watchers away at once."""
    loop = asyncio.get_running_loop()
    config = ServerConfig(directory=tmp_path, port=0, grace=20)
    async with running_server(config) as server:
        api_context = open_api(server.url)
        api = await api_context.__aenter__()
        session_id = await api.begun(bytes(10), 10)
        response = await api.session.get(f"upload/status/{session_id}/events")
        assert await response.content.readline()
        begun = loop.time()
    assert loop.time() - begun < 5
    response.close()
    await api_context.__aexit__(None, None, None)


def test_lines_are_what_the_protocol_says(tmp_path: Path) -> None:
    """A line has the members of `StreamingProgress`, and no other."""

    async def lines() -> list[StreamingProgress]:
        async with upload_server(tmp_path) as api:
            return await stream(api, b"x", NDJSON)

    for line in asyncio.run(lines()):
        assert StreamingProgress.from_dict(json.loads(line.to_json())) == line


async def test_stream_gives_a_deaf_reader_up() -> None:
    """A reader that takes nothing stops getting lines, and nobody waits for it."""
    given_up = asyncio.Event()
    line = StreamingProgress(
        kind="bytes",
        progress=UploadProgress(transfer_id="t", name="n"),
        at=0.0,
        error="x" * MIB,
    )

    async def tell(request: web.Request) -> web.StreamResponse:
        stream = LineStream(request, 0.3)
        await stream.open()
        while not stream.is_deaf:
            await stream.send(line)
        await stream.send(line)
        given_up.set()
        return await stream.close()

    app = web.Application()
    app.router.add_get("/", tell)
    async with running_app(app) as origin, RawConnection(origin) as connection:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket it has it
        await connection.head("GET", "/")
        async with asyncio.timeout(20):
            await given_up.wait()
