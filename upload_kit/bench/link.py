"""
A slow, long and unreliable link, in user space: a TCP proxy on loopback.

It needs no rights and no kernel module. Each direction has a rate per connection, a
rate over all connections, and a delay. A wire saves nothing up while it is idle, which
is why this is no token bucket. Loss, slow start and a router's queue are not modelled.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from upload_kit.bench.faults import Direction, Fault, FaultKind, FaultPlan
from upload_kit.bench.faults_busy import answer_busy
from upload_kit.bench.flows import Counters, Cut, Flow, Line, Shape
from upload_kit.records import Record

if TYPE_CHECKING:
    from types import TracebackType

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 256
_CONNECT_SECONDS: Final = 10.0

# Close at once, and with a reset.
_LINGER_NONE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStats(Record):
    """What a link has carried so far."""

    connections: int = 0
    """Connections that were accepted."""

    bytes_up: int = 0
    """From clients to the server, as delivered."""

    bytes_down: int = 0
    """From the server to clients, as delivered."""

    faults: int = 0
    """Faults that struck."""


class ShapedLink:
    """
    A link to one server: connect to `port` instead, and see what it would be like.

    Args:
        target_host: Where the server is.

        target_port: Its port.

        rate_per_connection: Bytes a second of one connection, each way; None for no
            limit.

        total_rate: Bytes a second of all connections together, each way; None for no
            limit.

        latency: Seconds one way; a round trip takes two of it, and so does the
            handshake.

        faults: What happens to which connection.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        async with ShapedLink("127.0.0.1", 8000, rate_per_connection=4_000_000) as link:
            await uploader.upload_file("big.bin", f"http://127.0.0.1:{link.port}/")
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        rate_per_connection: float | None = None,
        total_rate: float | None = None,
        latency: float = 0.0,
        faults: FaultPlan | None = None,
    ) -> None:
        self._shape = Shape(
            rate_per_connection=_rate(rate_per_connection),
            total_rate=_rate(total_rate),
            latency=latency,
        )
        self.host: Final = _HOST
        self.port = 0
        self._target = (target_host, target_port)
        self._faults = faults or FaultPlan()
        self._lines = {way: Line(self._shape.total_rate) for way in Direction}
        self._counters = Counters(carried=dict.fromkeys(Direction, 0))
        self._busy: tuple[Fault, float] | None = None

    @property
    def stats(self) -> LinkStats:
        """What was carried until now."""
        return LinkStats(
            connections=self._counters.connections,
            bytes_up=self._counters.carried[Direction.UP],
            bytes_down=self._counters.carried[Direction.DOWN],
            faults=self._counters.faults,
        )

    async def __aenter__(self) -> Self:
        """Open the port."""
        # Bound but never listening: it keeps the port while connections are refused.
        self._anchor = self._bind(0)
        self.port = self._anchor.getsockname()[1]
        listener = self._listen()
        self._task = asyncio.create_task(self._serve(listener), name="shaped link")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port and every connection."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._anchor.close()

    async def _serve(self, listener: socket.socket) -> None:
        """Accept connections until the link is closed; its tasks end with it."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    client, _ = await loop.sock_accept(listener)
                    faults = self._faults.for_connection(self._counters.connections)
                    self._counters.connections += 1
                    refusal = _first(FaultKind.REFUSE, faults)
                    busy = self._busy_fault(faults)
                    if refusal is not None:
                        listener.close()
                        _close(client, reset=True)
                        await self._refuse(refusal)
                        listener = self._listen()
                    elif busy is not None:
                        group.create_task(self._answer(client, busy))
                    else:
                        group.create_task(self._connect(client, faults))
            finally:
                listener.close()

    def _busy_fault(self, faults: tuple[Fault, ...]) -> Fault | None:
        """Return what a new connection is answered in the server's place, if it is."""
        now = asyncio.get_running_loop().time()
        if (fault := _first(FaultKind.BUSY, faults)) is not None:
            seconds = math.inf if fault.seconds is None else fault.seconds
            self._busy = (fault, now + seconds)
            return fault
        if self._busy is not None and now < self._busy[1]:
            return self._busy[0]
        return None

    async def _answer(self, client: socket.socket, fault: Fault) -> None:
        self._counters.faults += 1
        try:
            client.settimeout(0)
            await answer_busy(client, fault)
        finally:
            _close(client, reset=False)

    async def _refuse(self, fault: Fault) -> None:
        self._counters.faults += 1
        if fault.seconds is None:
            # For good: only the end of the link ends it.
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.sleep(fault.seconds)

    async def _connect(self, client: socket.socket, faults: tuple[Fault, ...]) -> None:
        """Carry one connection until both ends are done with it, or a fault is."""
        loop = asyncio.get_running_loop()
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        reset = True
        try:
            client.settimeout(0)
            self._shape.tune(server)
            async with asyncio.timeout(_CONNECT_SECONDS), asyncio.TaskGroup() as group:
                group.create_task(loop.sock_connect(server, self._target))
                # The handshake's round trip, which loopback does not show.
                group.create_task(asyncio.sleep(2 * self._shape.latency))
            await self._carry(client, server, faults)
            reset = False
        except* Cut:
            reset = False
        except* OSError:
            # Also a timeout. One end is gone; the other one must not wait for it.
            reset = True
        finally:
            _close(client, reset=reset)
            _close(server, reset=reset)

    async def _carry(
        self, client: socket.socket, server: socket.socket, faults: tuple[Fault, ...]
    ) -> None:
        up = self._flow(Direction.UP, client, server, faults)
        down = self._flow(Direction.DOWN, server, client, faults)
        up.answer = down
        async with asyncio.TaskGroup() as group:
            group.create_task(up.run())
            group.create_task(down.run())

    def _flow(
        self,
        direction: Direction,
        source: socket.socket,
        sink: socket.socket,
        faults: tuple[Fault, ...],
    ) -> Flow:
        return Flow(
            source,
            sink,
            direction=direction,
            shape=self._shape,
            line=self._lines[direction],
            faults=[fault for fault in faults if fault.direction is direction],
            counters=self._counters,
        )

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._shape.tune(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((_HOST, port))
        return sock

    def _listen(self) -> socket.socket:
        listener = self._bind(self.port)
        listener.listen(_BACKLOG)
        return listener


def _first(kind: FaultKind, faults: tuple[Fault, ...]) -> Fault | None:
    return next((fault for fault in faults if fault.kind is kind), None)


def _rate(rate: float | None) -> float:
    return math.inf if rate is None else rate


def _close(sock: socket.socket, *, reset: bool) -> None:
    with suppress(OSError):
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        else:
            sock.shutdown(socket.SHUT_RDWR)
    sock.close()
