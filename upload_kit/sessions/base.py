"""
The ports of sessions: what a store does, and what the engine asks of a checkpoint.

Stores hold dumb records; every policy (who owns a session, when it expires, when it is
removed) is in `manager.py` and `lease.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.errors import AuthenticationFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from upload_kit.errors import SessionError, UploadKitError
    from upload_kit.models import (
        Receipt,
        RemoteObject,
        UploadSession,
        UploadSpec,
        Verification,
    )
    from upload_kit.planning import Plan
    from upload_kit.sources.base import Source

INTERRUPTED: Final = "interrupted"
"""The message of a cancellation that ends an upload for now, such as when its program
ends: the session counts as paused, not as cancelled by somebody."""


class SessionStore(Protocol):
    """Where sessions are kept; every method may be called from several processes."""

    async def get(self, session_id: str) -> UploadSession | None:
        """
        Return the session with all its receipts, or None if there is none.

        Raises:
            SessionCorrupt: Its record cannot be read; it was set aside, and the next
                call returns None.
        """
        ...

    async def put(
        self,
        session: UploadSession,
        *,
        expected: int | None,
        keep_receipts: bool = True,
    ) -> int:
        """
        Write the session if nobody else did meanwhile: compare and swap.

        Receipts are not part of it: those in `session` are ignored, and `record` alone
        adds to those that are stored.

        Args:
            session: What to write; its `version` is ignored.

            expected: The version it was read at; None if it must not exist yet.

            keep_receipts: False forgets the stored receipts in the same step.

        Returns:
            The new version, greater than `expected`.

        Raises:
            SessionConflict: The stored version is another one.
        """
        ...

    async def record(self, session_id: str, receipt: Receipt, *, fence: int) -> None:
        """
        Add one receipt, at a cost that does not grow with the number of chunks.

        It survives kill -9 of this process once the call returns. A receipt for a chunk
        that has one already replaces it.

        Args:
            session_id: Which session.

            receipt: What the remote acknowledged.

            fence: The `fence` of the lease that the caller holds.

        Raises:
            SessionConflict: A younger lease exists; the caller must stop.
            SessionNotFound: No such session.
        """
        ...

    async def delete(self, session_id: str, *, expected: int | None = None) -> None:
        """
        Remove the session and its receipts; nothing happens if there is none.

        Args:
            session_id: Which session.

            expected: Only if its version is still this one; None for any.

        Raises:
            SessionConflict: The stored version is another one.
        """
        ...

    def scan(
        self,
        *,
        on_corrupt: Callable[[SessionError], None] | None = None,
        **where: str,
    ) -> AsyncIterator[UploadSession]:
        """
        Yield every readable session, oldest first.

        Args:
            on_corrupt: Called for each session that cannot be read, which never hides
                the others; None logs a warning instead.

            where: Only those whose text field of that name equals the value, for
                example `status="uploading"` or `destination="file:///srv"`.
        """
        ...

    async def aclose(self) -> None:
        """Let go of files and connections; safe to call again."""
        ...


def can_go_on(session: UploadSession, error: UploadKitError) -> bool:
    """
    Return whether a session is of use after an error.

    It is not when the destination refused the upload before it began: there is nothing
    to go on with, and trying again would end in the same way, but with another token.
    """
    may_pass = error.retryable or isinstance(error, AuthenticationFailed)
    return may_pass or session.remote_token is not None


class Checkpoint(Protocol):
    """
    What the engine tells of an upload so that another process can go on with it.

    `SessionManager` hands one out for a session that it has leased; an upload without a
    session has none.
    """

    @property
    def session(self) -> UploadSession:
        """The session as it stands now."""
        ...

    async def opened(self, token: str) -> None:
        """
        Remember how to reopen the remote upload, before a byte is sent.

        Receipts of an earlier remote upload are forgotten.
        """
        ...

    async def record(self, receipt: Receipt) -> None:
        """
        Remember that the remote acknowledged a chunk.

        Raises:
            SessionConflict: Another process took the session over; stop at once.
        """
        ...

    def arrived(self, stored: RemoteObject, verified: Verification) -> None:
        """
        Note what stands at the destination; it is stored with the session's end.

        Args:
            stored: What the destination says of it.

            verified: How far it was compared.
        """
        ...


class SessionKeeper(Protocol):
    """Finds or makes the session of an upload; the engine asks it, if there is one."""

    def hold(
        self,
        spec: UploadSpec,
        plan: Plan,
        source: Source,
        *,
        session_id: str | None = None,
    ) -> AbstractAsyncContextManager[Checkpoint]:
        """
        Hold the session of this upload as long as the context lasts.

        How the context ends is how the session ends: complete, failed or cancelled. A
        session's own plan wins over the one that is given.

        Args:
            spec: What is uploaded.

            plan: What a new session would remember.

            source: Opened; its identity tells whether it is still the same.

            session_id: Which session; None to find one that fits, or make one.

        Raises:
            SessionNotFound: There is none with this ID.
            SessionExpired: It was not continued in time.
            SessionConflict: Another process holds it.
            SourceChanged: The source is not the one that the session was made for.
        """
        ...
