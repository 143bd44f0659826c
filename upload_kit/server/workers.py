"""The worker processes of one server: started, watched over, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from upload_kit.errors import ConfigurationError
from upload_kit.logs import LogSettings, log_settings

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from upload_kit.server.config import ServerConfig

log: Final = logging.getLogger("upload_kit.server")

READY: Final = b"ready\n"
"""What a worker writes once it accepts connections."""

_START_TIMEOUT: Final = 30.0

# Seconds between a worker's death and the start of another one in its place.
_RESTART_PAUSE: Final = 0.5

# Seconds that a worker may take beyond the grace of its requests.
_STOP_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """What a worker is told when it starts."""

    config: ServerConfig
    """The server's settings."""

    index: int
    """Which worker it is, from 0."""

    rates_fd: int
    """File of the clocks that all workers share."""

    logs: LogSettings
    """What it logs, and how."""


class WorkerSet:
    """
    As many processes as the configuration says, for as long as they are wanted.

    Args:
        config: The server's settings, with the port.

        rates_fd: File of the clocks that all of them share.
    """

    def __init__(self, config: ServerConfig, rates_fd: int) -> None:
        self._config = config
        self._rates_fd = rates_fd
        self._processes: dict[int, Process] = {}

    @asynccontextmanager
    async def running(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """
        Start all of them, replace those that die, and end them with the context.

        Args:
            stop: Set when the server is to end.

        Raises:
            ConfigurationError: One of them could not start; it has said why.
        """
        indexes = range(self._config.workers)
        try:
            # The first one counts what is in the folder, and the others rely on it.
            await self._start(0)
            await asyncio.gather(*(self._start(i) for i in indexes[1:]))
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(self._watch(i, stop)) for i in indexes]
                yield
                for task in watching:
                    task.cancel()
        finally:
            await self._end()

    def hang_up(self) -> None:
        """Have all of them read their tokens again."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    async def _start(self, index: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "upload_kit.server.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            pass_fds=(self._rates_fd,),
        )
        self._processes[index] = process
        assert process.stdin is not None
        assert process.stdout is not None
        # Tokens go through a pipe: arguments and environments can be read by others.
        process.stdin.write(pickle.dumps(self._order(index)))
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                answer = await process.stdout.readline()
        except TimeoutError:
            answer = b""
        if answer != READY:
            raise ConfigurationError(f"Worker {index} did not start.")

    async def _watch(self, index: int, stop: asyncio.Event) -> None:
        """Put another worker in the place of one that died."""
        while not stop.is_set():
            code = await self._processes[index].wait()
            if stop.is_set():
                return
            log.error("Worker %d ended with code %s; starting another", index, code)
            await asyncio.sleep(_RESTART_PAUSE)
            with suppress(ConfigurationError):
                await self._start(index)

    async def _end(self) -> None:
        """Have all of them end, and see that they do."""
        processes = list(self._processes.values())
        for process in processes:
            with suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(self._config.grace + _STOP_TIMEOUT):
                await asyncio.gather(*(process.wait() for process in processes))
        except TimeoutError:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*(process.wait() for process in processes))

    def _order(self, index: int) -> WorkerOrder:
        return WorkerOrder(
            config=self._config,
            index=index,
            rates_fd=self._rates_fd,
            logs=log_settings(),
        )


def read_order(stream: IO[bytes]) -> WorkerOrder:
    """Read the order that the parent wrote into the pipe between the two."""
    order = pickle.load(stream)  # noqa: S301 (nobody else can write there)
    assert isinstance(order, WorkerOrder)
    return order


def _environment() -> dict[str, str]:
    """Have a worker import what this process would import."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path}
