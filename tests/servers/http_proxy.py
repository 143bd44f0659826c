"""Proxies before an HTTP server: what all share, and one that meddles."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Final, Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.servers.app import AppServer

if TYPE_CHECKING:
    from collections.abc import Callable

# What is no shorter is a body with bytes of a file, not one that describes it.
_BODY: Final = 50_000
_OF_ONE_CONNECTION: Final = ("Transfer-Encoding", "Connection", "Date", "Server")


class HttpProxy(AppServer):
    """
    Stands before a server, on a free port of loopback, in the running event loop.

    Args:
        upstream: URL of the server, without a path.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = upstream
        self._client: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return self.origin

    @property
    def port(self) -> int:
        """Where it listens."""
        return URL(self.origin).port or 0

    def make_app(self) -> web.Application:
        """Return what hands everything on."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def __aenter__(self) -> Self:
        client = aiohttp.ClientSession(auto_decompress=False)
        self._client = await self.running.enter_async_context(client)
        return await super().__aenter__()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request; a subclass may do something else than hand it on."""
        return await self.forward(request, await request.read())

    async def forward(self, request: web.Request, body: bytes) -> web.Response:
        """Hand a request on; the host's name stays, as it may be signed."""
        assert self._client is not None
        async with self._client.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=request.headers,
            data=io.BytesIO(body),
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
            headers = answer.headers.copy()
        for name in _OF_ONE_CONNECTION:
            headers.popall(name, None)
        if request.method != "HEAD":
            headers.popall("Content-Length", None)
        return web.Response(status=answer.status, headers=headers, body=content)


class Meddler(HttpProxy):
    """
    Refuses and spoils bytes of files, and tells lies in the server's name.

    Args:
        upstream: URL of the server, without a path.

        lie: Makes a lie of an answer; False if it is none that could become one.
    """

    def __init__(
        self,
        upstream: str,
        lie: Callable[[web.Request, web.Response], bool] | None = None,
    ) -> None:
        super().__init__(upstream)
        self.refuse = 0
        """How many bodies are refused from now on."""
        self.spoil = 0
        """In how many bodies a bit is turned over from now on."""
        self.lies = 0
        """How many lies are told from now on."""
        self.told = 0
        """How many were told."""
        self.came: list[float] = []
        """When bodies came, in seconds of a clock that never jumps."""
        self._lie = lie

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Refuse a request, or hand it on and perhaps lie about it."""
        body = await request.read()
        if len(body) >= _BODY:
            self.came.append(time.monotonic())
            if self.refuse > 0:
                self.refuse -= 1
                return web.Response(status=503, headers={"Retry-After": "1"})
            if self.spoil > 0:
                self.spoil -= 1
                body = bytes([body[0] ^ 1]) + body[1:]
        answer = await self.forward(request, body)
        if self._lie is not None and self.lies > 0 and self._lie(request, answer):
            self.lies -= 1
            self.told += 1
        return answer
