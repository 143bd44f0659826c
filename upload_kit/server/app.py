"""The aiohttp application: what it is made of, and how it runs."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from upload_kit.errors import ConfigurationError
from upload_kit.server.auth import Tokens
from upload_kit.server.body import Bodies
from upload_kit.server.core import UploadCore
from upload_kit.server.digests import WholeDigests
from upload_kit.server.folder import FolderStorage
from upload_kit.server.guard import Guard, public
from upload_kit.server.locks import LocalLocker
from upload_kit.server.native import NativeRoutes
from upload_kit.server.opened import OpenUploads
from upload_kit.server.replies import json_response

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from upload_kit.server.config import ServerConfig
    from upload_kit.server.storage import Storage

log: Final = logging.getLogger("upload_kit.server")

# Threads for files and hashes; some of them wait for the disk rather than compute.
_THREADS: Final = 8


def create_app(config: ServerConfig) -> web.Application:
    """
    Build the application; `make_runner` is how it has to be run.

    Raises:
        ConfigurationError: The folder or the tokens cannot be used.
    """
    storage = _open_storage(config)
    pool = ThreadPoolExecutor(_THREADS, "upload_kit-server")
    background = ThreadPoolExecutor(1, "upload_kit-digests")
    tokens = Tokens(config.tokens, config.token_file)
    uploads = OpenUploads(storage, pool)
    digests = WholeDigests(uploads, pool, background, follow=config.workers == 1)
    core = UploadCore(
        config,
        storage=storage,
        locker=LocalLocker(config.busy_timeout),
        uploads=uploads,
        digests=digests,
        pool=pool,
    )
    guard = Guard(config, tokens)
    native = NativeRoutes(config, core, Bodies(config))
    app = web.Application(middlewares=[guard.middleware])
    for route in (*native.routes(), *_open_routes(native)):
        app.router.add_route(
            route.method,
            config.prefix + route.path,
            route.handler,
            expect_handler=_later,
        )

    async def resources(_app: web.Application) -> AsyncIterator[None]:
        yield
        await digests.aclose()
        uploads.close()
        storage.close()
        pool.shutdown(wait=False)
        background.shutdown(wait=False)

    async def drain(_app: web.Application) -> None:
        guard.drain()

    app.cleanup_ctx.append(resources)
    app.on_shutdown.append(drain)
    return app


def make_runner(app: web.Application, config: ServerConfig) -> web.AppRunner:
    """
    Return what runs the application.

    Bodies stay as they were sent: aiohttp would undo their codings without a bound.
    """
    return web.AppRunner(
        app,
        auto_decompress=False,
        access_log=None,
        keepalive_timeout=config.header_timeout,
        lingering_time=2.0,
        shutdown_timeout=config.grace,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that runs in this event loop."""

    url: str
    """Base URL, with a slash at its end."""

    port: int
    """TCP port."""


@asynccontextmanager
async def running_server(
    config: ServerConfig, *, listener: socket.socket | None = None
) -> AsyncIterator[RunningServer]:
    """
    Run a server in the current event loop until the context ends.

    Args:
        config: Its settings; `workers` has to be 1.

        listener: A bound socket to listen on, instead of `host` and `port`.

    Raises:
        ConfigurationError: The folder, the tokens or the address cannot be used.
    """
    if config.workers != 1 and listener is None:
        raise ConfigurationError("A server in this process has one worker.")
    app = await asyncio.to_thread(create_app, config)
    runner = make_runner(app, config)
    await runner.setup()
    try:
        site: web.BaseSite = (
            web.TCPSite(runner, config.host, config.port)
            if listener is None
            else web.SockSite(runner, listener)
        )
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {config.host}:{config.port}: {error.strerror}."
            ) from error
        port = runner.addresses[0][1]
        yield RunningServer(url=base_url(config, port), port=port)
    finally:
        await runner.cleanup()


def base_url(config: ServerConfig, port: int) -> str:
    """Return the URL that a client on this machine can use."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 (compared, not bound)
        config.host, config.host
    )
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{config.prefix}/"


def _open_storage(config: ServerConfig) -> Storage:
    try:
        return FolderStorage(Path(config.directory), config.durability)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot keep uploads in {config.directory}: {error.strerror}."
        ) from error


def _open_routes(native: NativeRoutes) -> list[web.RouteDef]:
    """Return the routes that need no token."""

    @public
    async def discover(_request: web.Request) -> web.Response:
        return json_response(native.discovery(), headers={"Upload-Kit-Version": "1"})

    @public
    async def health(_request: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    return [
        web.options("/", discover),
        web.options("/upload", discover),
        web.get("/healthz", health),
        web.get("/readyz", health),
    ]


async def _later(_request: web.Request) -> None:
    """Let the body say 100 Continue, once it is certain that it is wanted."""
