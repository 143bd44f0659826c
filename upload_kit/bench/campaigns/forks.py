"""
Processes that start in milliseconds, to be killed: forked from one that is warm.

The warm process has imported everything and does nothing else, so that a fork of it is
a fresh process with one thread. A fork says what it does over a socket; it dies with
the warm process, which dies with its standard input.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import json
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self

from upload_kit.errors import UploadKitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    Say = Callable[[Mapping[str, Any]], None]
    """Tells whoever forked a process, in a line of JSON."""

START_SECONDS: Final = 30.0
_END_SECONDS: Final = 20.0
_LINE: Final = 1 << 24
# PR_SET_PDEATHSIG of <sys/prctl.h>.
_PARENT_DEATH_SIGNAL: Final = 1


class Fork:
    """
    A process that was forked; made by `ForkServer.fork`.

    Args:
        pid: Its ID.

        reader: What it says.

        writer: The other half of the socket.
    """

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid: Final = pid
        self._reader = reader
        self._writer = writer
        self._ended = _Ending(pid)

    @property
    def is_closed(self) -> bool:
        """Whether it is gone, and nothing of it is left here."""
        return self._ended.is_set and self._writer.is_closing()

    async def hear(self, timeout: float = START_SECONDS) -> dict[str, Any] | None:
        """
        Return what it says next, or None once it has ended.

        Raises:
            TimeoutError: It said nothing for so many seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                line = await self._reader.readline()
        except ConnectionError:
            return None
        # It may have been killed in the middle of a line.
        if not line.endswith(b"\n"):
            return None
        said: dict[str, Any] = json.loads(line)
        return said

    async def kill(self) -> None:
        """End it with kill -9, and wait until it is gone; safe to call again."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> None:
        """Ask it to end, and wait until it has; safe to call again."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        # Its ID may be another process's by now, unless we know that it has not ended.
        if not self._ended.is_set:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        await self.ended()

    async def ended(self, timeout: float = _END_SECONDS) -> None:
        """
        Wait until it is gone, with its sockets and locks.

        Raises:
            TimeoutError: It is still there after so many seconds.
        """
        async with asyncio.timeout(timeout):
            await self._ended.wait()
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()


class _Ending:
    """Knows when a process has ended, by a file descriptor that stands for it."""

    def __init__(self, pid: int) -> None:
        self._event = asyncio.Event()
        self._fd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._fd, self._note)

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def _note(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


class ForkServer:
    """
    The warm process, as long as the context lasts.

    Args:
        environment: Further variables of its environment.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._keys = itertools.count()
        self._waiting: dict[int, asyncio.Future[Fork]] = {}
        self._forks: list[Fork] = []

    @staticmethod
    def obstacle() -> str | None:
        """Return why this system has no such processes, or None."""
        return None if hasattr(os, "pidfd_open") else "processes are forked on Linux"

    async def __aenter__(self) -> Self:
        """Start it; it is warm when the first fork is there."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, limit=_LINE
        )
        port: int = self._server.sockets[0].getsockname()[1]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            str(port),
            stdin=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, and every fork."""
        for fork in self._forks:
            await fork.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._server.close()
        await self._server.wait_closed()

    async def fork(
        self,
        call: str,
        order: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Fork:
        """
        Fork a process that makes one call, and ends.

        Args:
            call: `module:function`; it gets the order and something to say things with.

            order: Whatever JSON can hold.

            environment: Variables that are set before the call.

        Raises:
            UploadKitError: It did not start.
        """
        key = next(self._keys)
        there: asyncio.Future[Fork] = asyncio.get_running_loop().create_future()
        self._waiting[key] = there
        assert self._process.stdin is not None
        line = json.dumps(
            {
                "key": key,
                "call": call,
                "order": dict(order),
                "environment": dict(environment or {}),
            }
        )
        self._process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(START_SECONDS):
                fork = await there
        except TimeoutError:
            raise UploadKitError(f"No process was forked for {call}.") from None
        finally:
            del self._waiting[key]
        self._forks = [one for one in self._forks if not one.is_closed]
        self._forks.append(fork)
        return fork

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        hello = json.loads(await reader.readline())
        there = self._waiting.get(hello["key"])
        if there is None or there.done():
            writer.close()
            return
        there.set_result(Fork(hello["pid"], reader, writer))


def _serve(port: int) -> None:
    """Fork a process for every line of standard input, until it ends."""
    # Ctrl-C in a terminal goes to every process; these end with whoever started them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nobody waits for them here, and the system removes them all the same.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Every retry is a warning, and retries are what this is about.
    logging.getLogger("upload_kit").setLevel(logging.CRITICAL)
    import_module("upload_kit.bench.campaigns.children")
    gc.collect()
    gc.freeze()
    parent = os.getpid()
    for line in sys.stdin:
        if os.fork() == 0:
            code = 1
            try:
                _die_with(parent)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run(port, json.loads(line))
                code = 0
            finally:
                os._exit(code)


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _run(port: int, line: Mapping[str, Any]) -> None:
    os.environ.update(line["environment"])
    with socket.create_connection(("127.0.0.1", port)) as sock:

        def say(what: Mapping[str, Any]) -> None:
            sock.sendall(json.dumps(what).encode() + b"\n")

        say({"key": line["key"], "pid": os.getpid()})
        module, _, name = line["call"].partition(":")
        getattr(import_module(module), name)(line["order"], say)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
