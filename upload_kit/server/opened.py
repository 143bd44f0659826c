"""Uploads that are open in this process, shared by the requests that work on them."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.server.receive import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Executor

    from upload_kit.server.storage import Storage, StoredUpload

# Each one holds two files open and its list of chunks in memory.
_MAX_IDLE: Final = 64


@dataclass(slots=True)
class _Entry:
    upload: StoredUpload
    users: int = 0


class OpenUploads:
    """
    Opens an upload once for all requests that use it at the same time, and for a while.

    Args:
        storage: Where uploads are.

        pool: Threads for its blocking calls.
    """

    def __init__(self, storage: Storage, pool: Executor) -> None:
        self._storage = storage
        self._pool = pool
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    @asynccontextmanager
    async def use(self, upload_id: str) -> AsyncIterator[StoredUpload]:
        """
        Open an upload, or take the one that is open.

        Raises:
            UploadMissing: There is none.
        """
        entry = self._entries.get(upload_id)
        if entry is None:
            opened = await run(self._pool, self._storage.open, upload_id)
            entry = self._keep(upload_id, opened)
        entry.users += 1
        self._entries.move_to_end(upload_id)
        try:
            yield entry.upload
        finally:
            entry.users -= 1
            if self._entries.get(upload_id) is not entry and not entry.users:
                entry.upload.close()
            self._close_idle(_MAX_IDLE)

    def add(self, upload: StoredUpload) -> None:
        """Keep an upload that was just made."""
        self._keep(upload.info.upload_id, upload)
        self._close_idle(_MAX_IDLE)

    def forget(self, upload_id: str, upload: StoredUpload | None = None) -> None:
        """
        Let go of an upload as soon as nobody uses it any more.

        Args:
            upload_id: Which one.

            upload: Only if it is still this one; None for whichever it is.
        """
        entry = self._entries.get(upload_id)
        if entry is None or (upload is not None and entry.upload is not upload):
            return
        del self._entries[upload_id]
        if not entry.users:
            entry.upload.close()

    def close(self) -> None:
        """Let go of all of them."""
        for upload_id in list(self._entries):
            self.forget(upload_id)

    def _keep(self, upload_id: str, upload: StoredUpload) -> _Entry:
        """Keep what was opened, unless somebody else was faster."""
        entry = self._entries.get(upload_id)
        if entry is not None:
            upload.close()
            return entry
        entry = self._entries[upload_id] = _Entry(upload)
        return entry

    def _close_idle(self, keep: int) -> None:
        excess = len(self._entries) - keep
        if excess <= 0:
            return
        idle = [key for key, entry in self._entries.items() if not entry.users]
        for upload_id in idle[:excess]:
            self.forget(upload_id)
