"""
The pieces of a chunk on their way to the wire: throttled, counted, watched.

What all lanes of an upload share is in `LaneContext`, with what all uploads of an
uploader share: throttle, slots, buffers.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upload_kit.bodies import MAX_PIECE
from upload_kit.errors import UploadKitError
from upload_kit.units import KIB

if TYPE_CHECKING:
    from upload_kit.bodies import ChunkBody
    from upload_kit.buffers import BufferPool
    from upload_kit.config import TransferPolicy
    from upload_kit.deadline import Deadline
    from upload_kit.engine.reporter import Reporter
    from upload_kit.progress.state import ProgressState
    from upload_kit.sources.base import Source
    from upload_kit.throttle import BandwidthThrottle

# Seconds of a lane's own pace that one piece may stand for.
_PIECE_SECONDS: Final = 0.25
# Seconds of a bandwidth limit that one piece may stand for, and the least piece then.
_THROTTLED_SECONDS: Final = 0.05
_THROTTLED_PIECE: Final = 16 * KIB
_FIRST_PIECE: Final = 256 * KIB
# Less than this would keep the event loop busy with nothing but pieces.
_LEAST_PIECE: Final = 4 * KIB
_ANSWERS_KEPT: Final = 1000


class _PausedError(UploadKitError):
    """A pause took too long for the chunk that was on the wire."""

    retryable = True


@dataclass(slots=True, kw_only=True)
class LaneContext:
    """What the lanes of one upload share."""

    source: Source
    policy: TransferPolicy
    state: ProgressState
    pool: BufferPool
    throttle: BandwidthThrottle | None
    slots: asyncio.Semaphore
    """Chunks on the wire at once, over all uploads of an uploader."""

    running: asyncio.Event
    """Cleared while the upload is paused."""

    reporter: Reporter
    """Tells of bytes that moved, and of chunks that are tried again."""

    answers: deque[float] = field(default_factory=lambda: deque(maxlen=_ANSWERS_KEPT))
    """Seconds between the last byte of a chunk and its acknowledgement."""

    @property
    def median_answer(self) -> float | None:
        """Median seconds until a chunk was acknowledged."""
        return statistics.median(self.answers) if self.answers else None


class LaneFlow:
    """Admits and counts the pieces of the chunk that a lane has on the wire."""

    def __init__(self, context: LaneContext) -> None:
        self._context = context
        self._rate: float | None = None
        self._counted = 0
        self._wire_size = 0
        self._wire_left = 0
        self._broke = False
        self._deadline: Deadline | None = None
        self._last_byte_at = 0.0

    def begin(self, body: ChunkBody, deadline: Deadline) -> None:
        """Make ready for a try of a chunk."""
        self._wire_size = self._wire_left = body.size
        self._deadline = deadline
        self._last_byte_at = time.monotonic()
        self._allow(self._context.policy.stall_timeout)

    def _allow(self, seconds: float | None) -> None:
        """Move the deadline; None while it is our own doing that nothing moves."""
        if self._deadline is not None:
            self._deadline.allow(seconds)

    @property
    def piece_size(self) -> int:
        """
        Bytes of the next piece: a quarter second's worth at this lane's pace.

        The least is what the minimum rate moves within the stall timeout, so that a
        piece that takes longer means a connection that is too slow.
        """
        policy = self._context.policy
        slowest = int(policy.min_rate * policy.stall_timeout)
        least = max(_LEAST_PIECE, min(slowest, MAX_PIECE))
        size = _FIRST_PIECE if self._rate is None else int(self._rate * _PIECE_SECONDS)
        throttle = self._context.throttle
        if throttle is not None and throttle.rate is not None:
            paced = int(throttle.rate * _THROTTLED_SECONDS)
            size = min(size, max(paced, _THROTTLED_PIECE))
            least = min(least, _THROTTLED_PIECE)
        return max(least, min(size, MAX_PIECE))

    async def admit(self, size: int) -> None:
        """Wait for the throttle, and while the upload is paused."""
        context = self._context
        if context.throttle is None and context.running.is_set():
            return
        self._allow(None)
        try:
            async with asyncio.timeout(context.policy.pause_on_wire):
                await context.running.wait()
        except TimeoutError as error:
            raise _PausedError(f"{context.source.name} is paused.") from error
        if context.throttle is not None:
            await context.throttle.take(size)
        self._allow(context.policy.stall_timeout)

    def handed(self, wire: int, source: int) -> None:
        """Count a piece, and give the next one its time."""
        self._wire_left -= wire
        self._counted += source
        self._context.state.handed(wire, source)
        self._context.reporter.moved()
        self._allow_next()

    def _allow_next(self) -> None:
        """Give the next piece its time, or the answer where no piece is left."""
        policy = self._context.policy
        if self._wire_left > 0:
            self._allow(policy.stall_timeout)
        else:
            self._last_byte_at = time.monotonic()
            self._allow(policy.response_timeout)

    def restart(self, wire: int, source: int) -> None:
        """Take back what was counted for this chunk; count so many as skipped."""
        self._wire_left = self._wire_size - wire
        self._count_anew(source)
        self._allow_next()

    def _count_anew(self, source: int) -> None:
        self._context.state.taken_back(self._counted - source)
        self._counted = source

    def alive(self) -> None:
        """Give the next step its time: the source is read, nothing stalls."""
        self._allow(self._context.policy.stall_timeout)

    def hold(self) -> None:
        """Watch nothing until bytes move again: they wait for others to go."""
        self._allow(None)

    def settle(self, size: int, seconds: float) -> bool:
        """
        Note that the chunk was acknowledged.

        Returns:
            Whether every byte had been handed over in one go, so that no connection,
            nor one that broke before it, can still hold a view of the chunk's buffer.
        """
        now = time.monotonic()
        self._context.answers.append(now - self._last_byte_at)
        self._rate = size / seconds if seconds > 0 else None
        # An adapter may have skipped bytes that the remote had.
        self._count_anew(size)
        self._counted = 0
        broke, self._broke = self._broke, False
        return self._wire_left <= 0 and not broke

    def fail(self) -> None:
        """Note that a try failed: its bytes count no more."""
        self._count_anew(0)
        self._rate = 0.0
        self._broke = True
