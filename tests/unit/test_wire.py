"""HTTP as the adapters use it: what is sent, and what every failure becomes."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
import random
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from tests.flow import CountingFlow, body_of, chunk_of
from tests.servers.app import running_app
from tests.servers.tcp import TcpServer
from upload_kit.bodies import StreamedBody
from upload_kit.config import ConnectionOptions, Secret
from upload_kit.destinations.reply import Reply
from upload_kit.destinations.wire import Wire
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    IntegrityError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    SourceChanged,
    UploadKitError,
)
from upload_kit.models import ChunkMetadata, UploadSession
from upload_kit.planning import Plan
from upload_kit.sources.memory import BytesSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.usefixtures("nothing_left")

HIDDEN: Final = "s3cr3t"
SIGNED_BY_ITSELF: Final = Path(__file__).parent.parent / "servers" / "self_signed.pem"
DATA: Final = random.Random(9).randbytes(2_000_000)


@asynccontextmanager
async def answering(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    *,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Run a server with one handler; yield its URL."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", handler)
    async with running_app(app, context=context, lingering_time=0.1) as origin:
        yield f"{origin}/"


@asynccontextmanager
async def wire_of(**options: Any) -> AsyncIterator[Wire]:
    wire = Wire(ConnectionOptions(**options))
    try:
        yield wire
    finally:
        await wire.aclose()


async def echo(request: web.Request) -> web.Response:
    """Say what came."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": dict(request.headers),
            "size": len(body),
        }
    )


async def request(url: str, method: str = "GET", **options: Any) -> Reply:
    async with wire_of(**options) as wire:
        return await wire.request(method, url)


class TestSending:
    async def test_credentials_and_name_go_with_every_request(self) -> None:
        """A bearer token, the user's own headers, and who we are."""
        options: dict[str, Any] = {
            "token": Secret(HIDDEN),
            "headers": (("X-Project", Secret("seven")),),
        }
        async with answering(echo) as url:
            sent = (await request(url, **options)).json()["headers"]
        assert sent["Authorization"] == f"Bearer {HIDDEN}"
        assert sent["X-Project"] == "seven"
        assert sent["User-Agent"].startswith("upload_kit/")
        assert "Cookie" not in sent

    async def test_user_and_password_of_the_url(self) -> None:
        """They go as basic authentication, and stay out of the path."""
        async with answering(echo) as url:
            reply = await request(url.replace("//", f"//user:{HIDDEN}@"))
            sent = reply.json()["headers"]
        assert sent["Authorization"].startswith("Basic ")
        assert HIDDEN not in reply.url
        assert HIDDEN not in repr(reply)

    async def test_token_and_password_together(self) -> None:
        """Only one of them can go: told at once, not tried ten times."""
        async with answering(echo) as url:
            with pytest.raises(ConfigurationError, match="AUTHORIZATION") as raised:
                await request(
                    url.replace("//", f"//user:{HIDDEN}@"), token=Secret("other")
                )
        assert HIDDEN not in str(raised.value)

    async def test_path_goes_as_it_is_written(self) -> None:
        """Percent-encoded once, by the adapter; never decoded or encoded again."""
        async with answering(echo) as url:
            reply = await request(url + "a%2Fb%20c/%E2%82%AC?x=%26&y=1+2")
        assert reply.json()["path"] == "/a%2Fb%20c/%E2%82%AC?x=%26&y=1+2"

    @pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, len(DATA)])
    async def test_length_is_always_said(self, size: int) -> None:
        """Nothing goes in chunked coding, which many servers refuse."""
        data = DATA[:size]
        chunk = chunk_of(data, Plan(size=size, chunk_size=max(1, size)), 0)
        async with answering(echo) as url, wire_of() as wire:
            reply = await wire.request("PUT", url, body=body_of(data, chunk))
        sent = reply.json()
        assert sent["size"] == size
        assert sent["headers"]["Content-Length"] == str(size)
        assert "Transfer-Encoding" not in sent["headers"]

    async def test_bytes_that_are_skipped_are_not_said(self) -> None:
        """The length is that of the rest."""
        chunk = chunk_of(DATA, Plan(size=len(DATA), chunk_size=len(DATA)), 0)
        async with answering(echo) as url, wire_of() as wire:
            reply = await wire.request("PUT", url, body=body_of(DATA, chunk), skip=7)
        assert reply.json()["size"] == len(DATA) - 7

    async def test_connection_is_used_again(self) -> None:
        """One handshake for many requests."""
        ports = set()

        async def note(request: web.Request) -> web.Response:
            assert request.transport is not None
            ports.add(request.transport.get_extra_info("peername")[1])
            return web.Response()

        async with answering(note) as url, wire_of() as wire:
            for _ in range(5):
                await wire.request("GET", url)
        assert len(ports) == 1

    async def test_redirect_is_not_followed(self) -> None:
        """A token must not go to wherever a server points."""
        seen = []

        async def redirect(request: web.Request) -> web.Response:
            seen.append(request.path)
            return web.Response(status=307, headers={"Location": "/elsewhere"})

        async with answering(redirect) as url:
            reply = await request(url)
        assert (reply.status, seen) == (307, ["/"])
        assert isinstance(reply.error(), RemoteRejected)

    async def test_closing_twice(self) -> None:
        """And before anything was opened."""
        wire = Wire(ConnectionOptions())
        await wire.aclose()
        async with answering(echo) as url:
            await wire.request("GET", url)
            await wire.aclose()
            await wire.aclose()

    async def test_slow_body_may_take_longer_than_the_answer(self) -> None:
        """The wait for an answer begins once the body was sent."""

        class Hesitant(CountingFlow):
            async def admit(self, size: int) -> None:
                await asyncio.sleep(0.3)

        chunk = chunk_of(DATA, Plan(size=len(DATA), chunk_size=len(DATA)), 0)
        body = body_of(DATA, chunk, Hesitant(len(DATA) // 4))
        async with answering(echo) as url, wire_of(response_timeout=0.5) as wire:
            reply = await wire.request("PUT", url, body=body)
        assert reply.status == 200


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, RemoteRejected),
            (401, AuthenticationFailed),
            (403, AuthenticationFailed),
            (404, RemoteGone),
            (405, RemoteRejected),
            (407, AuthenticationFailed),
            (408, RemoteUnavailable),
            (409, RemoteRejected),
            (410, RemoteGone),
            (411, RemoteRejected),
            (413, RemoteRejected),
            (415, RemoteRejected),
            (422, IntegrityError),
            (423, RemoteUnavailable),
            (425, RemoteUnavailable),
            (429, RemoteUnavailable),
            (500, RemoteUnavailable),
            (501, RemoteRejected),
            (502, RemoteUnavailable),
            (503, RemoteUnavailable),
            (504, RemoteUnavailable),
            (505, RemoteRejected),
            (507, RemoteUnavailable),
        ],
    )
    async def test_status_becomes_an_error(
        self, status: int, kind: type[UploadKitError]
    ) -> None:
        """One table for every destination."""

        async def refuse(request: web.Request) -> web.Response:
            return web.Response(status=status, text="because")

        async with answering(refuse) as url:
            reply = await request(url)
        error = reply.error()
        assert type(error) is kind
        assert f"answered {status}: because." in str(error)
        assert getattr(error, "status", status) == status

    async def test_problem_details_are_told(self) -> None:
        """What went wrong, and what to do next."""
        problem = {
            "title": "No room",
            "detail": "The disk is full",
            "next_step": "Wait.",
        }
        error = reply_of(507, json.dumps(problem).encode(), JSON).error()
        assert "The disk is full." in str(error)
        assert error.hint == "Wait."

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b'"text"',
            b"{",
            b"\xff\xfe",
            b'{"detail": 7, "next_step": [1]}',
            b'{"a":' + b"[" * 100_000,
            b'{"title": "' + b"x" * 100_000 + b'"}',
            b"<html>" + b"x" * 100_000,
            b"\x1b[2J\x1b]0;evil\x07\0",
            b'{"detail": "\\u001b[2J\\u0000"}',
        ],
        ids=lambda body: repr(body[:24]),
    )
    def test_any_body_makes_a_message_that_can_be_shown(self, body: bytes) -> None:
        """Short, and without what would command a terminal."""
        error = reply_of(400, body, JSON).error()
        assert isinstance(error, RemoteRejected)
        assert len(str(error)) < 1000
        assert str(error).isprintable()

    async def test_secret_that_a_server_echoes_is_not_shown(self) -> None:
        """A debugging page that prints our headers gives no token away."""

        async def refuse(request: web.Request) -> web.Response:
            return web.Response(status=400, text=str(dict(request.headers)))

        async with answering(refuse) as url:
            reply = await request(url, token=Secret(HIDDEN))
        assert HIDDEN not in str(reply.error())

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"\xff", b'{"a":' + b"[" * 9999, b'{"a": "\xff"}'],
    )
    def test_answer_that_is_no_json(self, body: bytes) -> None:
        """Then it is not the server we took it for."""
        with pytest.raises(RemoteRejected, match="did not answer with JSON"):
            reply_of(200, body).json()
        with pytest.raises(RemoteRejected, match="did not answer as it should"):
            reply_of(200, body).read_as(UploadSession)
        assert "answered 500" in str(reply_of(500, body, JSON).error())


JSON: Final = {"Content-Type": "application/problem+json"}


def reply_of(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Reply:
    return Reply(
        method="PUT",
        raw_url="http://host/",
        status=status,
        headers=CIMultiDictProxy(CIMultiDict(headers or {})),
        body=body,
    )


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("0", 0.0),
            ("120", 120.0),
            (" 7 ", 7.0),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("٣", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
            ("Fri, 31 Dec 99999 23:59:59 GMT", None),
            ("Fri, 99 Foo 2026 99:99:99 GMT", None),
        ],
        ids=repr,
    )
    def test_value(self, value: str, seconds: float | None) -> None:
        """Seconds or a date; what is neither says nothing."""
        reply = reply_of(503, headers={"Retry-After": value})
        assert reply.retry_after == seconds
        assert isinstance(reply.error(), RemoteUnavailable)

    def test_date_to_come(self) -> None:
        """The wait is until then."""
        then = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
        value = email.utils.format_datetime(then, usegmt=True)
        wait = reply_of(503, headers={"Retry-After": value}).retry_after
        assert wait is not None
        assert 80 < wait <= 90

    def test_endless_number(self) -> None:
        """Longer than anybody waits, and no overflow."""
        wait = reply_of(503, headers={"Retry-After": "9" * 500}).retry_after
        assert wait is not None
        assert wait > 1e9


class TestBrokenConnections:
    async def test_nobody_listens(self) -> None:
        """Refused: the message names the place and asks the right question."""
        async with TcpServer(silent) as server:
            url = f"http://127.0.0.1:{server.port}/"
        with pytest.raises(RemoteUnavailable, match="Cannot connect") as raised:
            await request(url)
        assert url in str(raised.value)
        assert raised.value.hint == "Is the server running, and is the port right?"

    async def test_host_that_does_not_exist(self) -> None:
        """A name that can never be: reserved by RFC 2606."""
        with pytest.raises(RemoteUnavailable, match=r"upload-kit\.invalid"):
            await request("http://upload-kit.invalid/")

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"garbage\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
        ],
        ids=lambda answer: repr(answer[:24]),
    )
    async def test_answer_that_is_no_http(self, answer: bytes) -> None:
        """It may be another server the next time; no secret is in the message."""

        async def answer_and_close(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

        async with TcpServer(answer_and_close) as server:
            url = f"http://user:{HIDDEN}@127.0.0.1:{server.port}/a?sig={HIDDEN}"
            with pytest.raises(RemoteUnavailable, match="broke off") as raised:
                await request(url)
        assert HIDDEN not in str(raised.value)
        assert str(raised.value).isprintable()

    async def test_answer_that_never_comes(self) -> None:
        """After the limit it is given up."""
        async with TcpServer(silent) as server:
            url = f"http://127.0.0.1:{server.port}/"
            with pytest.raises(RemoteUnavailable, match="no answer in time"):
                await request(url, response_timeout=0.1)

    async def test_answer_without_end(self) -> None:
        """No server can fill our memory with what it says."""

        async def pour(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(bytes(1_000_000))
                await writer.drain()

        async with TcpServer(pour) as server:
            with pytest.raises(RemoteRejected, match="more than"):
                await request(f"http://127.0.0.1:{server.port}/")

    @pytest.mark.parametrize(
        "url", ["http://", "http://host:0x50/", "http://host:99999/", "nonsense"]
    )
    async def test_url_that_is_none(self, url: str) -> None:
        """A configuration error, not a broken connection."""
        with pytest.raises(ConfigurationError):
            await request(url)

    async def test_error_of_the_body_comes_as_it_is(self) -> None:
        """A source that changed is no broken connection."""
        source = BytesSource(DATA, name="a")
        chunk = ChunkMetadata(index=0, start=0, size=len(DATA) + 5)
        body = StreamedBody(chunk, source, CountingFlow())
        async with answering(echo) as url, wire_of() as wire:
            with pytest.raises(SourceChanged, match="ended too early"):
                await wire.request("PUT", url, body=body)
            assert (await wire.request("GET", url)).status == 200

    async def test_early_answer_is_heard(self) -> None:
        """A server that refuses before it has everything is not drowned."""

        async def refuse(request: web.Request) -> web.Response:
            return web.Response(status=413, text="too big")

        data = DATA * 10
        chunk = chunk_of(data, Plan(size=len(data), chunk_size=len(data)), 0)
        async with answering(refuse) as url, wire_of() as wire:
            reply = await wire.request("PUT", url, body=body_of(data, chunk))
        assert reply.status == 413

    async def test_certificate_that_nobody_vouches_for(self) -> None:
        """Never trusted, never tried again."""
        context = await asyncio.to_thread(own_certificate)
        async with answering(echo, context=context) as url:
            with pytest.raises(RemoteRejected, match="No trusted TLS") as raised:
                await request(url)
        assert raised.value.hint is not None

    async def test_tls_spoken_to_a_plain_server(self) -> None:
        """A wrong scheme is told as such."""
        async with answering(echo) as url:
            with pytest.raises(RemoteRejected, match="TLS"):
                await request(url.replace("http:", "https:"))


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing until the other side has had enough."""
    await reader.read()


def own_certificate() -> ssl.SSLContext:
    """Return a server's side of TLS, with a certificate signed by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SIGNED_BY_ITSELF)
    return context
