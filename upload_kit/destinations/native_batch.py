"""
Small files that are ready at the same time go to our own server in one request.

None waits for others to come: the first one starts a request, and those that come while
as many as allowed are under way make up the next. Whatever a batch of several did not
store goes alone afterwards, so that every file gets its own answer, its own error and
its own tries.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upload_kit.checksums import format_digest
from upload_kit.destinations.native_records import Outcomes
from upload_kit.errors import (
    RemoteRejected,
    RemoteUnavailable,
    TransferStalled,
    UploadKitError,
)
from upload_kit.locations import redact
from upload_kit.units import KIB
from upload_kit.via import format_via

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.destinations.native_records import BatchLimits, Status
    from upload_kit.destinations.reply import Reply
    from upload_kit.destinations.wire import Wire

logger = logging.getLogger("upload_kit.wire")

MOST: Final = 64 * KIB
"""Bytes of a file that may go with others; a larger one fills a request by itself."""

# Requests at once: while the server stores one batch, the next one travels.
_AT_ONCE: Final = 2
# Seconds that one batch should take, whatever the link.
_SECONDS: Final = 1.0
_FIRST: Final = 256 * KIB
# Bytes that a body may have, however many failed; and the part of what it may have that
# comes back with every batch that went well, and with every file that went alone.
_LEAST: Final = 4 * KIB
_REGAINED: Final = 1 / 16
_REGAINED_ALONE: Final = 1 / 64
# Batches refused in a row that are enough.
_PATIENCE: Final = 8
# Bytes of the line that lists the files, at every server.
_LIST: Final = 256 * KIB
# What stands around the list, and behind it.
_FRAME: Final = b'{"files":[%b]}\n'

_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True)
class _Waiting:
    listed: bytes
    content: memoryview
    via: tuple[str, ...]
    done: asyncio.Future[Status | None]

    @property
    def size(self) -> int:
        """Bytes that it takes of a body, the comma behind its entry among them."""
        return len(self.listed) + 1 + len(self.content)

    def settle(self, outcome: Status | None) -> None:
        """Say what became of it, unless that is known or nobody waits any more."""
        if not self.done.done():
            self.done.set_result(outcome)

    def fail(self, error: UploadKitError) -> None:
        """Say what went wrong, unless nobody waits any more."""
        if not self.done.done():
            self.done.set_exception(error)


class Batcher:
    """
    Sends batches.

    Args:
        wire: Carries the requests.

        base: URL of the server.

        limits: How much goes in one of them.
    """

    def __init__(self, wire: Wire, base: str, limits: BatchLimits) -> None:
        self._wire = wire
        self._url = f"{base}upload/batch"
        self._limits = limits
        # Bytes of a body that should not take long, and that came through so far: on
        # the way there may be a proxy that takes less than the server.
        self._room = min(_FIRST, limits.bytes)
        self._most = limits.bytes
        self._refused = 0
        self._queue: deque[_Waiting] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def deliver(
        self, listed: dict[str, Any], content: memoryview, *, via: tuple[str, ...] = ()
    ) -> Status | None:
        """
        Send a file along with others.

        Args:
            listed: What the list is to say of it.

            content: Its bytes.

            via: Servers that it came through; those of one batch came the same way.

        Returns:
            What the server says of it; None if it was not stored and has to go alone.
        """
        done: asyncio.Future[Status | None] = asyncio.Future()
        waiting = _Waiting(listed=_encode(listed), content=content, via=via, done=done)
        if self._is_given_up or len(_FRAME) + waiting.size > self._most:
            self._regain(_REGAINED_ALONE)
            return None
        self._queue.append(waiting)
        if len(self._senders) < _AT_ONCE:
            # What it does is nobody's upload; log lines of many would bear one's name.
            sender = asyncio.create_task(self._send(), context=Context())
            self._senders.add(sender)
            sender.add_done_callback(self._forget)
        return await done

    async def aclose(self) -> None:
        """Send nothing any more; safe to call again."""
        senders = list(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)

    async def _send(self) -> None:
        """Send what waits, until nothing does."""
        while batch := self._take():
            try:
                outcomes = await self._post(batch)
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    waiting.settle(outcome)
            except UploadKitError as error:
                self._fail(batch, error)
            except Exception:  # The outermost edge; others wait in the queue.
                logger.exception("A batch of %d files met a bug.", len(batch))
            finally:
                # What is left was cancelled; nobody may wait for ever.
                for waiting in batch:
                    waiting.settle(None)
        # Whoever comes next has to start another one: at once, not when this has ended.
        self._forget(asyncio.current_task())

    @property
    def _is_given_up(self) -> bool:
        return self._refused >= _PATIENCE

    def _forget(self, sender: asyncio.Task[None] | None) -> None:
        self._senders.discard(sender)

    def _fail(self, batch: Sequence[_Waiting], error: UploadKitError) -> None:
        """Have each file go alone, unless that would be the same request again."""
        logger.debug("a batch of %d files failed: %s", len(batch), error)
        self._room = min(MOST, self._limits.bytes)
        if len(batch) > 1:
            # A refusal that comes in mid-body may be heard of as a broken connection.
            half = (len(_FRAME) + sum(waiting.size for waiting in batch)) // 2
            self._most = min(self._most, max(half, _LEAST))
        if not isinstance(error, RemoteUnavailable):
            self._refused += 1
        elif len(batch) == 1:
            batch[0].fail(error)
        if self._is_given_up or isinstance(error, TransferStalled):
            # Those behind would wait as long one after another.
            self._send_alone()

    def _send_alone(self) -> None:
        while self._queue:
            self._queue.popleft().settle(None)

    def _take(self) -> list[_Waiting]:
        """Take what fits into one request, but for what nobody waits for any more."""
        batch: list[_Waiting] = []
        room = min(self._room, self._most)
        size = length = len(_FRAME)
        while self._queue and len(batch) < self._limits.files:
            waiting = self._queue[0]
            size += waiting.size
            length += len(waiting.listed) + 1
            if batch and (size > room or length > _LIST or waiting.via != batch[0].via):
                break
            self._queue.popleft()
            if not waiting.done.done():
                batch.append(waiting)
        return batch

    async def _post(self, batch: list[_Waiting]) -> list[Status | None]:
        listed = _FRAME % b",".join(each.listed for each in batch)
        body = b"".join((listed, *(each.content for each in batch)))
        begun = time.perf_counter()
        reply = await self._ask(listed, body, batch[0].via)
        if reply.status != 200:
            raise reply.error()
        outcomes = reply.read_as(Outcomes).files
        if len(outcomes) != len(batch):
            raise RemoteRejected(f"{reply.url} answered for {len(outcomes)} files.")
        self._learn(len(body), time.perf_counter() - begun)
        return [outcome.upload for outcome in outcomes]

    async def _ask(self, listed: bytes, body: bytes, via: tuple[str, ...]) -> Reply:
        """Send a body, and hear the answer within the time that a file's would have."""
        # The bytes of the files have digests in the list; the list has one here.
        digest = hashlib.sha256(listed.removesuffix(b"\n")).digest()
        headers = {"List-Digest": format_digest("sha256", digest), **format_via(via)}
        try:
            async with asyncio.timeout(self._wire.response_timeout):
                return await self._wire.request(
                    "POST", self._url, headers=headers, body=body
                )
        except TimeoutError as error:
            raise TransferStalled(
                f"POST {redact(self._url)} got no answer in time."
            ) from error

    def _learn(self, size: int, seconds: float) -> None:
        """Keep batches from taking long on a slow link; risk more where they go."""
        # A clock may stand still for as long as a short request takes.
        rate = size / max(seconds, 0.001)
        self._room = int(min(self._limits.bytes, max(MOST, rate * _SECONDS)))
        self._regain(_REGAINED)
        self._refused = 0

    def _regain(self, part: float) -> None:
        self._most = min(self._limits.bytes, int(self._most * (1 + part)))
