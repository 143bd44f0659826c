"""
Small files that are ready at the same time go to our own server in one request.

None waits for others to come: the first one starts a request, and those that come while
as many as allowed are under way make up the next. Whatever a batch of several did not
store goes alone afterwards, so that every file gets its own answer, its own error and
its own tries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upload_kit.destinations.native_records import Outcomes
from upload_kit.errors import RemoteRejected, RemoteUnavailable, UploadKitError
from upload_kit.units import KIB
from upload_kit.via import format_via

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.destinations.native_records import BatchLimits, Status
    from upload_kit.destinations.wire import Wire

logger = logging.getLogger("upload_kit.wire")

MOST: Final = 64 * KIB
"""Bytes of a file that may go with others; a larger one fills a request by itself."""

# Requests at once: while the server stores one batch, the next one travels.
_AT_ONCE: Final = 2
# Seconds that one batch should take, whatever the link.
_SECONDS: Final = 1.0
_FIRST: Final = 256 * KIB


# Bytes of the line that lists the files, at every server.
_LIST: Final = 256 * KIB

_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True)
class _Waiting:
    listed: bytes
    content: memoryview
    via: tuple[str, ...]
    done: asyncio.Future[Status | None]

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
        self._room = min(_FIRST, limits.bytes)
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
            finally:
                # What is left was cancelled; nobody may wait for ever.
                for waiting in batch:
                    waiting.settle(None)
        # Whoever comes next has to start another one: at once, not when this has ended.
        self._forget(asyncio.current_task())

    def _forget(self, sender: asyncio.Task[None] | None) -> None:
        self._senders.discard(sender)

    def _fail(self, batch: Sequence[_Waiting], error: UploadKitError) -> None:
        """Have each file go alone, unless that would be the same request again."""
        logger.debug("a batch of %d files failed: %s", len(batch), error)
        self._room = min(MOST, self._limits.bytes)
        if len(batch) == 1 and isinstance(error, RemoteUnavailable):
            batch[0].fail(error)

    def _take(self) -> list[_Waiting]:
        """Take what fits into one request, but for what nobody waits for any more."""
        batch: list[_Waiting] = []
        size = length = 0
        while self._queue and len(batch) < self._limits.files:
            waiting = self._queue[0]
            size += len(waiting.content)
            length += len(waiting.listed) + 1
            if batch and (
                size > self._room or length > _LIST - KIB or waiting.via != batch[0].via
            ):
                break
            self._queue.popleft()
            if not waiting.done.done():
                batch.append(waiting)
        return batch

    async def _post(self, batch: list[_Waiting]) -> list[Status | None]:
        listed = b'{"files":[%b]}\n' % b",".join(each.listed for each in batch)
        body = b"".join((listed, *(each.content for each in batch)))
        begun = time.monotonic()
        headers = format_via(batch[0].via)
        reply = await self._wire.request("POST", self._url, headers=headers, body=body)
        if reply.status != 200:
            raise reply.error()
        outcomes = reply.read_as(Outcomes).files
        if len(outcomes) != len(batch):
            raise RemoteRejected(f"{reply.url} answered for {len(outcomes)} files.")
        self._learn(len(body) / (time.monotonic() - begun))
        return [outcome.upload for outcome in outcomes]

    def _learn(self, rate: float) -> None:
        """Keep batches from taking long on a slow link."""
        self._room = int(min(self._limits.bytes, max(MOST, rate * _SECONDS)))
