"""What has to be done now and then: remove what expired, and count what is left."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.server.problems import UploadProblem
from upload_kit.server.receive import run
from upload_kit.server.storage import UploadMoved

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from upload_kit.server.ledger import Ledger
    from upload_kit.server.parts import Parts
    from upload_kit.server.storage import Storage

log: Final = logging.getLogger("upload_kit.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a cleanup did."""

    removed: int = 0
    """Uploads."""

    bytes: int = 0
    """What their removal made free."""


class Housekeeper:
    """
    Cleans up.

    Args:
        parts: What it works with.

        pool: A thread of its own, so that a long search keeps nobody waiting.
    """

    def __init__(self, parts: Parts, pool: Executor) -> None:
        self._parts = parts
        self._pool = pool

    async def cleanup(self) -> Removed:
        """
        Remove every unfinished upload that nothing came for within its time.

        A request that has hung on one of them for all that time is ended first.
        """
        config, storage = self._parts.config, self._parts.storage
        before = time.time() - config.expires_after
        found = await run(self._pool, lambda: list(storage.remains(before)))
        count = size = 0
        for upload_id in found:
            freed = await self._remove(upload_id, before)
            if freed is not None:
                count += 1
                size += freed
        await run(self._pool, storage.forget, before)
        outbox, forward = self._parts.outbox, config.forward
        if outbox is not None and forward is not None and forward.remove:
            await run(self._pool, outbox.forget, before)
        await run(self._pool, recount, storage, self._parts.ledger)
        return Removed(removed=count, bytes=size)

    async def keep_clean(self) -> None:
        """Clean up once an interval, until it is cancelled."""
        while True:
            await asyncio.sleep(self._parts.config.cleanup_interval)
            try:
                done = await self.cleanup()
            except (OSError, UploadProblem):
                log.exception("The cleanup failed; the next one is in its time")
            else:
                log.info(
                    "Removed %d expired uploads, %d bytes", done.removed, done.bytes
                )

    async def _remove(self, upload_id: str, before: float) -> int | None:
        try:
            async with self._parts.locker.hold(upload_id, None, _keep_on):
                freed = await run(
                    self._pool, self._parts.storage.expire, upload_id, before
                )
        except UploadMoved:
            return None
        except UploadProblem as problem:
            log.info("Upload %s is left alone: %s", upload_id, problem.message)
            return None
        self._parts.digests.forget(upload_id)
        self._parts.uploads.forget(upload_id)
        self._parts.activities.changed(upload_id)
        return freed


def recount(storage: Storage, ledger: Ledger) -> None:
    """Count what is stored, and put the ledger right; blocks for long."""
    before = ledger.read()
    ledger.correct(before, storage.usage(with_sizes=ledger.counts_bytes))


def _keep_on() -> None:
    """Let a removal end: it takes no time."""
