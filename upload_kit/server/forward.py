"""
Sends what was received on to a destination, through the polish layer.

Every process of a server looks into the same outbox; whoever holds an entry forwards
it. What is remembered of it there, and the layer's own session, are what another
process, or the next start of the server, goes on with.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.locations import redact
from upload_kit.logs import about
from upload_kit.server.config import ForwardName
from upload_kit.server.forward_job import LONGEST, Carrier, ForwardJob
from upload_kit.server.forward_record import Forward, ForwardState
from upload_kit.server.receive import run
from upload_kit.sessions.manager import SessionManager, open_store
from upload_kit.throttle import BandwidthThrottle
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from upload_kit.models import UploadProgress
    from upload_kit.server.config import Forwarding
    from upload_kit.server.outbox import Hold, Outbox
    from upload_kit.server.parts import Parts

log: Final = logging.getLogger("upload_kit.server")

# Files that one process forwards at once; their chunks share what the layer allows.
_AT_ONCE: Final = 4
# Seconds between two looks for what other processes left, or what is due again.
_LOOK: Final = 2.0


class Forwarder:
    """
    Forwards what is in the outbox, as long as `run` does.

    Args:
        parts: What the server works with.

        forwarding: Where to.

        outbox: What there is to forward.

    Raises:
        ConfigurationError: The destination cannot be one.
    """

    def __init__(self, parts: Parts, forwarding: Forwarding, outbox: Outbox) -> None:
        self._parts = parts
        self._pool = parts.pool
        self._outbox = outbox
        uploader = ResumableUploader(
            forwarding.url.reveal(),
            token=forwarding.token,
            session_dir=outbox.sessions,
            session_ttl=None,
            keep_sessions=True,
            throttle=BandwidthThrottle(_share(forwarding.limit, parts.config.workers)),
            # With the ID in its name, what stands there is the same file.
            overwrite=forwarding.names is ForwardName.UNIQUE,
            history=False,
        )
        self._carrier = Carrier(
            parts=parts,
            forwarding=forwarding,
            shown=redact(forwarding.url.reveal()),
            outbox=outbox,
            uploader=uploader,
            sessions=SessionManager(open_store(outbox.sessions), ttl=None),
        )
        self._jobs: dict[str, ForwardJob] = {}
        self._counts = (0, 0)
        self._woken = asyncio.Event()

    def counts(self) -> dict[str, int]:
        """Return how many uploads are still to go, and how many failed for good."""
        waiting, failed = self._counts
        return {"waiting": waiting, "failed": failed}

    async def look(
        self, upload_id: str
    ) -> tuple[Forward | None, UploadProgress | None]:
        """
        Return how far the forward of an upload is; None if there is none.

        The progress comes only from the process that forwards it right now.
        """
        job = self._jobs.get(upload_id)
        if job is not None:
            return job.forward, job.progress
        return await run(self._pool, self._outbox.read, upload_id), None

    async def run(self, *, revive: bool) -> None:
        """
        Forward until cancelled; what is half done keeps its session.

        Args:
            revive: Try those again that failed for good before.
        """
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._woken.set)

        self._outbox.wake = wake
        try:
            if revive:
                await run(self._pool, self._revive)
                await self._tidy()
            async with asyncio.TaskGroup() as group:
                # No limit: it runs as long as the server does.
                while True:
                    self._woken.clear()
                    await self._wait_for_news(await self._look_around(group))
        finally:
            self._outbox.wake = None
            await self._carrier.sessions.aclose()

    async def _wait_for_news(self, pause: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()

    async def _look_around(self, group: asyncio.TaskGroup) -> float:
        """Begin what is due; return the seconds until something may be again."""
        try:
            waiting = await run(self._pool, self._outbox.waiting)
            failed = sum(one.state is ForwardState.FAILED for one in waiting.values())
            self._counts = len(waiting) - failed, failed
            now = time.time()
            due = [key for key, one in waiting.items() if _is_due(one, now)]
            for upload_id in sorted(due, key=lambda key: waiting[key].queued_at):
                if len(self._jobs) >= _AT_ONCE:
                    break
                if upload_id not in self._jobs:
                    await self._begin(group, upload_id)
        except Exception:
            log.exception("The outbox cannot be read; the next look is in its time")
            return _LOOK
        later = [one.retry_at - now for one in waiting.values() if one.retry_at > now]
        return min([_LOOK, *later])

    async def _begin(self, group: asyncio.TaskGroup, upload_id: str) -> None:
        """Forward an upload in a task of its own, unless another process does."""
        taken = await run(self._pool, self._outbox.take, upload_id)
        if taken is None:
            return
        job = ForwardJob(self._carrier, taken)
        self._jobs[upload_id] = job
        task = group.create_task(self._forward(upload_id, job))
        # Not in the task itself: one that is cancelled at once never begins.
        task.add_done_callback(lambda _task: self._let_go(upload_id, taken.hold))

    async def _forward(self, upload_id: str, job: ForwardJob) -> None:
        try:
            with about(upload=upload_id):
                await job.run()
        except Exception:
            log.exception("The forward of %s cannot be remembered", upload_id)
            await asyncio.sleep(_LOOK)

    def _let_go(self, upload_id: str, hold: Hold) -> None:
        hold.close()
        del self._jobs[upload_id]
        self._parts.activities.changed(upload_id)
        self._woken.set()

    async def _tidy(self) -> None:
        """Remove the sessions of what is forwarded, or was thrown away, meanwhile."""
        waiting = await run(self._pool, self._outbox.waiting)
        for session in await self._carrier.sessions.list():
            if Path(session.source or "").parent.name not in waiting:
                await self._carrier.sessions.delete(session.session_id)

    def _revive(self) -> None:
        """Have what failed for good tried once more; the settings may be others now."""
        for upload_id, forward in self._outbox.waiting().items():
            if forward.state is not ForwardState.FAILED:
                continue
            hold = self._outbox.hold(upload_id)
            if hold is not None:
                waiting = replace(forward, state=ForwardState.WAITING, tries=0)
                self._outbox.write(upload_id, waiting)
                hold.close()


def _share(limit: float | None, workers: int) -> float | None:
    """Return what each process may take of a limit: together never more than that."""
    return None if limit is None else limit / workers


def _is_due(forward: Forward, now: float) -> bool:
    if forward.state is ForwardState.FAILED:
        return False
    # A time further away was written before the clock was put back.
    return not now < forward.retry_at <= now + LONGEST
