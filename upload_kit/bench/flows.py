"""
How bytes go over a shaped link: one connection, its two flows, and the shared lines.

Each piece is read when the wire would have taken it and delivered when its last byte
would have arrived. The times are computed, not slept for, so that a late wake-up delays
one piece and never slows the link.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.bench.faults import Direction, Fault, FaultKind
from upload_kit.errors import ConfigurationError
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

# Bytes read at once: 10 ms worth keeps the processor cool and the timers exact enough.
_PIECE_SECONDS: Final = 0.01
_SMALLEST_PIECE: Final = 4 * KIB
_LARGEST_PIECE: Final = 128 * KIB

# A wire goes on while this process waits for the processor: if the sender had bytes
# ready, up to this much is made good.
_CATCH_UP_SECONDS: Final = 0.25

# Bytes on their way at most, where no rate bounds them.
_WINDOW: Final = 8 * MIB

# The sender's kernel sizes its buffer by the segments it may send: at 4 MB/s it runs
# 0.8 MB ahead with these, and 4 MB with those of loopback (measured, Linux 6.18, BBR).
_SEGMENT: Final = 7000

# Timers of a millisecond wake half of one late on average; every answer would pay it.
_HALF_TICK: Final = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a link is like; infinite rates for no limit."""

    rate_per_connection: float = math.inf
    """Bytes a second, each way."""

    total_rate: float = math.inf
    """Bytes a second of all connections together, each way."""

    latency: float = 0.0
    """Seconds one way."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for rate in (self.rate_per_connection, self.total_rate):
            if not rate > 0:
                raise ConfigurationError(f"A rate must be above zero, not {rate}.")
        if not 0 <= self.latency < math.inf:
            raise ConfigurationError(f"A latency cannot be {self.latency} s.")

    @property
    def rate(self) -> float:
        """The most that one connection can carry."""
        return min(self.rate_per_connection, self.total_rate)

    @property
    def piece(self) -> int:
        """Bytes to read at once."""
        if self.rate == math.inf:
            return _LARGEST_PIECE
        wanted = int(self.rate * _PIECE_SECONDS)
        return max(_SMALLEST_PIECE, min(wanted, _LARGEST_PIECE))

    @property
    def window(self) -> int:
        """Bytes of one flow between its two ends at most."""
        if self.rate == math.inf:
            return _WINDOW
        return 4 * self.piece + int(2 * self.latency * self.rate)

    def tune(self, sock: socket.socket) -> None:
        """Keep a socket's kernel from running ahead of the link; before it connects."""
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.piece)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.piece)
        with suppress(OSError):  # macOS lets nobody set it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)


class Line:
    """
    What all connections share in one direction: one thing after another, in order.

    Args:
        rate: Bytes a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    def carry(self, size: int, ready: float) -> float:
        """Take bytes that were there at `ready`; return when the last one is over."""
        self._free_at = max(ready, self._free_at) + size / self._rate
        return self._free_at


@dataclass(slots=True, kw_only=True)
class Counters:
    """What a link has carried, counted as it goes."""

    connections: int = 0
    faults: int = 0
    carried: dict[Direction, int]


class Cut(Exception):
    """A fault closes the connection."""


class Flow:
    """
    One direction of one connection: reads at the link's pace, delivers after its delay.

    Args:
        source: Where bytes come from; non-blocking.

        sink: Where they go to; non-blocking.

        direction: Which way this is.

        shape: What the link is like.

        line: What this direction shares with other connections.

        faults: What happens to this direction.

        counters: Where to count.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        *,
        direction: Direction,
        shape: Shape,
        line: Line,
        faults: Iterable[Fault],
        counters: Counters,
    ) -> None:
        self.answer: Flow | None = None
        self.reply_lost = False
        self._flipped = False
        self._source = source
        self._sink = sink
        self._direction = direction
        self._shape = shape
        self._line = line
        self._faults = deque(sorted(faults, key=lambda fault: fault.after))
        # Pieces end where a fault strikes, so that it strikes at that byte.
        self._borders = deque(fault.after for fault in self._faults if fault.after)
        self._counters = counters
        self._read = 0
        self._delivered = 0
        self._underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Carry everything, and the end of it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_up())
            group.create_task(self._deliver())

    async def _take_up(self) -> None:
        """Read pieces at the pace of the link, until the source has no more."""
        loop = asyncio.get_running_loop()
        done = loop.time()
        while True:
            data, ready = await self._receive(done)
            own = ready + len(data) / self._shape.rate_per_connection
            done = max(own, self._line.carry(len(data), ready))
            self._read += len(data)
            self._underway.put_nowait((done + self._shape.latency, data))
            if not data:
                return
            # Every wait for room ends with the connection at the latest.
            while self._read - self._delivered > self._shape.window:
                self._room.clear()
                await self._room.wait()
            await asyncio.sleep(max(0.0, done - loop.time()))

    async def _receive(self, free_at: float) -> tuple[bytes, float]:
        """Return the next piece, and when the wire could start on it."""
        loop = asyncio.get_running_loop()
        try:
            data = self._source.recv(self._limit())
        except BlockingIOError:
            # The wire was idle: it starts when the bytes come.
            return await loop.sock_recv(self._source, self._limit()), loop.time()
        return data, max(free_at, loop.time() - _CATCH_UP_SECONDS)

    def _limit(self) -> int:
        while self._borders and self._borders[0] <= self._read:
            self._borders.popleft()
        to_border = self._borders[0] - self._read if self._borders else math.inf
        return int(min(self._shape.piece, to_border))

    async def _deliver(self) -> None:
        """Write each piece when it is due, and let strike what is due with it."""
        loop = asyncio.get_running_loop()
        await self._suffer()
        while True:
            due, data = await self._underway.get()
            await asyncio.sleep(max(0.0, due - _HALF_TICK - loop.time()))
            if self.reply_lost:
                raise ConnectionResetError("A fault lost the reply.")
            if not data:
                break
            await loop.sock_sendall(self._sink, self._damage(data))
            self._delivered += len(data)
            self._counters.carried[self._direction] += len(data)
            self._room.set()
            await self._suffer()
        self._sink.shutdown(socket.SHUT_WR)

    def _damage(self, data: bytes) -> bytes:
        if not self._flipped:
            return data
        self._flipped = False
        return bytes([data[0] ^ 0x10]) + data[1:]

    async def _suffer(self) -> None:
        while self._faults and self._faults[0].after <= self._delivered:
            fault = self._faults.popleft()
            self._counters.faults += 1
            await self._STRIKES[fault.kind](self, fault)

    async def _cut(self, fault: Fault) -> None:
        raise Cut

    async def _reset(self, fault: Fault) -> None:
        raise ConnectionResetError("A fault reset the connection.")

    async def _stall(self, fault: Fault) -> None:
        if fault.seconds is None:
            # Half open for good: only the end of the connection or the link ends it.
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.sleep(fault.seconds)

    async def _lose_reply(self, fault: Fault) -> None:
        if self.answer is not None:
            self.answer.reply_lost = True

    async def _corrupt(self, fault: Fault) -> None:
        self._flipped = True

    _STRIKES: Final[dict[FaultKind, Callable[[Flow, Fault], Awaitable[None]]]] = {
        FaultKind.CUT: _cut,
        FaultKind.RESET: _reset,
        FaultKind.STALL: _stall,
        FaultKind.LOSE_REPLY: _lose_reply,
        FaultKind.CORRUPT: _corrupt,
    }
