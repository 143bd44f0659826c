"""What an upload tells while it goes on: events, and lines in the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind, UploadEvent
from upload_kit.progress.feeds import Feed, Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from upload_kit.errors import UploadKitError
    from upload_kit.models import Stage, UploadResult
    from upload_kit.progress.state import ProgressState

logger = logging.getLogger("upload_kit.transfer")

# Readers get at most fifty `bytes` events a second of one upload.
_BYTES_INTERVAL: Final = 0.02


class Reporter:
    """
    Tells of one upload: numbers its events, and passes them on to whoever listens.

    Args:
        state: What the upload counts; every event carries it as it stands then.

        listeners: Called with every event; they must not block.
    """

    def __init__(
        self, state: ProgressState, listeners: Iterable[Callable[[UploadEvent], None]]
    ) -> None:
        self._state = state
        self._hub = Hub(listeners)
        self._seq = 0
        self._last: UploadEvent | None = None
        self._last_bytes = 0.0
        self.causes: Counter[str] = Counter()

    def subscribe(self) -> Feed:
        """Return a feed of the events from now on; of the last one if it has ended."""
        feed = self._hub.subscribe()
        if self._last is not None and self._last.kind.is_final:
            feed.put(self._last)
            feed.close()
        return feed

    def result(self) -> UploadResult:
        """Return how the upload ended; only once it has."""
        assert self._last is not None
        assert self._last.result is not None
        return self._last.result

    def moved(self) -> None:
        """Tell that bytes moved, unless that was told a moment ago."""
        now = time.monotonic()
        if now - self._last_bytes >= _BYTES_INTERVAL:
            self._last_bytes = now
            self.emit(EventKind.BYTES)

    def entered(self, stage: Stage) -> None:
        """Tell of a new stage."""
        self._state.stage = stage
        self.emit(EventKind.STAGE)

    def retrying(
        self,
        error: UploadKitError,
        attempt: int,
        wait: float,
        *,
        chunk: int | None = None,
    ) -> None:
        """
        Count another try, and tell of it.

        Args:
            error: Why the last one failed.

            attempt: How many have failed, from 1.

            wait: Seconds until the next one.

            chunk: What is tried again; None for a request that carries no chunk.
        """
        self._state.retries += 1
        self.causes[type(error).__name__] += 1
        logger.warning(
            "%s: chunk %s, try %d failed, next in %.1f s: %s",
            self._state.name,
            chunk,
            attempt,
            wait,
            error,
        )
        self.emit(
            EventKind.RETRYING,
            chunk=chunk,
            attempt=attempt,
            wait=wait,
            error=str(error),
        )

    def end(self, kind: EventKind, result: UploadResult) -> None:
        """Tell everybody how it ended; nothing comes after that."""
        status = self._state.status.value
        logger.info("%s: %s after %.1f s", result.name, status, result.seconds)
        self.emit(kind, error=result.error, result=result)
        self._hub.close()

    def emit(
        self,
        kind: EventKind,
        *,
        chunk: int | None = None,
        attempt: int = 0,
        wait: float = 0.0,
        error: str | None = None,
        result: UploadResult | None = None,
    ) -> None:
        """Make an event and pass it on; the fields are those of `UploadEvent`."""
        if not (self._hub.is_heard or kind.is_final):
            return
        self._last = UploadEvent(
            kind=kind,
            transfer_id=self._state.transfer_id,
            seq=self._seq,
            at=time.time(),
            progress=self._state.snapshot(),
            chunk=chunk,
            attempt=attempt,
            wait=wait,
            error=error,
            result=result,
        )
        self._seq += 1
        self._hub.emit(self._last)
