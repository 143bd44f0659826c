"""What the uploads of one uploader share: made by the first, closed after the last."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from upload_kit.buffers import BufferPool
from upload_kit.destinations.registry import make_destination
from upload_kit.engine.request import Shared
from upload_kit.locations import parse_location
from upload_kit.sessions.history import History
from upload_kit.sessions.lease import unbroken
from upload_kit.sessions.places import history_path

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from upload_kit.config import ConnectionOptions, TransferPolicy
    from upload_kit.destinations.base import Destination
    from upload_kit.throttle import BandwidthThrottle
    from upload_kit.uploaders.keeper import Keeper

logger = logging.getLogger("upload_kit.uploaders")


class Resources:
    """
    Connections, buffers, slots, sessions and the history of one uploader.

    They belong to one event loop at a time; when every upload has ended they are
    closed, so that an uploader may be used in one loop after another.

    Args:
        url: The destination, with its secrets.

        connection: What the destination needs besides.

        policy: Returns how uploads run: how many slots, how much memory.

        history: Whether a row is kept of every upload, or the file for them.
    """

    def __init__(
        self,
        url: str,
        connection: ConnectionOptions,
        policy: Callable[[], TransferPolicy],
        *,
        history: bool | str | Path,
    ) -> None:
        self.connection = connection
        self.shown = str(parse_location(url))
        self.throttle: BandwidthThrottle | None = None
        self.make_keeper: Callable[[str], Keeper] | None = None
        self.session_dir: str | os.PathLike[str] | None = None
        self._url = url
        self._policy = policy
        self._history_option = history
        self._history: History | None = None
        self._keeper: Keeper | None = None
        self._shared: Shared | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0
        # What cannot work is told here, not at the first upload.
        policy()
        make_destination(url, connection)

    def acquire(self) -> Shared:
        """Return what is shared, made now if nobody uses it; then `release` it."""
        loop = asyncio.get_running_loop()
        if self._shared is None or self._loop is not loop:
            # The old ones, if any, belong to a loop that ended in mid-upload.
            self._loop, self._users = loop, 0
            self._shared = self._make()
        self._users += 1
        return self._shared

    def _make(self) -> Shared:
        policy = self._policy()
        if self._history_option is not False:
            self._history = History(self._history_path())
        if self.make_keeper is not None:
            self._keeper = self.make_keeper(self.shown)
        return Shared(
            destination=make_destination(self._url, self.connection),
            shown=self.shown,
            pool=BufferPool(policy.memory_budget),
            # A chunk that waited for a connection would seem to be stalled.
            slots=asyncio.Semaphore(
                min(policy.max_parallel, self.connection.max_connections)
            ),
            throttle=self.throttle,
            keeper=self._keeper,
            record=None if self._history is None else self._history.add,
        )

    def _history_path(self) -> Path:
        option = self._history_option
        if isinstance(option, bool):
            return history_path(self.session_dir)
        return Path(option)

    @property
    def destination(self) -> Destination:
        """The destination; only between `acquire` and `release`."""
        assert self._shared is not None
        return self._shared.destination

    @property
    def keeper(self) -> Keeper:
        """The sessions; only between `acquire` and `release`, where there are some."""
        assert self._keeper is not None
        return self._keeper

    async def release(self) -> None:
        """Say that one user is done; the last one closes everything."""
        self._users -= 1
        if self._users > 0 or self._shared is None:
            return
        shared, self._shared = self._shared, None
        history, self._history = self._history, None
        keeper, self._keeper = self._keeper, None
        shared.pool.clear()
        for closable in (shared.destination, keeper, history):
            if closable is not None:
                await unbroken(_close(closable))


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def _close(closable: _Closable) -> None:
    """Close it; what has arrived has arrived, so a failure is only logged."""
    try:
        await closable.aclose()
    except Exception:  # The outermost edge: the upload's own outcome counts.
        logger.exception("%s could not be closed.", type(closable).__name__)
