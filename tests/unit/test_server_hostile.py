"""Whoever sends nonsense, too much, too slowly or too often harms only himself."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.servers.upload import (
    RawConnection,
    UploadApi,
    digest_field,
    names_in,
    open_api,
    until,
    upload_server,
)
from upload_kit.config import Secret
from upload_kit.server import ServerConfig, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[UploadApi]:
    async with upload_server(tmp_path) as api:
        yield api


def url_of(api: UploadApi) -> str:
    return str(api.session._base_url)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: -5"], id="negative-length"),
        pytest.param(["Content-Length: +5"], id="plus"),
        pytest.param(["Content-Length: 5_0"], id="underscore"),
        pytest.param(["Content-Length: 0x5"], id="hexadecimal"),
        pytest.param(["Content-Length: \u0665"], id="arabic-digit"),
        pytest.param(["Content-Length: 99999999999999999999999"], id="beyond-64-bits"),
        pytest.param(["Content-Length: 5", "Content-Length: 6"], id="two-lengths"),
        pytest.param(
            ["Content-Length: 5", "Transfer-Encoding: chunked"], id="smuggling"
        ),
        pytest.param(["Transfer-Encoding: nonsense"], id="unknown-transfer"),
        pytest.param(["No colon here"], id="no-colon"),
        pytest.param(["X: " + "y" * 20_000], id="endless-header"),
        pytest.param([f"X-{i}: y" for i in range(200)], id="too-many-headers"),
        pytest.param([" X: y"], id="folded-first-header"),
    ],
)
async def test_broken_head(api: UploadApi, tmp_path: Path, lines: list[str]) -> None:
    """A head that is no HTTP gets a 400 and the end of its connection."""
    async with RawConnection(url_of(api)) as connection:
        await connection.head("POST", "/upload/foundation", *lines)
        assert (await connection.reply()).status == 400
        assert await connection.closed()
    assert names_in(tmp_path / "files") == []
    assert (await api.foundation(b"others go on")).status == 201


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["tls", "version", "zeros", "http2"],
)
async def test_other_protocols(api: UploadApi, start: bytes) -> None:
    """What speaks something else is shown the door."""
    async with RawConnection(url_of(api)) as connection:
        await connection.send(start)
        assert await connection.closed()
    assert (await api.foundation(b"others go on")).status == 201


async def test_huge_length_reserves_nothing(api: UploadApi, tmp_path: Path) -> None:
    """Whoever announces a petabyte has it for free, and takes nothing by it."""
    async with RawConnection(url_of(api)) as connection:
        await connection.head("POST", "/upload/foundation", f"Content-Length: {2**50}")
        await connection.send(bytes(MIB))
    assert (await api.foundation(b"others go on")).status == 201
    assert len(names_in(tmp_path / "files")) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/upload/status/../../etc/passwd",
        "/upload/status/..%2f..%2fetc%2fpasswd",
        "/upload/status/%00",
        "/upload/status/" + "a" * 5000,
        "/upload/resumable/%2e%2e/chunks/0",
        "//upload/sessions/",
    ],
)
async def test_hostile_path(api: UploadApi, path: str) -> None:
    """A path leads to an upload or to nothing."""
    async with RawConnection(url_of(api)) as connection:
        await connection.head("GET", path)
        reply = await connection.reply()
    assert reply.status in (404, 405)
    assert reply.problem in ("not-found", "method")


async def test_body_that_stops(tmp_path: Path) -> None:
    """A sender that falls silent in mid-body gets a 408, and is gone."""
    async with (
        upload_server(tmp_path, idle_timeout=0.2) as api,
        RawConnection(url_of(api)) as connection,
    ):
        await connection.head("POST", "/upload/foundation", "Content-Length: 100000")
        await connection.send(b"x" * 50_000)
        reply = await connection.reply()
        assert (reply.status, reply.problem) == (408, "too-slow")
        assert reply.headers["connection"] == "close"
        assert int(reply.headers["retry-after"]) >= 1
        assert await connection.closed()
    assert names_in(tmp_path / "incoming") == []


async def test_body_that_trickles(tmp_path: Path) -> None:
    """A byte now and then is no upload: the rate has to be worth the connection."""
    async with (
        upload_server(tmp_path, min_rate=5000, rate_window=0.3) as api,
        RawConnection(url_of(api)) as connection,
    ):
        session_id = await api.begun(bytes(100_000), 100_000)
        path = f"/upload/resumable/{session_id}/chunks/0"
        await connection.head("PUT", path, "Content-Length: 100000")

        async def trickle() -> None:
            while True:
                await connection.send(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        reply = await connection.reply()
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        assert (reply.status, reply.problem) == (408, "too-slow")
        assert (await api.status(session_id)).body["received_bytes"] == 0


async def test_slow_is_not_too_slow(tmp_path: Path) -> None:
    """Whoever keeps above the least rate is waited for, for many windows."""
    async with (
        upload_server(tmp_path, min_rate=1000, rate_window=0.2) as api,
        RawConnection(url_of(api)) as connection,
    ):
        await connection.head("POST", "/upload/foundation", "Content-Length: 40000")
        for _ in range(40):
            await connection.send(b"x" * 1000)
            await asyncio.sleep(0.02)
        assert (await connection.reply()).status == 201


async def test_head_that_trickles(tmp_path: Path) -> None:
    """A head that does not end ends with its connection."""
    async with (
        upload_server(tmp_path, header_timeout=0.3) as api,
        RawConnection(url_of(api)) as connection,
    ):
        await connection.send("POST /upload/foundation HTTP/1.1\r\nHost: x\r\nX: ")
        begun = asyncio.get_running_loop().time()
        assert await connection.closed()
        assert asyncio.get_running_loop().time() - begun < 5


async def test_chunk_that_is_too_large(tmp_path: Path) -> None:
    """No body is larger than a chunk may be, whatever the upload says."""
    async with upload_server(tmp_path, max_chunk=MIB, default_chunk=MIB) as api:
        session_id = await api.begun(bytes(MIB), MIB)
        reply = await api.put(session_id, 0, bytes(MIB + 1))
        assert (reply.status, reply.problem) == (413, "too-large")


async def test_json_without_end(api: UploadApi) -> None:
    """A JSON body is bounded as well."""
    reply = await api.call("POST", "upload/resumable", data=b"[" * MIB)
    assert (reply.status, reply.problem) == (413, "too-large")
    for body in (b"[" * 60_000, b'{"name": "\xff"}', b"\xff"):
        reply = await api.call("POST", "upload/resumable", data=body)
        assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\nZZZ\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"0_5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\nhello",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    ],
)
async def test_http_chunk_nonsense(api: UploadApi, tmp_path: Path, body: bytes) -> None:
    """A broken chunked body is refused, and nothing of it is kept."""
    async with RawConnection(url_of(api)) as connection:
        await connection.head(
            "POST", "/upload/foundation", "Transfer-Encoding: chunked"
        )
        await connection.send(body)
        assert (await connection.reply()).status == 400
        assert await connection.closed()
    assert names_in(tmp_path / "files") == []


@pytest.mark.parametrize("path", ["/upload/foundation", "/nowhere"])
async def test_request_in_an_unread_body(tmp_path: Path, path: str) -> None:
    """What was announced as a body is never taken for the next request."""
    hidden = b"DELETE /upload/resumable/%s HTTP/1.1\r\nHost: x\r\n\r\n"
    async with (
        upload_server(tmp_path, max_size=MIB) as api,
        RawConnection(url_of(api)) as connection,
    ):
        session_id = await api.begun(b"hello", 5)
        inner = hidden % session_id.encode()
        await connection.head("POST", path, f"Content-Length: {2 * MIB}")
        await connection.send(inner * 3)
        assert (await connection.reply()).status >= 400
        assert await connection.reader.read() == b""
        assert await api.sessions() == [session_id]


async def test_too_many_requests(tmp_path: Path) -> None:
    """Beyond the rate there is a 429 that says when to come back."""
    async with upload_server(tmp_path, request_limit=5) as api:
        replies = [await api.call("GET", "upload/sessions") for _ in range(10)]
        last = replies[-1]
        assert replies[0].status == 200
        assert (last.status, last.problem) == (429, "rate-limited")
        assert int(last.headers["Retry-After"]) >= 1
        assert (await api.call("GET", "healthz")).status == 200


async def test_too_many_bytes_are_slowed(tmp_path: Path) -> None:
    """A byte limit slows down and refuses nothing, over all connections of a client."""
    async with upload_server(
        tmp_path, rate_limit=2 * MIB, idle_timeout=0.2, min_rate=10**9, rate_window=0.2
    ) as api:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        replies = await asyncio.gather(*(api.foundation(bytes(MIB)) for _ in range(3)))
        assert {reply.status for reply in replies} == {201}
        # A second's worth is free, so the third MiB waits for half a second.
        assert loop.time() - begun > 0.3


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        pytest.param("http://evil.example", 403, id="another-site"),
        pytest.param("null", 403, id="sandbox"),
        pytest.param("http://localhost:1", 403, id="another-port"),
        pytest.param("https://good.example", 201, id="allowed"),
    ],
)
async def test_web_pages_of_others(tmp_path: Path, origin: str, status: int) -> None:
    """A page that the user happens to look at cannot upload here."""
    allowed = frozenset({"https://good.example"})
    async with upload_server(tmp_path, allowed_origins=allowed) as api:
        reply = await api.foundation(b"x", Origin=origin)
        assert reply.status == status
        if status == 403:
            assert reply.problem == "forbidden"


async def test_page_of_a_name_that_was_bent(api: UploadApi) -> None:
    """A page whose own name was made to point to this machine is another's page."""
    reply = await api.foundation(
        b"x", Origin="http://evil.example:80", Host="evil.example:80"
    )
    assert (reply.status, reply.problem) == (403, "forbidden")
    own = url_of(api).rstrip("/")
    assert (await api.foundation(b"x", Origin=own)).status == 201


async def test_tokens_are_wanted(tmp_path: Path) -> None:
    """Without a known token everything but the public is 401."""
    config = ServerConfig(directory=tmp_path, port=0, tokens=(Secret("me:hunter2"),))
    async with running_server(config) as server:
        async with open_api(server.url) as api:
            for method, path in [
                ("POST", "upload/foundation"),
                ("POST", "upload/streaming"),
                ("POST", "upload/resumable"),
                ("PUT", f"upload/resumable/{'0' * 32}/chunks/0"),
                ("POST", f"upload/resumable/{'0' * 32}/complete"),
                ("DELETE", f"upload/resumable/{'0' * 32}"),
                ("GET", f"upload/status/{'0' * 32}"),
                ("GET", f"upload/status/{'0' * 32}/events"),
                ("GET", "upload/sessions"),
                ("POST", "upload/cleanup"),
                ("GET", "nowhere"),
            ]:
                reply = await api.call(method, path)
                assert (reply.status, reply.problem) == (401, "unauthorized")
                assert reply.headers["WWW-Authenticate"].startswith("Bearer")
            for method, path in [
                ("OPTIONS", ""),
                ("OPTIONS", "upload"),
                ("GET", "healthz"),
                ("GET", "readyz"),
                ("GET", "openapi.json"),
            ]:
                assert (await api.call(method, path)).status == 200
        async with open_api(server.url, "hunter2") as api:
            assert (await api.foundation(b"x")).status == 201


async def test_secrets_are_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither tokens nor bodies are in any log line or problem, whatever is logged."""
    caplog.set_level(logging.DEBUG)
    config = ServerConfig(directory=tmp_path, port=0, tokens=(Secret("me:hunter2"),))
    async with (
        running_server(config) as server,
        open_api(server.url, "hunter2") as good,
        open_api(server.url, "wrong-one") as bad,
    ):
        await good.foundation(b"body-secret")
        refused = [
            await bad.foundation(b"x"),
            await good.foundation(b"x", Authorization="Basic hunter2"),
            await good.foundation(b"body-secret", Content_Digest=digest_field(b"x")),
            await good.call("POST", "upload/resumable", data=b"body-secret"),
            await good.status("0" * 32),
        ]
    assert {reply.status for reply in refused} == {400, 401, 404, 422}
    text = "\n".join(
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("upload_kit")
    )
    assert "upload/foundation" in text
    for secret in ("hunter2", "wrong-one", "body-secret"):
        assert secret not in text
        assert not any(secret in f"{one.headers}{one.body}" for one in refused)


async def test_problem_says_what_to_do(api: UploadApi) -> None:
    """Every problem is RFC 9457 JSON with a next step, never cached or sniffed."""
    for reply in (
        await api.status("0" * 32),
        await api.call("GET", "nowhere"),
        await api.call("PATCH", "upload/sessions"),
    ):
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.body["status"] == reply.status
        assert reply.body["type"].startswith("urn:upload-kit:problem:")
        for member in ("title", "detail", "next_step"):
            assert reply.body[member]
    assert (await api.call("PATCH", "upload/sessions")).headers["Allow"] == "GET"


async def test_many_connections_that_do_nothing(api: UploadApi) -> None:
    """Connections that say nothing keep nobody from uploading."""
    idle = [RawConnection(url_of(api)) for _ in range(100)]
    for connection in idle:
        await connection.__aenter__()
    try:
        assert (await api.foundation(b"x")).status == 201
    finally:
        for connection in idle:
            await connection.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "field",
    [
        *("Accept", "Authorization", "Content-Digest", "Content-Disposition"),
        *("Content-Encoding", "Content-Type", "Expect", "Idempotency-Key", "Origin"),
        *("Range", "Upload-Checksum", "Upload-Concat", "Upload-Metadata"),
        *("Want-Repr-Digest", "X-HTTP-Method-Override"),
    ],
)
async def test_field_that_holds_anything(api: UploadApi, field: str) -> None:
    """Bytes that are no text, and text that is no value, are no failure of ours."""
    values = ("\xff", 'x; filename="\xff"', "http://[", "a \xe4", ",;=:'", "9" * 4400)
    for path, more in (
        ("/upload/foundation", ""),
        ("/files/", "Tus-Resumable: 1.0.0\r\nUpload-Length: 1\r\n"),
    ):
        for value in values:
            async with RawConnection(url_of(api)) as connection:
                head = (
                    f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}"
                    f"{field}: {value}\r\nContent-Length: 1\r\n\r\nx"
                )
                await connection.send(head.encode("latin-1"))
                reply = await connection.reply()
            assert reply.status < 500, (path, value)


async def test_answer_that_nobody_reads(tmp_path: Path) -> None:
    """A client that asks and does not read holds its connection for a while only."""
    async with upload_server(tmp_path, idle_timeout=0.3) as api:
        much = {"a": "x" * 16_000}
        session_id = (await api.begin(1, metadata=much)).body["session_id"]
        with socket.create_connection(("127.0.0.1", port_of(api))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(0)
            # More answers than the system keeps for somebody who does not read.
            question = f"GET /upload/status/{session_id} HTTP/1.1\r\nHost: x\r\n\r\n"
            deaf.sendall(question.encode() * 500)
            await until(lambda: has_ended(deaf))


def port_of(api: UploadApi) -> int:
    return urlsplit(url_of(api)).port or 0


def has_ended(connection: socket.socket) -> bool:
    """Return whether the other end broke a connection off, without reading from it."""
    try:
        connection.send(b"\r")
    except ConnectionError:
        return True
    return False


async def test_pipelined_requests(api: UploadApi) -> None:
    """Requests sent without waiting for answers are answered in order."""
    async with RawConnection(url_of(api)) as connection:
        for number in range(5):
            await connection.head(
                "POST", f"/upload/foundation?name={number}", "Content-Length: 3"
            )
            await connection.send(b"abc")
        names = [(await connection.reply()).body["name"] for _ in range(5)]
    assert names == ["0", "1", "2", "3", "4"]


async def test_bodies_that_are_empty_by_their_headers(api: UploadApi) -> None:
    """Requests that announce no bytes are answered at once, one after another."""
    session_id = await api.begun(b"", 10)
    async with RawConnection(url_of(api)) as connection:
        for _ in range(3):
            await connection.head("POST", "/upload/foundation", "Content-Length: 0")
            assert (await connection.reply()).body["size"] == 0
            path = f"/upload/resumable/{session_id}/chunks/0"
            await connection.head("PUT", path, "Content-Length: 0")
            assert (await connection.reply()).body["size"] == 0
            await connection.head("POST", "/upload/foundation")
            assert (await connection.reply()).body["size"] == 0
