"""One upload on its way to the destination: tried, remembered, proved."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from upload_kit.config import RetryPolicy
from upload_kit.errors import (
    SessionConflict,
    SessionCorrupt,
    SessionError,
    SessionExpired,
    SessionNotFound,
    SourceChanged,
    SourceError,
    UploadKitError,
)
from upload_kit.events import EventKind
from upload_kit.logs import scrub
from upload_kit.models import UploadStatus, Verification
from upload_kit.retry import RetryState
from upload_kit.server.config import ForwardName
from upload_kit.server.fields import DEFAULT_MEDIA_TYPE
from upload_kit.server.forward_record import ForwardState
from upload_kit.server.receive import run
from upload_kit.units import format_duration

if TYPE_CHECKING:
    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadProgress, UploadResult, UploadSession
    from upload_kit.server.config import Forwarding
    from upload_kit.server.forward_record import Forward
    from upload_kit.server.outbox import Outbox, Taken
    from upload_kit.server.parts import Parts
    from upload_kit.sessions.manager import SessionManager
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.options import FileOptions
    from upload_kit.uploaders.resumable import ResumableUploader

log: Final = logging.getLogger("upload_kit.server")

# Seconds between two times that progress is written down for other processes.
_NOTE: Final = 1.0
# Seconds that an upload gets to put its session away when the server stops.
_LET_GO: Final = 5.0
# Seconds until an upload whose session somebody else holds is tried again.
_HELD: Final = 5.0
# Seconds; no wait for the next try is longer, whatever the destination asks for.
LONGEST: Final = 3600.0
# Between whole tries, each of which has its own retries and its own limit of time.
# There is no last one: the destination may be down for days.
_AGAIN: Final = RetryPolicy(
    attempts=2**31,
    max_elapsed=float("inf"),
    base_delay=1.0,
    max_delay=60.0,
    max_retry_after=float("inf"),
)
_LOST: Final = (SessionNotFound, SessionExpired, SessionCorrupt, SourceChanged)
# What stands for "no type was given", and what curl says of any body.
_NO_TYPES: Final = frozenset({DEFAULT_MEDIA_TYPE, "application/x-www-form-urlencoded"})
_PROOFS: Final = frozenset({Verification.SHA256, Verification.CHUNKS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """What all forwards of one process share."""

    parts: Parts
    """What the server works with."""

    forwarding: Forwarding
    """Where to."""

    shown: str
    """The destination's URL without secrets."""

    outbox: Outbox
    """Where forwards are remembered."""

    uploader: ResumableUploader
    """Carries them."""

    sessions: SessionManager
    """Its sessions, which are ours to remove."""


class ForwardJob:
    """
    The forward of one upload, which the caller holds.

    Args:
        carrier: What it is carried by.

        taken: The upload, and how far it is.
    """

    def __init__(self, carrier: Carrier, taken: Taken) -> None:
        self._carrier = carrier
        self._pool = carrier.parts.pool
        self._outbox = carrier.outbox
        self._id = taken.info.upload_id
        self._info = taken.info
        self._path = taken.path
        self._written_at = 0.0
        self.forward = taken.forward
        self.progress: UploadProgress | None = None

    async def run(self) -> None:
        """
        Try once, and remember how that ended.

        Raises:
            OSError: It could not be remembered; what was, counts.
        """
        try:
            await self._try()
        except UploadKitError as error:
            await self._failed(error, again=_may_pass(error))
        except OSError:
            raise
        except Exception as error:
            # The outermost edge: the next upload must not fail because of a bug.
            log.exception("The forward of %s met a bug", self._info.name)
            await self._failed(error, again=False)

    async def _try(self) -> None:
        carrier, before = self._carrier, self.forward
        if before.state is ForwardState.COMPLETE:
            # Killed before it had left the outbox.
            await self._arrived(before)
            return
        if before.destination != carrier.shown:
            before = replace(before, session_id=None, bytes=0, tries=0)
        self._change(
            replace(before, state=ForwardState.FORWARDING, destination=carrier.shown)
        )
        if before.state is ForwardState.FORWARDING or before.session_id is not None:
            session = await self._completed_session()
            if session is not None:
                # Killed after it arrived, and before that was remembered here.
                await self._arrived(_recovered(self.forward, session))
                return
        await self._write_progress()
        transfer = self._start()
        try:
            async for event in transfer:
                await self._note(transfer, event)
            result = await transfer
        except BaseException:
            transfer.interrupt()
            await asyncio.wait({transfer.task}, timeout=_LET_GO)
            raise
        await self._arrived(self._complete(result))

    def _start(self) -> Transfer:
        info, uploader = self._info, self._carrier.uploader
        name = self._path.name
        if self._carrier.forwarding.names is ForwardName.UNIQUE:
            name = f"{info.upload_id}/{name}"
        options: FileOptions = {
            "name": name,
            # Where it says nothing, the layer finds out by itself.
            "content_type": None
            if info.content_type in _NO_TYPES
            else info.content_type,
            "metadata": info.metadata,
            "via": (*info.via, self._outbox.server_id),
        }
        if self.forward.session_id is None:
            # It finds the session of a try that was killed before it was noted here.
            return uploader.start(self._path, **options)
        return uploader.start_resumable(self._path, self.forward.session_id, **options)

    async def _note(self, transfer: Transfer, event: UploadEvent) -> None:
        """Tell of what happened: at once in this process, soon in others."""
        self.progress = event.progress
        before, confirmed = self.forward, event.progress.confirmed
        changed = replace(before, bytes=confirmed, session_id=transfer.session_id)
        if event.kind is EventKind.RETRYING:
            changed = replace(changed, error=scrub(event.error or ""))
        elif confirmed > before.bytes:
            changed = replace(changed, error=None, error_type=None, tries=0)
        self._change(changed)
        is_new = changed.session_id != before.session_id
        if is_new or time.monotonic() - self._written_at > _NOTE:
            try:
                await self._write_progress()
            except OSError as error:
                # A full disk should not keep files from leaving it.
                log.warning("Progress cannot be written down: %s", error)

    def _complete(self, result: UploadResult) -> Forward:
        return replace(
            self.forward,
            location=result.location,
            sha256=result.sha256,
            verified=result.verified,
        )

    async def _completed_session(self) -> UploadSession | None:
        """Return the session that says that the upload was completed, if one does."""
        sessions, session_id = self._carrier.sessions, self.forward.session_id
        if session_id is not None:
            session = await sessions.store.get(session_id)
            is_complete = session and session.status is UploadStatus.COMPLETE
            return session if is_complete else None
        found = await sessions.list(
            source=str(self._path),
            destination=self._carrier.shown,
            status=UploadStatus.COMPLETE.value,
        )
        return next(iter(found), None)

    async def _arrived(self, forward: Forward) -> None:
        """Remember that it is done, for good; then remove what is not needed."""
        forward = replace(
            forward,
            state=ForwardState.COMPLETE,
            bytes=self._info.size or 0,
            tries=0,
            retry_at=0.0,
            error=None,
            error_type=None,
        )
        is_wanted = self._carrier.forwarding.remove
        removes = is_wanted and forward.verified in _PROOFS
        session_id = forward.session_id
        forward = replace(
            forward, session_id=None, removed=removes, updated_at=time.time()
        )
        await run(self._pool, self._outbox.settle, self._id, forward)
        log.info("%s is forwarded to %s", self._info.name, forward.location)
        await self._drop_session(session_id)
        if removes:
            await run(self._pool, self._remove)
        elif is_wanted:
            log.warning("%s stays: no digest proves its forward", self._info.name)
        # Whoever asks is told that it is done once all of it is; by this or the outbox.
        self.forward = forward

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._carrier.parts.ledger.release(self._info.size or 0)

    async def _failed(self, error: Exception, *, again: bool) -> None:
        """Remember why a try failed, and when there is to be another one."""
        if await run(self._pool, self._outbox.source, self._id) is None:
            log.info("%s was thrown away before it was forwarded", self._info.name)
            await run(self._pool, self._outbox.drop, self._id)
            await self._drop_session(self.forward.session_id)
            return
        wait = self._wait(error) if again else 0.0
        changed = replace(
            self.forward,
            state=ForwardState.WAITING if again else ForwardState.FAILED,
            tries=self.forward.tries + 1,
            retry_at=time.time() + wait if again else 0.0,
            error=scrub(str(error)) or type(error).__name__,
            error_type=type(error).__name__,
        )
        self._change(changed)
        if again:
            log.warning(
                "%s is not forwarded yet, next try in %s: %s",
                self._info.name,
                format_duration(wait),
                changed.error,
            )
        else:
            log.error("%s cannot be forwarded: %s", self._info.name, changed.error)
        if isinstance(error, _LOST) or not (again or changed.bytes):
            # There is nothing in it to go on with.
            await self._drop_session(changed.session_id)
            self.forward = replace(self.forward, session_id=None)
        await run(self._pool, self._outbox.write, self._id, self.forward)

    def _wait(self, error: Exception) -> float:
        """Return the seconds until the next try."""
        if not isinstance(error, UploadKitError) or not error.retryable:
            return _HELD
        retry = RetryState(_AGAIN)
        retry.failures = self.forward.tries
        return min(retry.wait_after(error), LONGEST)

    async def _drop_session(self, session_id: str | None) -> None:
        if session_id is not None:
            try:
                await self._carrier.sessions.delete(session_id)
            except SessionError as error:
                log.warning("Session %s stays: %s", session_id, error)

    def _change(self, forward: Forward) -> None:
        self.forward = replace(forward, updated_at=time.time())
        self._carrier.parts.activities.changed(self._id)

    async def _write_progress(self) -> None:
        """
        Tell other processes how far it is.

        Raises:
            SourceError: The upload was thrown away.
        """
        self._written_at = time.monotonic()
        if await run(self._pool, self._outbox.source, self._id) is None:
            raise SourceError(f"{self._info.name} was thrown away.")
        write = partial(self._outbox.write, self._id, self.forward, durable=False)
        await run(self._pool, write)


def _recovered(forward: Forward, session: UploadSession) -> Forward:
    """Return what a completed session knows of a forward."""
    known = replace(forward, session_id=session.session_id, verified=session.verified)
    if session.stored is None:
        return known
    stored = session.stored
    return replace(known, location=stored.location, sha256=stored.sha256)


def _may_pass(error: UploadKitError) -> bool:
    """
    Return whether another try may work, without anybody doing anything.

    What has a cap on its tries has reached it: the layer tries again by itself.
    """
    if isinstance(error, (SessionConflict, *_LOST)):
        return True
    return error.retryable and error.max_tries is None
