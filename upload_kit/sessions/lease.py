"""The right to work on a session: taken, renewed, lost, given back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from upload_kit.errors import (
    SessionConflict,
    SessionError,
    SessionNotFound,
    UploadCancelled,
)
from upload_kit.models import UploadStatus
from upload_kit.sessions.base import INTERRUPTED
from upload_kit.sessions.owners import new_owner
from upload_kit.sessions.records import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from upload_kit.models import (
        Receipt,
        RemoteObject,
        UploadSession,
        Verification,
    )
    from upload_kit.sessions.base import SessionStore

T = TypeVar("T")

_GRACE: Final = 15.0
"""Seconds that a cancelled caller waits for a write that has begun; stores wait 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """What holds for every lease of a manager."""

    seconds: float
    """How long a lease lasts unless it is renewed."""

    ttl: float | None
    """Seconds until a session expires that nobody goes on with; None for never."""

    clock: Callable[[], float]
    """Seconds since the epoch."""

    keep_completed: bool
    """Whether a completed session stays."""


class SessionLease:
    """
    One process's right to work on one session; the `Checkpoint` that the engine gets.

    Made by `SessionManager.lease`, and used on the event loop that made it.

    Args:
        store: Where the session is kept.

        session: The session as it was read, not yet taken.

        terms: How long things last.
    """

    def __init__(
        self, store: SessionStore, session: UploadSession, terms: LeaseTerms
    ) -> None:
        self._store = store
        self._terms = terms
        self._owner = new_owner()
        self._head = replace(session, receipts=())
        self._receipts = {receipt.index: receipt for receipt in session.receipts}
        self._snapshot: UploadSession | None = session
        self._updated_at = session.updated_at
        self._saving = asyncio.Lock()
        self._lost: SessionError | None = None
        self._arrived: dict[str, Any] = {}
        self._outcome: tuple[UploadStatus, str | None] | None = None

    @property
    def session(self) -> UploadSession:
        """The session as it stands now."""
        if self._snapshot is None:
            # Built when somebody asks, not at every receipt: that would cost the square
            # of the number of chunks.
            receipts = tuple(self._receipts[index] for index in sorted(self._receipts))
            self._snapshot = replace(
                self._head, receipts=receipts, updated_at=self._updated_at
            )
        return self._snapshot

    @property
    def is_lost(self) -> bool:
        """Whether another process took the session over, or removed it."""
        return self._lost is not None

    async def opened(self, token: str) -> None:
        """
        Remember how to reopen the remote upload, before a byte is sent.

        Receipts of an earlier remote upload are forgotten.

        Raises:
            SessionConflict: Another process took the session over; stop at once.
        """
        await self._save(keep_receipts=False, remote_token=token)

    async def record(self, receipt: Receipt) -> None:
        """
        Remember that the remote acknowledged a chunk.

        Raises:
            SessionConflict: Another process took the session over; stop at once.
        """
        self._check()
        head = self._head
        try:
            await self._store.record(head.session_id, receipt, fence=head.fence)
        except (SessionConflict, SessionNotFound) as error:
            self._lost = error
            raise self._conflict() from error
        self._receipts[receipt.index] = receipt
        self._updated_at = self._terms.clock()
        self._snapshot = None

    def arrived(self, stored: RemoteObject, verified: Verification) -> None:
        """Note what stands at the destination; it is stored with the session's end."""
        self._arrived = {"stored": stored, "verified": verified}

    async def renew(self) -> None:
        """
        Hold the lease for a full term from now on.

        Raises:
            SessionConflict: Another process took the session over; stop at once.
        """
        await self._save()

    def finish(self, status: UploadStatus, error: str | None = None) -> None:
        """
        Say how the upload ended; it is stored when the lease is given back.

        Args:
            status: A completed session is removed, unless the manager keeps them.

            error: What went wrong; without secrets.
        """
        self._outcome = (status, error)

    async def claim(self) -> None:
        """
        Take the session, as it was read.

        Raises:
            SessionConflict: Somebody else changed it first.
        """
        await self._save(
            lease_owner=self._owner,
            fence=self._head.fence + 1,
            status=UploadStatus.UPLOADING,
            error=None,
        )

    async def keep(self) -> None:
        """Renew the lease until it is lost or this task is cancelled."""
        while self._lost is None:
            await asyncio.sleep(self._terms.seconds / 3)
            try:
                await self.renew()
            except SessionConflict:
                return
            except SessionError as error:
                # A full disk may have space again before the lease runs out.
                logger.warning("A lease could not be renewed: %s", error)
                if self._terms.clock() >= self._head.lease_until:
                    self._lost = error

    async def release(self, cause: BaseException | None) -> None:
        """
        Give the session back; nothing happens if it is not ours any more.

        Args:
            cause: What ended the work, where it did not end by itself.
        """
        if self._lost is not None or self._head.lease_owner != self._owner:
            return
        status, error = self._outcome or _outcome(cause)
        try:
            if status is UploadStatus.COMPLETE and not self._terms.keep_completed:
                await unbroken(self._remove())
            else:
                await self._save(
                    lease_owner=None, status=status, error=error, **self._arrived
                )
        except SessionError as problem:
            # What the body did counts; the lease runs out by itself.
            logger.warning("A lease could not be given back: %s", problem)

    async def _remove(self) -> None:
        async with self._saving:
            await self._store.delete(self._head.session_id, expected=self._head.version)

    async def _save(self, *, keep_receipts: bool = True, **changes: Any) -> None:
        # Whoever is cancelled in the middle of a write must still learn its version,
        # else the lease could not be given back.
        await unbroken(self._put(changes, keep_receipts=keep_receipts))

    async def _put(self, changes: dict[str, Any], *, keep_receipts: bool) -> None:
        async with self._saving:
            self._check()
            wanted = self._stamped(replace(self._head, **changes))
            try:
                version = await self._store.put(
                    wanted, expected=self._head.version, keep_receipts=keep_receipts
                )
            except SessionConflict as error:
                self._lost = error
                raise self._conflict() from error
            self._head = replace(wanted, version=version)
            if not keep_receipts:
                self._receipts.clear()
            self._snapshot = None

    def _stamped(self, session: UploadSession) -> UploadSession:
        now, terms = self._terms.clock(), self._terms
        return replace(
            session,
            updated_at=self._updated_at,
            expires_at=None if terms.ttl is None else now + terms.ttl,
            lease_until=now + terms.seconds if session.lease_owner else 0.0,
        )

    def _check(self) -> None:
        if self._lost is not None:
            raise self._conflict()

    def _conflict(self) -> SessionConflict:
        return SessionConflict(
            f"This process no longer holds session {self._head.session_id}: "
            f"{self._lost}",
            hint="See which process does, or resume the session.",
            session_id=self._head.session_id,
        )


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """
    Do what must not be left half done, even if the caller is cancelled meanwhile.

    Raises:
        CancelledError: The caller was cancelled; the work has ended all the same, or
            took too long to wait for.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_GRACE)
        raise


def _outcome(cause: BaseException | None) -> tuple[UploadStatus, str | None]:
    if cause is None or cause.args == (INTERRUPTED,):
        return UploadStatus.PAUSED, None
    if isinstance(cause, (asyncio.CancelledError, UploadCancelled, KeyboardInterrupt)):
        return UploadStatus.CANCELLED, None
    return UploadStatus.FAILED, str(cause) or type(cause).__name__
