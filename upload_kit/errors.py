"""
Every error upload_kit raises, in one tree.

    UploadKitError
    |-- ConfigurationError          the call, the options or the URL cannot work
    |   `-- MissingExtra            a package is needed and not installed
    |-- SourceError                 what was to be sent cannot be read
    |   `-- SourceChanged           it changed while, or since, it was read
    |-- RemoteError                 the other side
    |   |-- RemoteUnavailable       worth another try
    |   |   `-- TransferStalled     no bytes moved for too long
    |   |-- OffsetConflict          the remote holds another amount than we thought
    |   |-- RemoteRejected          it said no, and will say no again
    |   |-- RemoteGone              the half-done upload is no longer there
    |   `-- AuthenticationFailed    who we are is not known, or not allowed
    |-- IntegrityError              bytes there differ from bytes here
    |-- SessionError                the record of a half-done upload
    |   |-- SessionNotFound         no such session
    |   |-- SessionExpired          it was not continued in time
    |   |-- SessionConflict         another process holds it, or changed it
    |   `-- SessionCorrupt          its record cannot be read
    `-- UploadCancelled             somebody asked for it

Each class declares `retryable` and `max_tries`; `retry.py` reads nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar


class UploadKitError(Exception):
    """
    Base of everything that upload_kit raises on purpose.

    Args:
        message: What went wrong, where, and what was expected.

        hint: What to try next; one sentence.

        session_id: The session to resume, where there is one.
    """

    retryable: ClassVar[bool] = False
    """Whether the same thing may work when it is tried again."""

    max_tries: ClassVar[int | None] = None
    """Tries in all, where fewer than the policy's make sense."""

    def __init__(
        self, message: str, *, hint: str | None = None, session_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.session_id = session_id

    def __str__(self) -> str:
        """Return the message, and the hint after it."""
        return f"{self.message} {self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """
        Tell IPython what to show: what went wrong, and the caller's own functions.

        Our insides would push the one line that matters out of a notebook's sight.
        """
        # Imported when something fails: every program imports this module.
        import traceback

        theirs = [
            frame
            for frame in traceback.extract_tb(self.__traceback__)
            if not _is_inside(frame.filename)
        ]
        # The first one is the cell itself, which stands right above.
        return [
            *(line.rstrip() for line in traceback.format_list(theirs[1:])),
            f"\x1b[31m{type(self).__name__}\x1b[39m: {self}",
        ]


def _is_inside(file: str) -> bool:
    """Return whether code is not the user's: ours, Python's, or that of packages."""
    path = Path(file)
    ours = path.is_relative_to(Path(__file__).parent)
    return (
        ours
        or path.is_relative_to(Path(os.__file__).parent)
        or bool({"site-packages", "dist-packages"} & set(path.parts))
    )


class ConfigurationError(UploadKitError):
    """The call, the options or the URL cannot work as they are."""


class MissingExtra(ConfigurationError):
    """
    A package that is needed here is not installed.

    Args:
        package: The package that could not be imported.

        extra: The extra of upload_kit that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"The package {package!r} is not installed.",
            hint=f"Install it with: pip install 'upload_kit[{extra}]'",
        )
        # What it is made from again in another process.
        self.args = (package, extra)


class SourceError(UploadKitError):
    """What was to be sent cannot be read."""


class SourceChanged(SourceError):
    """The source changed while it was read, or since the session was made."""


class RemoteError(UploadKitError):
    """
    The other side failed or refused.

    Args:
        message: What went wrong.

        status: The HTTP status, where there was one.

        retry_after: Seconds the other side asked us to wait.

        hint: What to try next.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after


class RemoteUnavailable(RemoteError):
    """The other side could not be reached, or asked us to come back later."""

    retryable = True


class TransferStalled(RemoteUnavailable):
    """No bytes moved for longer than the stall timeout."""


class OffsetConflict(RemoteError):
    """The remote holds another amount than we thought; ask it, then go on."""

    retryable = True


class RemoteRejected(RemoteError):
    """The other side said no, and would say no again."""


class RemoteGone(RemoteError):
    """The half-done upload expired or was removed; a new one must be opened."""


class AuthenticationFailed(RemoteError):
    """The other side does not know us, or does not allow this."""


class IntegrityError(UploadKitError):
    """
    The bytes there are not the bytes here.

    Retryable for a chunk: it is sent once more before anyone gives up.
    """

    retryable = True
    max_tries = 2


class SessionError(UploadKitError):
    """The record of a half-done upload cannot be used."""


class SessionNotFound(SessionError):
    """No session has this ID."""


class SessionExpired(SessionError):
    """The session was not continued in time; the upload must start again."""


class SessionConflict(SessionError):
    """Another process holds this session, or changed it under us."""


class SessionCorrupt(SessionError):
    """The session's record cannot be read; it was set aside, not deleted."""


class UploadCancelled(UploadKitError):
    """Somebody cancelled the upload."""
