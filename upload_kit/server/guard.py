"""What stands around every request: who asks, may they, and what if it fails."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import socket
import time
from contextlib import suppress
from traceback import clear_frames
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from upload_kit.logs import about
from upload_kit.server.cors import Cors
from upload_kit.server.fields import parse_servers
from upload_kit.server.problems import ProblemType, UploadProblem, as_problem
from upload_kit.server.replies import CAME_THROUGH, CLIENT, OWNER, problem_response
from upload_kit.via import VIA

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from upload_kit.server.auth import Tokens
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.rates import RateLimits

log: Final = logging.getLogger("upload_kit.server")

_METHODS: Final = "GET, POST, PUT, DELETE, OPTIONS"
_EXPOSED: Final = "Retry-After, X-Request-Id"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """
    The one middleware.

    Args:
        config: Who may come from where.

        tokens: Who is known.

        rates: How often somebody may come.

        server_id: What files that this server forwarded came through; None if it
            forwards none.
    """

    def __init__(
        self,
        config: ServerConfig,
        tokens: Tokens,
        rates: RateLimits,
        *,
        server_id: str | None,
    ) -> None:
        self._config = config
        self._tokens = tokens
        self._rates = rates
        self._server_id = server_id
        self._draining = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open_handlers: set[object] = set()
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_hex(4)
        self._cors = Cors(config.allowed_origins, methods=_METHODS, exposed=_EXPOSED)
        self._native = f"{config.prefix}/upload"

    async def tell_browser(
        self, request: web.Request, response: web.StreamResponse
    ) -> None:
        """Say which pages may see an answer; other protocols say so themselves."""
        if request.path.startswith(self._native):
            self._cors.add(request, response)

    def _asks_ahead(self, request: web.Request) -> bool:
        """Return whether a browser asks what a page may send; it shows no token."""
        return (
            request.method == "OPTIONS"
            and "Access-Control-Request-Method" in request.headers
            and request.path.startswith(self._native)
        )

    async def until_idle(self, timeout: float) -> None:
        """Wait until every request that was cut off has put its things away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._idle.wait()

    def open_to_all(self, handler: object) -> None:
        """Let everybody call a handler, with a token or without."""
        self._open_handlers.add(handler)

    @property
    def is_draining(self) -> bool:
        """Whether the server stops."""
        return self._draining

    def drain(self) -> None:
        """Refuse every request from now on: the server stops."""
        self._draining = True

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Answer a request, whatever happens."""
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        with about(request=request_id):
            return await self._serve(request, handler, request_id)

    async def _serve(
        self, request: web.Request, handler: Handler, request_id: str
    ) -> web.StreamResponse:
        begun = time.perf_counter()
        _give_up_deaf(request, self._config.idle_timeout)
        self._active += 1
        self._idle.clear()
        try:
            response = await self._answer(request, handler, request_id)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
            response.headers["X-Content-Type-Options"] = "nosniff"
        if not request.content.is_eof():
            # What is left of the body is not wanted, and no request comes after it.
            response.force_close()
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s %s -> %d in %.1f ms",
                request.method,
                request.path,
                response.status,
                1000 * (time.perf_counter() - begun),
            )
        return response

    async def _answer(
        self, request: web.Request, handler: Handler, request_id: str
    ) -> web.StreamResponse:
        try:
            if self._asks_ahead(request):
                return web.Response(status=204)
            self._admit(request)
            return await handler(request)
        except Exception as error:  # noqa: BLE001 (the outermost edge: told and logged)
            response = _explain(error, request_id)
            _let_go(error)
            return response

    def _admit(self, request: web.Request) -> None:
        """Refuse who may not ask; note whose request it is."""
        if request.match_info.handler in self._open_handlers:
            return
        if self._draining:
            raise UploadProblem(
                ProblemType.SHUTTING_DOWN, "The server takes no more requests."
            )
        self._check_expectation(request)
        self._check_origin(request)
        owner = self._tokens.owner(request.headers.get("Authorization"))
        request[OWNER] = owner
        request[CLIENT] = f"at-{request.remote}" if self._tokens.is_open else owner
        self._rates.admit(request[CLIENT])
        request[CAME_THROUGH] = self._came_through(request)

    def _came_through(self, request: web.Request) -> tuple[str, ...]:
        """Return the servers that a file came through, none of which is this one."""
        via = parse_servers(request.headers.get(VIA, ""))
        if self._server_id in via:
            raise UploadProblem(
                ProblemType.LOOP, "This server forwarded the file that comes back here."
            )
        return via

    @staticmethod
    def _check_expectation(request: web.Request) -> None:
        expect = request.headers.get("Expect", "100-continue")
        if expect.lower() != "100-continue":
            raise UploadProblem(
                ProblemType.EXPECTATION, f"Nothing is known of {expect[:40]!r}."
            )

    def _check_origin(self, request: web.Request) -> None:
        """
        Keep other people's web pages off a server that asks for no token.

        A browser sends their forms here without asking, and their scripts as well once
        the page's own name was made to point here.
        """
        origin = request.headers.get("Origin")
        if origin is None or not self._tokens.is_open:
            return
        if {origin, "*"} & self._config.allowed_origins:
            return
        try:
            parts = urlsplit(origin)
        except ValueError:
            raise _other_origin() from None
        same = parts.netloc.lower() == request.host.lower()
        if same and (not self._config.is_loopback or parts.hostname in _LOOPBACK_NAMES):
            return
        raise _other_origin()


def _give_up_deaf(request: web.Request, seconds: float) -> None:
    """
    Have the kernel end a connection whose other end reads nothing for so long.

    aiohttp waits without a limit for an answer to be read.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    connection = request.get_extra_info("socket")
    if option is not None and connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, int(1000 * seconds))


def _explain(error: Exception, request_id: str) -> web.Response:
    """Answer a request that failed."""
    if isinstance(error, web.HTTPException):
        return _from_http(error)
    if isinstance(error, web.RequestPayloadError):
        return _problem(ProblemType.MALFORMED, f"The body is broken: {error}.")
    if isinstance(error, ConnectionError):
        # The sender is gone, and nobody reads this; raised, aiohttp would log it as a
        # failure of ours, with a traceback.
        return web.Response(status=499, reason="Client Closed Request")
    return problem_response(as_problem(error, f"Request {request_id}"))


def _let_go(error: BaseException | None) -> None:
    """
    Drop what was received and is held by a failure's frames only.

    An error that is kept by something in its own frames, as aiohttp's streams keep
    theirs, is garbage that Python looks for seldom: see `tune_memory`.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _other_origin() -> UploadProblem:
    return UploadProblem(
        ProblemType.FORBIDDEN, "Pages of another origin may not upload here."
    )


def _from_http(error: web.HTTPException) -> web.Response:
    if error.status == 405:
        response = _problem(ProblemType.METHOD, error.reason)
        response.headers["Allow"] = error.headers.get("Allow", "")
        return response
    if error.status == 404:
        return _problem(ProblemType.NOT_FOUND, "There is nothing at this address.")
    return _problem(ProblemType.MALFORMED, error.reason)


def _problem(type_: ProblemType, detail: str) -> web.Response:
    return problem_response(UploadProblem(type_, detail))
