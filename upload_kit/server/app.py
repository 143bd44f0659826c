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
from upload_kit.locations import parse_location
from upload_kit.server.activity import Activities
from upload_kit.server.auth import Tokens
from upload_kit.server.body import Bodies
from upload_kit.server.core import UploadCore
from upload_kit.server.digests import WholeDigests
from upload_kit.server.discard import DiscardStorage
from upload_kit.server.file_locks import HAS_FILE_LOCKS, FileLocker
from upload_kit.server.files import FileCore
from upload_kit.server.folder import FolderStorage
from upload_kit.server.forward import Forwarder
from upload_kit.server.forward_lines import ForwardWatcher
from upload_kit.server.guard import Guard
from upload_kit.server.housekeeping import Housekeeper, recount
from upload_kit.server.joining import JoiningCore
from upload_kit.server.ledger import Ledger
from upload_kit.server.locks import LocalLocker
from upload_kit.server.native import NativeRoutes
from upload_kit.server.native_files import NativeFileRoutes
from upload_kit.server.opened import OpenUploads
from upload_kit.server.outbox import Outbox
from upload_kit.server.parts import Parts
from upload_kit.server.public import PublicRoutes
from upload_kit.server.rates import RateLimits
from upload_kit.server.reporting import Reporter
from upload_kit.server.tus import TusRoutes
from upload_kit.server.watching import Watcher

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from upload_kit.config import Secret
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.locks import Locker
    from upload_kit.server.storage import Storage

log: Final = logging.getLogger("upload_kit.server")

TOKENS: Final = web.AppKey("TOKENS", Tokens)
"""Where the application holds its tokens, to have them read again."""

_GUARD: Final = web.AppKey("_GUARD", Guard)
_ACTIVITIES: Final = web.AppKey("_ACTIVITIES", Activities)

# Threads for files and hashes; some of them wait for the disk rather than compute.
_THREADS: Final = 8

# Seconds that requests which were cut off get to put their things away.
_UNWIND: Final = 5.0

# Seconds that aiohttp adds to that: by then all requests had their time already.
_CUT: Final = 0.1

# Seconds that an answer gets to be read by a client that still sends its body.
_LINGER: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRole:
    """What one process is among several on the same port."""

    cleans: bool = True
    """Whether it cleans up and counts."""

    rates_fd: int | None = None
    """File of the clocks that all of them share; None if there is one process."""


def create_app(
    config: ServerConfig,
    role: WorkerRole = WorkerRole(),
) -> web.Application:
    """
    Build the application; `make_runner` is how it has to be run.

    It opens the folder and counts what is in it, and so may block for a while.

    Args:
        config: Its settings.

        role: What it is among several processes.

    Raises:
        ConfigurationError: The folder or the tokens cannot be used.
    """
    tokens = Tokens(config.tokens, config.token_file)
    rates = RateLimits(
        bytes_per_second=config.rate_limit,
        requests_per_second=config.request_limit,
        fd=role.rates_fd,
    )
    background = ThreadPoolExecutor(1, "upload_kit-background")
    parts = _make_parts(config, background)
    if role.cleans:
        _count(parts)
    server_id = None if parts.outbox is None else parts.outbox.server_id
    guard = Guard(config, tokens, rates, server_id=server_id)
    bodies = Bodies(config, rates, tokens)
    core, housekeeper = UploadCore(parts), Housekeeper(parts, background)
    forwarder = _make_forwarder(parts)
    onward = None if forwarder is None else ForwardWatcher(parts, forwarder)
    reporter = Reporter(config, forwarder)
    native = NativeRoutes(
        config,
        core=core,
        bodies=bodies,
        watcher=Watcher(parts, core, onward),
        housekeeper=housekeeper,
        reporter=reporter,
    )
    files = NativeFileRoutes(
        config, core=FileCore(parts), bodies=bodies, reporter=reporter, onward=onward
    )
    public = PublicRoutes(
        config, guard, parts.storage, pool=parts.pool, forwarder=forwarder
    )
    tus = TusRoutes(
        config, core=JoiningCore(parts), files=FileCore(parts), bodies=bodies
    )

    app = web.Application(middlewares=[guard.middleware])
    app[TOKENS] = tokens
    app[_GUARD] = guard
    app[_ACTIVITIES] = parts.activities
    routes = (*native.routes(), *files.routes(), *public.routes(), *tus.routes(guard))
    for route in routes:
        path = config.prefix + route.path
        app.router.add_route(
            route.method, path, route.handler, expect_handler=_leave_to_body
        )

    async def resources(_app: web.Application) -> AsyncIterator[None]:
        working = []
        if role.cleans:
            working.append(asyncio.create_task(housekeeper.keep_clean()))
        if forwarder is not None:
            forwarding = forwarder.run(revive=role.cleans)
            working.append(asyncio.create_task(forwarding))
        yield
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await guard.until_idle(_UNWIND)
        await _close(parts, rates, background)

    app.on_response_prepare.append(guard.tell_browser)
    app.cleanup_ctx.append(resources)
    app.on_shutdown.append(_drain)
    tus.attach(app)
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
        lingering_time=_LINGER,
        shutdown_timeout=_CUT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that runs in this event loop."""

    url: str
    """Base URL, with a slash at its end."""

    port: int
    """TCP port."""

    app: web.Application
    """The application."""


@asynccontextmanager
async def running_server(
    config: ServerConfig,
    *,
    listener: socket.socket | None = None,
    role: WorkerRole = WorkerRole(),
) -> AsyncIterator[RunningServer]:
    """
    Run a server in the current event loop until the context ends.

    Args:
        config: Its settings; several workers are for `serve` alone.

        listener: A bound socket to listen on, instead of `host` and `port`.

        role: What it is among several processes.

    Raises:
        ConfigurationError: The folder, the tokens or the address cannot be used.
    """
    if config.workers != 1 and listener is None:
        raise ConfigurationError("A server in this process has one worker.")
    app = await asyncio.to_thread(create_app, config, role)
    runner = make_runner(app, config)
    try:
        await runner.setup()
        port = await _listen(runner, config, listener)
        yield RunningServer(url=base_url(config, port), port=port, app=app)
    finally:
        await _stop(runner, config.grace)


async def _stop(runner: web.AppRunner, grace: float) -> None:
    """
    Take no more requests, let the open ones end, and cut off what is left of them.

    aiohttp would take no more bytes of the open ones either, so they get their time
    before it hears of it.
    """
    for site in list(runner.sites):
        await site.stop()
    await _drain(runner.app)
    await runner.app[_GUARD].until_idle(grace)
    await runner.cleanup()


async def _drain(app: web.Application) -> None:
    """Refuse what comes from now on, and send watchers away; safe to call again."""
    app[_GUARD].drain()
    app[_ACTIVITIES].close()


def base_url(config: ServerConfig, port: int) -> str:
    """Return the URL that a client on this machine can use."""
    every = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (looked up, not bound)
    host = every.get(config.host, config.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{config.prefix}/"


def _make_parts(config: ServerConfig, background: ThreadPoolExecutor) -> Parts:
    pool = ThreadPoolExecutor(_THREADS, "upload_kit-server")
    storage: Storage
    locker: Locker = LocalLocker(config.busy_timeout)
    ledger_path, outbox = None, None
    if config.discards:
        storage = DiscardStorage()
    else:
        storage = folder = _open_folder(config)
        ledger_path, outbox = folder.ledger_path, _open_outbox(config)
        if HAS_FILE_LOCKS:
            locker = FileLocker(folder.lock_path, pool, config.busy_timeout)
    uploads = OpenUploads(storage, pool)
    follow = config.workers == 1 and storage.is_readable
    return Parts(
        config=config,
        storage=storage,
        uploads=uploads,
        locker=locker,
        ledger=Ledger(
            ledger_path, quota=config.quota, max_sessions=config.max_sessions
        ),
        digests=WholeDigests(uploads, pool, background, follow=follow),
        activities=Activities(),
        pool=pool,
        outbox=outbox,
    )


def _make_forwarder(parts: Parts) -> Forwarder | None:
    """Make what forwards, where that is wanted."""
    if parts.outbox is None or parts.config.forward is None:
        return None
    return Forwarder(parts, parts.config.forward, parts.outbox)


def _count(parts: Parts) -> None:
    try:
        recount(parts.storage, parts.ledger)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot keep books in {parts.config.directory}: {error.strerror}."
        ) from error


def _open_folder(config: ServerConfig) -> FolderStorage:
    try:
        return FolderStorage(Path(config.directory), config.durability)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot keep uploads in {config.directory}: {error.strerror}."
        ) from error


def _open_outbox(config: ServerConfig) -> Outbox | None:
    if config.forward is None:
        return None
    if _is_below(config.forward.url, Path(config.directory)):
        raise ConfigurationError(
            "Files cannot be forwarded into the server's own folder"
            f" {config.directory}.",
            hint="One of them could take another one's place: name another folder.",
        )
    try:
        return Outbox(Path(config.directory), config.durability)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot forward from {config.directory}: {error.strerror}."
        ) from error


def _is_below(url: Secret, directory: Path) -> bool:
    """Return whether a URL leads into a folder of this machine."""
    location = parse_location(url.reveal())
    if location.scheme != "file":
        return False
    return Path(location.path).resolve().is_relative_to(directory.resolve())


async def _listen(
    runner: web.AppRunner, config: ServerConfig, listener: socket.socket | None
) -> int:
    site: web.BaseSite
    if listener is None:
        site = web.TCPSite(runner, config.host, config.port)
    else:
        site = web.SockSite(runner, listener)
    try:
        await site.start()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {config.host}:{config.port}: {error.strerror}."
        ) from error
    port: int = runner.addresses[0][1]
    return port


async def _close(
    parts: Parts, rates: RateLimits, background: ThreadPoolExecutor
) -> None:
    await parts.digests.aclose()
    parts.uploads.close()
    parts.storage.close()
    parts.ledger.close()
    rates.close()
    parts.pool.shutdown(wait=False)
    background.shutdown(wait=False)


async def _leave_to_body(_request: web.Request) -> None:
    """Let the body say 100 Continue, once it is certain that it is wanted."""
