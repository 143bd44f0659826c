"""
HTTP as the adapters use it: one aiohttp session, bodies streamed, errors mapped.

aiohttp's errors become ours here and nowhere else.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

import upload_kit
from upload_kit.destinations.reply import Reply, excerpt
from upload_kit.destinations.wire_clock import LEAST_RATE, Clock, tracing
from upload_kit.errors import (
    ConfigurationError,
    RemoteError,
    RemoteRejected,
    RemoteUnavailable,
    UploadKitError,
)
from upload_kit.locations import redact
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions

logger = logging.getLogger("upload_kit.wire")

# A body this small goes out together with its headers, in one piece.
_SMALL: Final = 64 * KIB
# No answer that an adapter reads is larger; more would only fill the memory.
_MAX_REPLY: Final = 64 * MIB
# Below what servers and proxies keep idle connections open for (nginx: 75 s, S3: 5 s).
_KEEP_ALIVE: Final = 4.0


class Wire:
    """
    Requests of one destination, over one pool of connections.

    Args:
        options: Token, headers, limits.
    """

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    @property
    def response_timeout(self) -> float:
        """Seconds to wait for an answer, unless a request says otherwise."""
        return self._options.response_timeout

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._options.max_connections,
                    keepalive_timeout=_KEEP_ALIVE,
                ),
                headers={"User-Agent": f"upload_kit/{upload_kit.__version__}"}
                | self._credentials(),
                trace_configs=[tracing()],
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=MIB,
            )
        return self._session

    def _credentials(self) -> dict[str, str]:
        headers = {name: value.reveal() for name, value in self._options.headers}
        if self._options.token is not None:
            headers["Authorization"] = f"Bearer {self._options.token.reveal()}"
        return headers

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: ChunkBody | bytes | None = None,
        skip: int = 0,
        response_timeout: float | None = None,
    ) -> Reply:
        """
        Send a request and read the whole answer, whatever its status.

        Args:
            method: In capitals.

            url: Absolute; percent-encoded already.

            headers: Besides the credentials; a body's length is added here.

            body: Streamed when it is a chunk's.

            skip: Bytes of the chunk's wire form to leave out at the start.

            response_timeout: Seconds to wait for the answer once the body was sent, and
                for each of its pieces; None for the one in the options. But for a
                chunk's, the whole of it has to come in that time, and what it takes at
                8 KiB a second.

        Raises:
            RemoteUnavailable: No connection, or it broke, or no answer in time.
            RemoteRejected: The server's certificate is not trusted.
            ConfigurationError: It is no URL.
            UploadKitError: Whatever the body raises while it is streamed.
        """
        target = _target(url)
        sender = _Sender(body, skip)
        seconds = response_timeout or self._options.response_timeout
        clock = Clock(self._options.connect_timeout, sender.time_for(seconds))
        begun = time.perf_counter()
        try:
            async with (
                clock.running(),
                self._open().request(
                    method,
                    target,
                    headers={**sender.headers, **(headers or {})},
                    data=await sender.data(),
                    timeout=aiohttp.ClientTimeout(total=None, sock_read=seconds),
                    allow_redirects=False,
                    trace_request_ctx=clock,
                ) as response,
            ):
                content = await _read(response, url, clock)
                if response.status >= 400:
                    content = self._without_secrets(content)
                if logger.isEnabledFor(logging.DEBUG):
                    seconds = time.perf_counter() - begun
                    _log(method, url, response.status, seconds)
                return Reply(
                    method=method,
                    raw_url=url,
                    status=response.status,
                    headers=response.headers,
                    body=content,
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            shown = redact(url)
            failure = sender.failure or clock.failure(shown)
            raise (failure or _translate(error, method, shown)) from error

    def _without_secrets(self, content: bytes) -> bytes:
        """Hide what some servers echo when they refuse: our own headers."""
        secrets = [value for _, value in self._options.headers]
        if self._options.token is not None:
            secrets.append(self._options.token)
        for secret in filter(None, (each.reveal().encode() for each in secrets)):
            content = content.replace(secret, b"***")
        return content

    async def aclose(self) -> None:
        """Close the connections; safe to call again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Sender:
    """A request's body for aiohttp, which hides what the body itself raises."""

    def __init__(self, body: ChunkBody | bytes | None, skip: int) -> None:
        self._body = body
        self._skip = skip
        self.failure: UploadKitError | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The length, without which aiohttp would send a stream in chunked coding."""
        if self._body is None:
            return {}
        if isinstance(self._body, bytes):
            return {"Content-Length": str(len(self._body))}
        headers = {"Content-Length": str(self._body.size - self._skip)}
        if self._body.encoding is not None:
            headers["Content-Encoding"] = self._body.encoding
        return headers

    def time_for(self, answer: float) -> float | None:
        """Return the seconds to send it in and hear an answer; None for a chunk."""
        if self._body is None or isinstance(self._body, bytes):
            return answer + len(self._body or b"") / LEAST_RATE
        return None

    async def data(self) -> AsyncIterator[memoryview] | memoryview | bytes | None:
        """Return what aiohttp takes as `data`."""
        if self._body is None or isinstance(self._body, bytes):
            return self._body
        if self._body.size <= _SMALL and self._skip == 0:
            return await self._body.read()
        return self._pieces(self._body)

    async def _pieces(self, body: ChunkBody) -> AsyncIterator[memoryview]:
        try:
            async for piece in body.stream(self._skip):
                yield piece
        except UploadKitError as error:
            self.failure = error
            raise


def _log(method: str, url: str, status: int, seconds: float) -> None:
    logger.debug("%s %s -> %d in %.1f ms", method, redact(url), status, 1000 * seconds)


def _target(url: str) -> URL:
    try:
        return URL(url, encoded=True)
    except ValueError as error:
        raise ConfigurationError(f"Not a URL: {redact(url)}.") from error


async def _read(response: aiohttp.ClientResponse, url: str, clock: Clock) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        clock.received(len(piece))
        content += piece
        if len(content) > _MAX_REPLY:
            raise RemoteRejected(
                f"{redact(url)} answered with more than {_MAX_REPLY} bytes."
            )
    return bytes(content)


def _translate(error: Exception, method: str, url: str) -> UploadKitError:
    """Return our error for one of aiohttp's."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unconnected(error, url)
    if isinstance(error, aiohttp.InvalidURL):
        return ConfigurationError(f"Not a URL: {url}.")
    if isinstance(error, TimeoutError):
        return RemoteUnavailable(f"{method} {url} got no answer in time.")
    if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
        return ConfigurationError(f"{method} {url} cannot be sent: {error}.")
    # The text of a ClientResponseError has the whole URL in it.
    said = error.message if isinstance(error, aiohttp.ClientResponseError) else error
    reason = excerpt(str(said)) or type(error).__name__
    return RemoteUnavailable(f"{method} {url} broke off: {reason}.")


def _unconnected(error: aiohttp.ClientConnectorError, url: str) -> RemoteError:
    if isinstance(error, aiohttp.ClientSSLError):
        return RemoteRejected(
            f"No trusted TLS connection to {url}: {error}.",
            hint="Check the certificate, or name its authority in SSL_CERT_FILE.",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return RemoteUnavailable(
            f"The host of {url} cannot be found.", hint="Check its name."
        )
    return RemoteUnavailable(
        f"Cannot connect to {url}: {error.os_error.strerror or error.os_error}.",
        hint="Is the server running, and is the port right?",
    )
