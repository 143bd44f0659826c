"""Who may go on with which session, until when, and what is removed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from upload_kit.config import DEFAULT_CLEANUP_INTERVAL, DEFAULT_SESSION_TTL
from upload_kit.errors import (
    ConfigurationError,
    SessionConflict,
    SessionExpired,
    SessionNotFound,
)
from upload_kit.models import UploadSession, UploadStatus
from upload_kit.records import Record
from upload_kit.sessions.lease import LeaseTerms, SessionLease, unbroken
from upload_kit.sessions.owners import is_expired, refuse_if_held
from upload_kit.sessions.places import default_session_dir, open_store
from upload_kit.sessions.records import logger, new_session_id, warn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from upload_kit.errors import SessionError
    from upload_kit.models import SourceIdentity, UploadSpec
    from upload_kit.sessions.base import SessionStore

__all__ = [
    "DEFAULT_LEASE",
    "CleanupReport",
    "SessionLease",
    "SessionManager",
    "default_session_dir",
    "open_store",
]

DEFAULT_LEASE: Final = 60.0
"""Seconds."""

_TRIES: Final = 5
_JITTER: Final = 0.2
_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupReport(Record):
    """What a cleanup did."""

    removed: tuple[str, ...] = ()
    """IDs of the expired sessions that are gone."""

    corrupt: tuple[str, ...] = ()
    """What could not be read since the last cleanup, and where it was moved to."""


class SessionManager:
    """
    Half-done uploads: made, found, leased to one process at a time, and cleaned up.

    Args:
        store: Where the sessions are kept; `aclose` closes it.

        ttl: Seconds until a session expires that nobody goes on with; None for never.

        lease_seconds: How long a process that went silent keeps others out; one that
            died on this machine keeps nobody out.

        keep_completed: Keep completed sessions until they expire, instead of removing
            them at once.

        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        ttl: float | None = DEFAULT_SESSION_TTL,
        lease_seconds: float = DEFAULT_LEASE,
        keep_completed: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not (lease_seconds > 0 and (ttl is None or ttl > 0)):
            raise ConfigurationError(
                f"ttl and lease_seconds must be above 0, not {ttl}, {lease_seconds}."
            )
        self.store = store
        self._ttl = ttl
        self._clock = clock
        self._terms = LeaseTerms(
            seconds=lease_seconds, ttl=ttl, clock=clock, keep_completed=keep_completed
        )
        self._corrupt: deque[str] = deque(maxlen=_REMEMBERED)

    async def create(
        self,
        spec: UploadSpec,
        *,
        source: str | None,
        destination: str,
        chunk_size: int,
        total_chunks: int | None,
        identity: SourceIdentity | None = None,
    ) -> UploadSession:
        """
        Make a session and store it.

        Args:
            spec: What is to be uploaded.

            source: Absolute path of the source; None if it cannot be opened again.

            destination: URL of the destination, without secrets.

            chunk_size: Bytes of every chunk but the last.

            total_chunks: Chunks in all; None while the size is not known.

            identity: What the source looks like now.
        """
        now = self._clock()
        session = UploadSession(
            session_id=new_session_id(),
            name=spec.name,
            source=source,
            destination=destination,
            size=spec.size,
            chunk_size=chunk_size,
            total_chunks=total_chunks,
            identity=identity,
            content_type=spec.content_type,
            metadata=spec.metadata,
            created_at=now,
            updated_at=now,
            expires_at=None if self._ttl is None else now + self._ttl,
        )
        version = await self.store.put(session, expected=None)
        return replace(session, version=version)

    async def get(self, session_id: str) -> UploadSession:
        """
        Return the session with all its receipts.

        Raises:
            ConfigurationError: It is no session ID.
            SessionNotFound: There is no such session.
            SessionExpired: It was not continued in time.
            SessionCorrupt: Its record cannot be read; it was set aside.
        """
        session = await self.store.get(session_id)
        if session is None:
            raise SessionNotFound(
                f"There is no session {session_id}.",
                hint="It was completed, removed, or belongs to another session folder.",
                session_id=session_id,
            )
        if self._is_expired(session):
            expired = time.strftime(
                "%Y-%m-%d %H:%M", time.localtime(session.expires_at)
            )
            raise SessionExpired(
                f"Session {session_id} expired at {expired}.",
                hint="Start the upload again.",
                session_id=session_id,
            )
        return session

    async def find(
        self, *, source: str, name: str, destination: str, identity: SourceIdentity
    ) -> UploadSession | None:
        """
        Return the newest session that can go on with this upload, or None.

        Args:
            source: Absolute path of the source.

            name: What it is called at the destination.

            destination: URL of the destination, as the session has it.

            identity: What the source looks like now; a changed source has no session.
        """
        sessions = self.store.scan(
            on_corrupt=self._note, source=source, name=name, destination=destination
        )
        found = None
        async for session in sessions:
            unfinished = session.status is not UploadStatus.COMPLETE
            same = session.identity == identity
            if unfinished and same and not self._is_expired(session):
                found = session
        return found

    async def list(
        self, *, expired: bool = False, **where: str
    ) -> Sequence[UploadSession]:
        """
        Return sessions, oldest first.

        Args:
            expired: Whether to return those too that wait for their cleanup.

            where: Only those whose text field of that name equals the value.

        Raises:
            ConfigurationError: There is no such field.
        """
        return [
            session
            async for session in self.store.scan(on_corrupt=self._note, **where)
            if expired or not self._is_expired(session)
        ]

    async def unfinished(self, *, expired: bool = False) -> Sequence[UploadSession]:
        """
        Return the sessions of uploads that are not complete, oldest first.

        Args:
            expired: Whether to return those too that wait for their cleanup.
        """
        found = await self.list(expired=expired)
        return [one for one in found if one.status is not UploadStatus.COMPLETE]

    @asynccontextmanager
    async def lease(self, session_id: str) -> AsyncIterator[SessionLease]:
        """
        Hold a session while the body runs, and keep every other process out.

        On leaving, the status given to `SessionLease.finish` is stored. Without one it
        is paused, or failed or cancelled if the body ended so.

        Raises:
            SessionConflict: Another process works on it; the message says which.
            SessionNotFound: There is no such session.
            SessionExpired: It was not continued in time.
        """
        lease = await self._claim(session_id)
        renewal = asyncio.create_task(lease.keep())
        cause: BaseException | None = None
        try:
            yield lease
        except BaseException as error:
            cause = error
            raise
        finally:
            renewal.cancel()
            await unbroken(_give_back(lease, renewal, cause))
            del cause

    async def delete(self, session_id: str) -> None:
        """
        Remove a session; whoever works on it stops at its next chunk.

        Raises:
            ConfigurationError: It is no session ID.
        """
        await self.store.delete(session_id)

    async def cleanup(
        self,
        *,
        on_expired: Callable[[UploadSession], Awaitable[None]] | None = None,
    ) -> CleanupReport:
        """
        Remove expired sessions; safe to call from several processes at once.

        Args:
            on_expired: Called with each unfinished one before it is removed, to throw
                away what the remote holds. If it fails, the session stays for the next
                cleanup, at most for another `ttl`.
        """
        removed = [
            session.session_id
            for session in await self.list(expired=True)
            if self._is_expired(session) and await self._remove(session, on_expired)
        ]
        corrupt = tuple(self._corrupt)
        self._corrupt.clear()
        return CleanupReport(removed=tuple(removed), corrupt=corrupt)

    async def run_cleanup(
        self,
        interval: float = DEFAULT_CLEANUP_INTERVAL,
        *,
        on_expired: Callable[[UploadSession], Awaitable[None]] | None = None,
    ) -> None:
        """
        Clean up again and again, until cancelled; a failure is logged.

        Args:
            interval: Seconds between two cleanups, give or take a fifth, so that
                several processes do not stay in step.

            on_expired: As for `cleanup`.
        """
        while True:
            try:
                report = await self.cleanup(on_expired=on_expired)
            except Exception:  # noqa: BLE001 (the outermost edge of a task that goes on)
                logger.exception("A cleanup of sessions failed.")
            else:
                if report.removed:
                    logger.info("Removed %d expired sessions.", len(report.removed))
            # Spreading load needs no cryptography.
            spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            await asyncio.sleep(interval * spread)

    async def aclose(self) -> None:
        """Close the store; safe to call again."""
        await self.store.aclose()

    async def _claim(self, session_id: str) -> SessionLease:
        for _ in range(_TRIES):
            session = await self.get(session_id)
            refuse_if_held(session, self._clock())
            lease = SessionLease(self.store, session, self._terms)
            try:
                await lease.claim()
            except SessionConflict:
                continue  # Somebody was faster; the next look says who.
            except asyncio.CancelledError as error:
                await unbroken(lease.release(error))
                raise
            return lease
        raise SessionConflict(
            f"Session {session_id} changes faster than it can be taken.",
            hint="Try again later.",
            session_id=session_id,
        )

    def _is_expired(self, session: UploadSession) -> bool:
        return is_expired(session, self._clock())

    async def _remove(
        self,
        session: UploadSession,
        on_expired: Callable[[UploadSession], Awaitable[None]] | None,
    ) -> bool:
        if on_expired is not None and session.status is not UploadStatus.COMPLETE:
            try:
                await on_expired(session)
            except Exception:  # noqa: BLE001 (whatever it raises, the others go on)
                logger.warning(
                    "What session %s left at %s could not be removed.",
                    session.session_id,
                    session.destination,
                    exc_info=True,
                )
                if not self._is_overdue(session):
                    return False
        try:
            await self.store.delete(session.session_id, expected=session.version)
        except SessionConflict:
            return False  # Somebody went on with it in the last moment.
        return True

    def _is_overdue(self, session: UploadSession) -> bool:
        again = self._ttl or DEFAULT_SESSION_TTL
        return (session.expires_at or 0.0) + again <= self._clock()

    def _note(self, error: SessionError) -> None:
        warn(error)
        self._corrupt.append(str(error))


async def _give_back(
    lease: SessionLease, renewal: asyncio.Task[None], cause: BaseException | None
) -> None:
    await asyncio.wait({renewal})
    if not renewal.cancelled() and (error := renewal.exception()) is not None:
        logger.error("A lease was not renewed any more.", exc_info=error)
    await lease.release(cause)
