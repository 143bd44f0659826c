"""A server in this process, beside the uploads: for demonstrations, tests, a lab."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self

from upload_kit.bridge import bridge
from upload_kit.config import Secret
from upload_kit.server.app import running_server
from upload_kit.server.config import Durability, ServerConfig

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from upload_kit.server.app import RunningServer

# Seconds for it to listen, and to let go.
_PATIENCE: Final = 30.0


class EmbeddedServer:
    """
    A server in the bridge's thread; it stops when its context ends, or with `close`.

    Made by `serve`. What it acknowledged survives this process, not a loss of power.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._closing: asyncio.Event | None = None
        self._running = bridge.run(self._start(), timeout=_PATIENCE)

    async def _start(self) -> RunningServer:
        self._closing = asyncio.Event()
        self._started: asyncio.Future[RunningServer]
        self._started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._serve(self._closing))
        waited: set[asyncio.Future[Any]] = {self._task, self._started}
        # Limited by whoever called us.
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        return self._started.result()

    async def _serve(self, closing: asyncio.Event) -> None:
        async with running_server(self._config) as server:
            self._started.set_result(server)
            # No limit: it runs until somebody closes it, or the program ends.
            await closing.wait()

    @property
    def url(self) -> str:
        """Base URL, with a slash at its end: the destination of uploads."""
        return self._running.url

    @property
    def port(self) -> int:
        """TCP port."""
        return self._running.port

    def close(self) -> None:
        """Stop; open requests get a few seconds. Safe to call again."""
        if not self._task.done():
            bridge.run(self._close(), timeout=_PATIENCE)

    async def _close(self) -> None:
        assert self._closing is not None
        self._closing.set()
        await asyncio.wait({self._task})

    def __enter__(self) -> Self:
        """Return the server, which runs already."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.close()

    def __repr__(self) -> str:
        """Tell where, and whether it still runs."""
        state = "closed" if self._task.done() else "running"
        return f"<Server {self.url} on {str(self._config.directory)!r}, {state}>"


def serve(
    directory: str | os.PathLike[str],
    *,
    port: int = 0,
    token: str | Secret | None = None,
    max_size: int | None = None,
) -> EmbeddedServer:
    """
    Start a server on this machine's loopback address, and return once it listens.

    For one that others can reach, run `upload-kit serve`.

    Args:
        directory: Where files go; `null:` counts, hashes and throws away.

        port: TCP port; 0 takes a free one.

        token: What clients have to know; None lets every program of this machine in.

        max_size: Bytes of one file; None for no limit.

    Returns:
        The running server; use it as a context, or `close` it.

    Raises:
        ConfigurationError: The folder or the port cannot be used.

    Example:
        >>> with serve("store/") as server:  # doctest: +SKIP
        ...     upload("big.bin", server.url)
    """
    bridge.refuse_here()
    text = token.reveal() if isinstance(token, Secret) else token
    return EmbeddedServer(
        ServerConfig(
            directory=str(directory),
            port=port,
            # With a name before it, a token may hold a colon itself.
            tokens=() if text is None else (Secret(f"user:{text}"),),
            durability=Durability.PAGE_CACHE,
            max_size=max_size,
        )
    )
