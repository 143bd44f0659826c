"""
Events on their way to those who read them.

They go from an upload to a `Hub`; each reader has a `Feed` of its own, which merges
neighbouring `bytes` events and never drops another kind. No reader can slow the wire.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from upload_kit.events import EventKind, UploadEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable


class Feed:
    """
    The events of one or many uploads, for one reader, at the reader's own pace.

    Unread `bytes` events of one upload with nothing of the same upload in between are
    merged into the newest; every other kind is kept. Written from any thread, read in
    one event loop, by `async for`; it ends after `close`, once everything was read.
    """

    def __init__(self) -> None:
        self._events: OrderedDict[int, UploadEvent] = OrderedDict()
        # Of each upload whose last unread event counts bytes: where that one stands.
        self._counts: dict[str, int] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def put(self, event: UploadEvent) -> None:
        """Add an event; never blocks."""
        with self._lock:
            number = self._counts.pop(event.transfer_id, None)
            counts = event.kind is EventKind.BYTES
            if number is None or not counts:
                number = next(self._numbers)
            if counts:
                self._counts[event.transfer_id] = number
            self._events[number] = event
            self._wake()

    def close(self) -> None:
        """End the feed once the reader has read what is in it."""
        with self._lock:
            self._closed = True
            self._wake()

    def drain(self) -> list[UploadEvent]:
        """Return and remove everything that has not been read yet."""
        with self._lock:
            events = list(self._events.values())
            self._events.clear()
            self._counts.clear()
        return events

    def _wake(self) -> None:
        if self._waiting is None:
            return
        loop, ready = self._waiting
        self._waiting = None
        # The reader's loop may be closed by now, and then nobody waits.
        if not loop.is_closed():
            loop.call_soon_threadsafe(ready.set)

    def __aiter__(self) -> AsyncIterator[UploadEvent]:
        """Read the feed; only one reader may."""
        return self

    async def __anext__(self) -> UploadEvent:
        """Return the next event, waiting for it as long as the feed is open."""
        while True:
            with self._lock:
                if self._events:
                    return self._next()
                if self._closed:
                    raise StopAsyncIteration
                ready = asyncio.Event()
                self._waiting = (asyncio.get_running_loop(), ready)
            # No limit: whoever feeds it closes it in a `finally`.
            await ready.wait()

    def _next(self) -> UploadEvent:
        number, event = self._events.popitem(last=False)
        if self._counts.get(event.transfer_id) == number:
            del self._counts[event.transfer_id]
        return event


class Hub:
    """Passes each event to every listener, in order; a listener must not block."""

    def __init__(self, listeners: Iterable[Callable[[UploadEvent], None]] = ()) -> None:
        self._listeners = list(listeners)
        self._feeds: list[Feed] = []

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def subscribe(self) -> Feed:
        """Return a new feed of every event from now on."""
        feed = Feed()
        self._feeds.append(feed)
        self._listeners.append(feed.put)
        return feed

    def emit(self, event: UploadEvent) -> None:
        """Pass the event on."""
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """End every feed."""
        for feed in self._feeds:
            feed.close()
