"""The body of an HTTP request, read piece by piece under every limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar

import msgspec

from upload_kit.server.fields import malformed
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.replies import CLIENT, OWNER
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import web

    from upload_kit.server.auth import Tokens
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.rates import RateLimits

_T = TypeVar("_T")

_MAX_BATCH: Final = 2 * MIB
_MIN_BATCH: Final = 64 * KIB
# Seconds: what comes slowly is not held back until it is much.
_LONGEST_BATCH: Final = 1.0
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How a body may come."""

    max_size: int | None
    """Bytes at most; None for no limit."""

    idle_timeout: float
    """Seconds without a byte."""

    min_rate: float
    """Bytes a second, over `rate_window`."""

    rate_window: float
    """Seconds."""


class MemoryBudget:
    """
    Shares an amount of memory among the bodies that are read at once.

    Args:
        size: Bytes for all of them.

        rate: Bytes a second that one of them may bring; None for no limit.
    """

    def __init__(self, size: int, rate: float | None) -> None:
        self._size = size
        # A body that may only bring so much is not kept waiting long for one batch.
        self._most = _MAX_BATCH if rate is None else min(_MAX_BATCH, int(rate / 4))
        self._bodies = 0

    def enter(self) -> None:
        """Count a body that begins."""
        self._bodies += 1

    def leave(self) -> None:
        """Count a body that ended."""
        self._bodies -= 1

    @property
    def batch_size(self) -> int:
        """Bytes that one body may collect: it holds three batches, and the buffer."""
        share = self._size // (4 * max(1, self._bodies))
        return max(_MIN_BATCH, min(self._most, share))


class HttpBody:
    """
    A `Body` out of an aiohttp request; use it as a context manager.

    Args:
        request: Nothing was read of it yet.

        limits: How it may come.

        budget: Of memory, shared with all other bodies.

        pace: Waits until so many more bytes may be taken; None for no limit.

        may_go_on: Raises if its sender may not send it any more.
    """

    def __init__(
        self,
        request: web.Request,
        limits: BodyLimits,
        budget: MemoryBudget,
        pace: Callable[[int], Awaitable[None]] | None = None,
        *,
        may_go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._may_go_on = may_go_on
        self._request = request
        self._content = request.content
        self._limits = limits
        self._budget = budget
        self._pace = pace
        self._received = 0
        self._watch: _Watch | None = None
        self._problem: UploadProblem | None = None
        self._scope: asyncio.Timeout | None = None
        self.size = request.content_length
        if limits.max_size is not None and (self.size or 0) > limits.max_size:
            raise too_large(limits.max_size)

    def __enter__(self) -> Self:
        self._budget.enter()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._budget.leave()
        if self._watch is not None:
            self._watch.cancel()
            # They hold one another.
            self._watch = None

    @property
    def arrived(self) -> int:
        """Bytes that came so far, read or not."""
        return self._content.total_bytes

    async def batch(self) -> tuple[Sequence[bytes], bool]:
        """Return the pieces that come next, and whether they are the last."""
        pieces, last = await self._batch()
        # It may take hours, and its sender's token be gone by now.
        self._may_go_on()
        return pieces, last

    async def _batch(self) -> tuple[Sequence[bytes], bool]:
        await self.begin()
        if self._problem is not None:
            raise self._problem
        pieces: list[bytes] = []
        last = False
        try:
            async with asyncio.timeout(None) as self._scope:
                last = await self._collect(pieces, self._budget.batch_size)
        except (TimeoutError, ConnectionError):
            # What came before is handed on; what went wrong is told the next time.
            pieces += self._left()
            if not pieces:
                gone = ConnectionResetError("the sender went away")
                raise (self._problem or gone) from None
        finally:
            self._scope = None
            assert self._watch is not None
            self._watch.waiting = False
        size = sum(map(len, pieces))
        self._received += size
        if self._pace is not None:
            await self._pace(size)
        return pieces, last

    def stop(self, problem: UploadProblem) -> None:
        """Make `batch` raise the problem, at once and from now on."""
        if self._problem is None:
            self._problem = problem
            if self._scope is not None:
                self._scope.reschedule(asyncio.get_running_loop().time())

    async def begin(self) -> None:
        """Say that the body is wanted, if its sender waits for that."""
        if self._watch is not None:
            return
        self._watch = _Watch(self)
        if self._request.headers.get("Expect"):
            writer = self._request.writer
            await writer.write(_CONTINUE)
            writer.output_size = 0

    async def _collect(self, pieces: list[bytes], room: int) -> bool:
        """Add pieces as they come; return whether they are all."""
        assert self._watch is not None
        size = 0
        limit = self._limits.max_size
        while size < room:
            self._watch.waiting = True
            piece, ends_http_chunk = await self._content.readchunk()
            self._watch.waiting = False
            if piece:
                if not pieces:
                    self._limit_batch()
                pieces.append(piece)
                size += len(piece)
                if limit is not None and self._received + size > limit:
                    raise too_large(limit)
            elif not ends_http_chunk or self._content.at_eof():
                # aiohttp's reader of empty bodies says so only by `at_eof`.
                return True
        return False

    def _left(self) -> list[bytes]:
        """Return what aiohttp has read, also if it would not hand it out any more."""
        content = self._content
        # Its reader tells of a broken connection before it hands out what came, and
        # has no other way to those bytes.
        failure, content._exception = content._exception, None  # noqa: SLF001 (as said)
        try:
            data = content.read_nowait()
        finally:
            content._exception = failure  # noqa: SLF001 (as said)
        return [data] if data else []

    def _limit_batch(self) -> None:
        """Have the batch end after a while, however little it is by then."""
        assert self._scope is not None
        if self._problem is None:
            loop = asyncio.get_running_loop()
            self._scope.reschedule(loop.time() + _LONGEST_BATCH)


class _Watch:
    """
    Ends a body that comes too slowly.

    One timer a body looks at how far it came; only time spent waiting for the sender
    counts, so a slow disk or a bandwidth limit of ours is never the sender's fault.
    """

    def __init__(self, body: HttpBody) -> None:
        limits = body._limits  # noqa: SLF001 (two halves of one thing)
        self._body = body
        self._limits = limits
        self._tick = min(1.0, limits.idle_timeout / 4, limits.rate_window / 4)
        self._last = self._window_start = 0
        self._idle = self._waited = 0.0
        self.waiting = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._tick, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._tick, self._look)
        received = self._body.arrived
        if not self.waiting:
            self._idle = 0.0
            return
        self._idle = self._idle + self._tick if received == self._last else 0.0
        self._last = received
        self._waited += self._tick
        if self._idle >= self._limits.idle_timeout:
            self._stop(f"No byte came for {self._limits.idle_timeout:g} s.")
        elif self._waited >= self._limits.rate_window:
            self._close_window(received)

    def _close_window(self, received: int) -> None:
        rate = (received - self._window_start) / self._waited
        self._window_start, self._waited = received, 0.0
        if rate < self._limits.min_rate:
            self._stop(
                f"{rate:.0f} bytes a second came;"
                f" at least {self._limits.min_rate:.0f} are wanted."
            )

    def _stop(self, detail: str) -> None:
        self._timer.cancel()
        self._body.stop(UploadProblem(ProblemType.TOO_SLOW, detail))


def too_large(limit: int) -> UploadProblem:
    """Return the problem of a body that is larger than it may be."""
    return UploadProblem(
        ProblemType.TOO_LARGE,
        f"The body is larger than {limit} bytes.",
        extra={"max_size": limit},
    )


class Bodies:
    """
    Opens the bodies of all requests under the same limits.

    Args:
        config: Where the limits stand.

        rates: How fast somebody may send.

        tokens: Who is known, also when a body ends.
    """

    def __init__(self, config: ServerConfig, rates: RateLimits, tokens: Tokens) -> None:
        self._tokens = tokens
        self._config = config
        self._rates = rates
        self._budget = MemoryBudget(config.memory_budget, config.rate_limit)

    def open(self, request: web.Request, max_size: int | None) -> HttpBody:
        """
        Return the body of a request.

        Args:
            request: Nothing was read of it yet.

            max_size: Bytes at most; None for no limit.

        Raises:
            UploadProblem: It says that it is larger.
        """
        limits = BodyLimits(
            max_size=max_size,
            idle_timeout=self._config.idle_timeout,
            min_rate=self._config.min_rate,
            rate_window=self._config.rate_window,
        )
        pace = self._rates.pace(request[CLIENT])

        def may_go_on() -> None:
            self._tokens.require(request[OWNER], request.headers.get("Authorization"))

        return HttpBody(request, limits, self._budget, pace, may_go_on=may_go_on)

    async def read_json(self, request: web.Request, type_: type[_T], limit: int) -> _T:
        """
        Read a small body as JSON of a certain shape.

        Args:
            request: Nothing was read of it yet.

            type_: What msgspec is to make of it.

            limit: Bytes at most.

        Raises:
            UploadProblem: It is too large, no JSON, or of another shape.
        """
        data, last = bytearray(), False
        with self.open(request, limit) as body:
            while not last:
                pieces, last = await body.batch()
                for piece in pieces:
                    data += piece
        try:
            return msgspec.json.decode(data, type=type_)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise malformed(
                f"The body is not the JSON that is wanted: {error}."
            ) from error
