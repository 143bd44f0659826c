"""
A server as one process, or as several on one port.

With several workers this process only watches over them. Each worker listens on the
same port by itself (SO_REUSEPORT), so the kernel spreads connections among them, and
one that dies takes nobody else along.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
import tempfile
import threading
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Final

from upload_kit.errors import ConfigurationError
from upload_kit.server.app import TOKENS, base_url, running_server
from upload_kit.server.file_locks import HAS_FILE_LOCKS
from upload_kit.server.rates import SHARED_SIZE
from upload_kit.server.workers import WorkerSet
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from upload_kit.server.config import ServerConfig

log: Final = logging.getLogger("upload_kit.server")

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's <malloc.h>.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
# Objects until the youngest are looked at, looks until the younger half is, and until
# all are.
_GARBAGE: Final = (1000, 10, 1000)


def serve(config: ServerConfig, *, ready: Callable[[str], None] | None = None) -> None:
    """
    Run a server until SIGTERM or SIGINT; open requests get `grace` seconds then.

    SIGHUP has the token file read again.

    Args:
        config: Its settings.

        ready: Called with the base URL once connections are accepted.

    Raises:
        ConfigurationError: The folder, the tokens, the address or the number of workers
            cannot be used, or this is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "serve() needs the main thread, for signals.",
            hint="Use running_server() elsewhere.",
        )
    _warn_if_exposed(config)
    if config.workers == 1:
        asyncio.run(_serve_one(config, ready))
    else:
        asyncio.run(_serve_many(config, ready))


async def _serve_one(config: ServerConfig, ready: Callable[[str], None] | None) -> None:
    tune_memory()
    async with stop_signal() as stop, running_server(config) as server:
        with on_hangup(server.app[TOKENS].reload):
            if ready is not None:
                ready(server.url)
            await stop.wait()


async def _serve_many(
    config: ServerConfig, ready: Callable[[str], None] | None
) -> None:
    if not HAS_FILE_LOCKS:
        raise ConfigurationError(
            "Several workers need file locks that only Linux has.",
            hint="Use one worker here.",
        )
    with _reserve_port(config) as port, _shared_clocks() as clocks:
        config = replace(config, port=port)
        workers = WorkerSet(config, clocks.fileno())
        async with stop_signal() as stop, workers.running(stop):
            with on_hangup(workers.hang_up):
                if ready is not None:
                    ready(base_url(config, port))
                await stop.wait()


@contextlib.asynccontextmanager
async def stop_signal() -> AsyncIterator[asyncio.Event]:
    """
    Have SIGTERM and SIGINT set an event, for as long as the context lasts.

    It belongs around everything that has to end in order: a second signal changes
    nothing then, and kills nothing either.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def on_hangup(call: Callable[[], None]) -> Iterator[None]:
    """Have SIGHUP call something, for as long as the context lasts."""
    loop = asyncio.get_running_loop()

    def hang_up() -> None:
        try:
            call()
        except ConfigurationError as error:
            log.warning("Nothing has changed: %s", error)
        else:
            log.info("Read the tokens again")

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def tune_memory() -> None:
    """
    Have glibc keep the memory of received pieces, of 256 KiB each, for the next ones.

    By default it gives each of them back to the kernel, which then clears them anew:
    0.4 s of a core for every GiB that is received (measured on Linux 6.18, glibc 2.36).
    Without glibc nothing of that happens.

    And have Python look at all objects for garbage in cycles less often: with 1,000
    uploads under way that held the event loop up for 100 to 200 ms, ten times in 20 s.
    The young ones are looked at as ever; what was there in the beginning, never again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_MMAP_THRESHOLD, 4 * MIB)
            libc.mallopt(_TRIM_THRESHOLD, 64 * MIB)


@contextlib.contextmanager
def _reserve_port(config: ServerConfig) -> Iterator[int]:
    """
    Keep a port for the workers, without listening on it.

    Raises:
        ConfigurationError: Somebody else listens there, or it cannot be had.
    """
    try:
        # Without SO_REUSEPORT first: it would share the port of another server.
        with listener(config, reuse_port=False) as probe:
            port: int = probe.getsockname()[1]
        with listener(replace(config, port=port), reuse_port=True):
            yield port
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {config.host}:{config.port}: {error.strerror}."
        ) from error


def listener(config: ServerConfig, *, reuse_port: bool) -> socket.socket:
    """
    Return a socket that is bound to the server's address.

    Raises:
        OSError: It cannot be bound.
    """
    host = config.host or "0.0.0.0"  # noqa: S104 (an empty host asks for it)
    infos = socket.getaddrinfo(
        host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _name, address = infos[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


@contextlib.contextmanager
def _shared_clocks() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.truncate(SHARED_SIZE)
        yield file


def _warn_if_exposed(config: ServerConfig) -> None:
    if config.is_open and not config.is_loopback:
        log.warning(
            "Everybody who reaches %s may upload: there are no tokens", config.host
        )
