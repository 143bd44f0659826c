"""
Limits on bytes and requests a second, of one token or address, over all processes.

Each limit is a clock: the time until which somebody has used up what they may have.
The clocks stand in memory that all workers share. Two workers that move the same clock
in the same microsecond may lose one of the two moves, which makes a limit a trifle
softer and nothing else.

Source: the generic cell rate algorithm, ITU-T I.371, annex A.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import struct
import time
from typing import TYPE_CHECKING, Final

from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Who it is, and the clocks of bytes and of requests, in seconds of `time.monotonic`.
_SLOT: Final = struct.Struct("=8sdd")
_SLOTS: Final = 1 << 16
_PROBES: Final = 32

SHARED_SIZE: Final = _SLOTS * _SLOT.size
"""Bytes of the file that workers share."""

# Seconds that a client may be ahead of its rate: what a quiet client saves up.
_BURST: Final = 1.0

# Seconds that one batch may wait at most, so that a cancelled request ends soon.
_LONGEST_WAIT: Final = 5.0


class RateLimits:
    """
    The clocks of everybody.

    Args:
        bytes_per_second: None for no limit.

        requests_per_second: None for no limit.

        fd: Of a file of `SHARED_SIZE` bytes that all workers have; None keeps the
            clocks in this process.
    """

    def __init__(
        self,
        *,
        bytes_per_second: float | None = None,
        requests_per_second: float | None = None,
        fd: int | None = None,
    ) -> None:
        self._byte_rate = bytes_per_second
        self._request_rate = requests_per_second
        active = bytes_per_second is not None or requests_per_second is not None
        self._slots = (
            mmap.mmap(-1 if fd is None else fd, SHARED_SIZE) if active else None
        )

    def admit(self, who: str) -> None:
        """
        Count a request.

        Raises:
            UploadProblem: It is one too many for now.
        """
        if self._request_rate is None:
            return
        ahead = self._move(who, 1, 1 / self._request_rate, limit=_BURST)
        if ahead > _BURST:
            raise UploadProblem(
                ProblemType.RATE_LIMITED,
                f"{self._request_rate:g} requests a second are allowed.",
                retry_after=ahead - _BURST,
            )

    def pace(self, who: str) -> Callable[[int], Awaitable[None]] | None:
        """Return what counts bytes and waits until they may be; None for no limit."""
        rate = self._byte_rate
        if rate is None:
            return None

        async def wait(size: int) -> None:
            ahead = self._move(who, 0, size / rate)
            while (left := ahead - _BURST) > 0:
                await asyncio.sleep(min(left, _LONGEST_WAIT))
                ahead = self._move(who, 0, 0)

        return wait

    def close(self) -> None:
        """Let go of the clocks."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def _move(
        self, who: str, clock: int, by: float, *, limit: float = float("inf")
    ) -> float:
        """
        Move a clock on, and return how far ahead of now it is then.

        Args:
            who: Whose clock.

            clock: 0 for bytes, 1 for requests.

            by: Seconds.

            limit: Seconds; beyond them the clock stays where it was.
        """
        assert self._slots is not None
        now = time.monotonic()
        tag = hashlib.blake2s(who.encode(), digest_size=8).digest()
        offset = self._find(tag, now)
        owner, *clocks = _SLOT.unpack_from(self._slots, offset)
        if owner != tag:
            clocks = [0.0, 0.0]
        ahead: float = max(clocks[clock] - now, 0.0) + by
        if ahead <= limit:
            clocks[clock] = now + ahead
            _SLOT.pack_into(self._slots, offset, tag, *clocks)
        return ahead

    def _find(self, tag: bytes, now: float) -> int:
        """Return the offset of somebody's slot, or of one that nobody needs."""
        assert self._slots is not None
        first = int.from_bytes(tag[:4], "little")
        free = None
        for probe in range(_PROBES):
            offset = (first + probe) % _SLOTS * _SLOT.size
            owner, *clocks = _SLOT.unpack_from(self._slots, offset)
            if owner == tag:
                return offset
            if free is None and max(clocks) < now:
                free = offset
        return first % _SLOTS * _SLOT.size if free is None else free
