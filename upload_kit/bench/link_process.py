"""
A shaped link in a process of its own.

What is measured over the link then shares the processor with it, but not its event
loop. The process reads its order from standard input and ends when that is closed, so
that it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from upload_kit.bench.faults import FaultPlan
from upload_kit.bench.link import LinkStats, ShapedLink
from upload_kit.errors import UploadKitError
from upload_kit.records import Record

if TYPE_CHECKING:
    from types import TracebackType

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order(Record):
    """The arguments of `ShapedLink`, as they go to its process."""

    target_host: str
    target_port: int
    rate_per_connection: float | None
    total_rate: float | None
    latency: float
    faults: FaultPlan | None

    def link(self) -> ShapedLink:
        """Make the link; nothing is opened yet."""
        return ShapedLink(
            self.target_host,
            self.target_port,
            rate_per_connection=self.rate_per_connection,
            total_rate=self.total_rate,
            latency=self.latency,
            faults=self.faults,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready(Record):
    """The answer of the process once the link is open."""

    port: int


class LinkProcess:
    """
    A running link; made by `start_link_process`.

    Args:
        process: The process, ready.

        port: Where the link listens, on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.host: Final = "127.0.0.1"
        self.port: Final = port
        self._process = process
        self._stats: LinkStats | None = None

    def stop(self) -> LinkStats:
        """
        End the link and return what it carried; safe to call again.

        Raises:
            UploadKitError: The process died before.
        """
        if self._stats is None:
            try:
                output, _ = self._process.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                output, _ = self._process.communicate()
            if not output:
                raise UploadKitError("The process of the shaped link has died.")
            self._stats = LinkStats.from_json(output)
        return self._stats

    def kill(self) -> None:
        """End the link as a broken machine would; `stop` still has to be called."""
        self._process.kill()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the link."""
        self.stop()


def start_link_process(
    target_host: str,
    target_port: int,
    *,
    rate_per_connection: float | None = None,
    total_rate: float | None = None,
    latency: float = 0.0,
    faults: FaultPlan | None = None,
) -> LinkProcess:
    """
    Start a `ShapedLink` in a process of its own and wait until it listens.

    It blocks for the start of an interpreter, about half a second. The arguments are
    those of `ShapedLink`.

    Raises:
        ConfigurationError: A number is out of range.
        UploadKitError: It did not start.
    """
    order = _Order(
        target_host=target_host,
        target_port=target_port,
        rate_per_connection=rate_per_connection,
        total_rate=total_rate,
        latency=latency,
        faults=faults,
    )
    # Wrong numbers are told here, where somebody can read it.
    order.link()
    process = subprocess.Popen(
        [sys.executable, "-m", "upload_kit.bench.link_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(order.to_json().encode() + b"\n")
        process.stdin.flush()
    # A process that hangs is killed, and then the line below is empty.
    limit = threading.Timer(_START_SECONDS, process.kill)
    limit.start()
    line = process.stdout.readline()
    limit.cancel()
    if not line:
        process.communicate()
        raise UploadKitError("The process of the shaped link did not start.")
    return LinkProcess(process, _Ready.from_json(line).port)


async def _run(order: _Order) -> None:
    async with order.link() as link:
        _say(_Ready(port=link.port))
        # Whoever started us has no limit either; when it ends, so does the pipe.
        await asyncio.to_thread(sys.stdin.read)
    _say(link.stats)


def _say(record: Record) -> None:
    sys.stdout.write(record.to_json() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Ctrl-C in a terminal goes to every process; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(_Order.from_json(sys.stdin.readline())))
