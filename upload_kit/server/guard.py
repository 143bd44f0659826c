"""What stands around every request: who asks, may they, and what if it fails."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from upload_kit.server.problems import ProblemType, UploadProblem, from_os_error
from upload_kit.server.replies import OWNER, problem_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Handler

    from upload_kit.server.auth import Tokens
    from upload_kit.server.config import ServerConfig

    _Public = TypeVar(
        "_Public", bound=Callable[[web.Request], Awaitable[web.StreamResponse]]
    )

log: Final = logging.getLogger("upload_kit.server")

_PUBLIC: Final = "_upload_kit_public"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def public(handler: _Public) -> _Public:
    """Mark a handler as one that needs no token."""
    setattr(handler, _PUBLIC, True)
    return handler


class Guard:
    """
    The one middleware.

    Args:
        config: Who may come from where.

        tokens: Who is known.
    """

    def __init__(self, config: ServerConfig, tokens: Tokens) -> None:
        self._config = config
        self._tokens = tokens
        self._draining = False
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_hex(4)

    def drain(self) -> None:
        """Refuse every request from now on: the server stops."""
        self._draining = True

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Answer a request, whatever happens."""
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        begun = time.perf_counter()
        response = await self._answer(request, handler, request_id)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
            response.headers["X-Content-Type-Options"] = "nosniff"
            if not request.content.is_eof():
                # What is left of the body is not wanted; it must not pass for the next
                # request.
                response.force_close()
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s %s %s -> %d in %.1f ms",
                request_id,
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
            self._admit(request)
            return await handler(request)
        except UploadProblem as problem:
            return problem_response(problem)
        except web.HTTPException as error:
            return _from_http(error)
        except web.RequestPayloadError as error:
            return _problem(ProblemType.MALFORMED, f"The body is broken: {error}.")
        except ConnectionError:
            # The sender is gone; aiohttp knows what to do.
            raise
        except Exception as error:
            known = from_os_error(error) if isinstance(error, OSError) else None
            if known is None:
                # The outermost edge: logged here, and told to the client by its ID.
                log.exception(
                    "%s %s %s failed", request_id, request.method, request.path
                )
                detail = f"Request {request_id} failed inside the server."
                known = UploadProblem(ProblemType.INTERNAL, detail)
            return problem_response(known)

    def _admit(self, request: web.Request) -> None:
        """Refuse who may not ask; note whose request it is."""
        if getattr(request.match_info.handler, _PUBLIC, False):
            return
        if self._draining:
            raise UploadProblem(
                ProblemType.SHUTTING_DOWN, "The server takes no more requests."
            )
        self._check_expectation(request)
        self._check_origin(request)
        request[OWNER] = self._tokens.owner(request.headers.get("Authorization"))

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
        if origin in self._config.allowed_origins:
            return
        parts = urlsplit(origin)
        same = parts.netloc.lower() == request.host.lower()
        if same and (not self._config.is_loopback or parts.hostname in _LOOPBACK_NAMES):
            return
        raise UploadProblem(
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
