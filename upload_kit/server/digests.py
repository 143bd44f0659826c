"""
Digests of whole files whose chunks came one by one.

A digest follows the chunks as they are acknowledged, in a thread of its own, so that
little is left to read when the upload is completed.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from upload_kit.server.problems import UploadProblem
from upload_kit.server.receive import run
from upload_kit.units import MIB

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from upload_kit.server.opened import OpenUploads
    from upload_kit.server.storage import StoredUpload

_READ: Final = MIB // 4
_STEP: Final = 8 * MIB

# Uploads whose digests are followed at once; others are hashed when they are completed.
_MAX_FOLLOWED: Final = 1000


class _Running:
    """A digest of the first bytes of one file."""

    def __init__(self) -> None:
        self.position = 0
        self.lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self._hash = hashlib.sha256()
        self._next = 0
        self._end = 0

    def contiguous(self, upload: StoredUpload) -> int:
        """Return how many bytes there are from the start without a gap."""
        while (chunk := upload.chunks.get(self._next)) is not None:
            self._next += 1
            self._end = chunk.end
        if upload.info.grows and upload.chunks:
            self._end = upload.chunks[0].end
        return self._end

    def step(self, upload: StoredUpload, end: int) -> None:
        """Hash a few MiB more, in a thread."""
        end = min(end, self.position + _STEP)
        while self.position < end:
            data = upload.read(self.position, min(_READ, end - self.position))
            if not data:
                raise OSError(f"the file ends at {self.position}, not at {end}")
            self._hash.update(data)
            self.position += len(data)

    def hexdigest(self) -> str:
        return self._hash.copy().hexdigest()


class WholeDigests:
    """
    The digests of all files that are on their way, in this process.

    Args:
        uploads: Keeps an upload open while it is read.

        pool: Threads for what is left when an upload is completed.

        follow: Whether to hash chunks as they come; of no use where other processes
            take some of them.

        background: A thread that hashes chunks as they come.
    """

    def __init__(
        self,
        uploads: OpenUploads,
        pool: Executor,
        background: Executor,
        *,
        follow: bool,
    ) -> None:
        self._uploads = uploads
        self._pool = pool
        self._background = background
        self._follow = follow
        self._running: dict[str, _Running] = {}

    def advance(self, upload: StoredUpload) -> None:
        """Say that another chunk was acknowledged; returns at once."""
        info = upload.info
        if not (self._follow and info.whole_digest):
            return
        running = self._running.get(info.upload_id)
        if running is None:
            if len(self._running) >= _MAX_FOLLOWED:
                return
            running = self._running[info.upload_id] = _Running()
        if running.task is None or running.task.done():
            running.task = asyncio.create_task(self._catch_up(running, info.upload_id))

    async def finish(self, upload: StoredUpload, size: int) -> str:
        """Return the digest of a file whose chunks are all there."""
        upload_id = upload.info.upload_id
        running = self._running.setdefault(upload_id, _Running())
        async with running.lock:
            while running.position < size:
                await run(self._pool, running.step, upload, size)
            return running.hexdigest()

    def forget(self, upload_id: str) -> None:
        """Let go of the digest of an upload that ended."""
        running = self._running.pop(upload_id, None)
        if running is not None and running.task is not None:
            running.task.cancel()

    async def aclose(self) -> None:
        """Stop hashing."""
        tasks = [running.task for running in self._running.values() if running.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()

    async def _catch_up(self, running: _Running, upload_id: str) -> None:
        # A disk that fails now fails again when the upload is completed, and is told.
        with suppress(OSError, UploadProblem):
            async with self._uploads.use(upload_id) as upload, running.lock:
                while running.position < (end := running.contiguous(upload)):
                    await run(self._background, running.step, upload, end)
