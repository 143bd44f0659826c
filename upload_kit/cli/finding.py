"""The sessions of this user, and which of them a few letters mean."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from upload_kit.errors import ConfigurationError, SessionNotFound, SourceError
from upload_kit.sessions.manager import SessionManager
from upload_kit.sessions.places import default_session_dir, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.models import UploadSession


def open_sessions(session_dir: str | None) -> SessionManager:
    """Return the sessions that are kept in a place, or in the usual one."""
    return SessionManager(open_store(session_dir or default_session_dir() / "sessions"))


async def load_sessions(session_dir: str | None) -> list[UploadSession]:
    """Return every session that can be resumed, oldest first."""
    async with aclosing(open_sessions(session_dir)) as manager:
        return list(await manager.list())


def resumable(sessions: Sequence[UploadSession]) -> list[UploadSession]:
    """Return those that another process can go on with: they were made from a file."""
    return [session for session in sessions if session.source is not None]


def find_sessions(
    beginnings: Sequence[str], sessions: Sequence[UploadSession]
) -> list[UploadSession]:
    """
    Return the sessions whose IDs begin so, each once.

    Raises:
        SessionNotFound: No ID begins so.
        ConfigurationError: More than one does.
        SourceError: It was not made from a file.
    """
    found = {}
    for beginning in beginnings:
        session = _find_session(beginning, sessions)
        found[session.session_id] = session
    return list(found.values())


def _find_session(beginning: str, sessions: Sequence[UploadSession]) -> UploadSession:
    matches = [
        session
        for session in sessions
        if beginning and session.session_id.startswith(beginning.lower())
    ]
    if not matches:
        raise SessionNotFound(
            f"There is no session {beginning!r}.",
            hint="See which there are: upload-kit sessions.",
        )
    if len(matches) > 1:
        raise ConfigurationError(
            f"{len(matches)} sessions begin with {beginning!r}.",
            hint="Write more of the ID.",
        )
    if matches[0].source is None:
        raise SourceError(
            f"Session {beginning!r} was not made from a file.",
            hint="Only the program that has its data can go on with it.",
        )
    return matches[0]
