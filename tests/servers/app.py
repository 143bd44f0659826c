"""Applications of a test's own making, run in its event loop."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from types import TracebackType


@asynccontextmanager
async def running_app(
    app: web.Application,
    *,
    receive_buffer: int | None = None,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[str]:
    """
    Run an application on a free port of loopback; yield its URL, without a path.

    Args:
        app: What answers.

        receive_buffer: Bytes that the system takes in before somebody reads; None for
            as many as it likes.

        context: For TLS; None for plain HTTP.

        options: Of the runner.
    """
    listener = socket.socket()
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener.bind(("127.0.0.1", 0))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **options)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=context).start()
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


class AppServer(ABC):
    """
    A server of its own routes, as long as the context lasts.

    Args:
        options: Of `running_app`.
    """

    def __init__(self, **options: Any) -> None:
        self.origin = ""
        self.running = AsyncExitStack()
        self._how = {"auto_decompress": False, **options}

    @abstractmethod
    def make_app(self) -> web.Application:
        """Return what answers; bodies come to it as they were sent."""

    async def __aenter__(self) -> Self:
        running = running_app(self.make_app(), **self._how)
        self.origin = await self.running.enter_async_context(running)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.running.aclose()
