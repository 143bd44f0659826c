"""The sessions of this user, and which of them a few letters mean."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from upload_kit.api.lookup import find_session
from upload_kit.errors import SessionNotFound
from upload_kit.sessions.manager import SessionManager
from upload_kit.sessions.places import default_session_dir, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.models import UploadSession


def open_sessions(session_dir: str | None) -> SessionManager:
    """Return the sessions that are kept in a place, or in the usual one."""
    return SessionManager(open_store(session_dir or default_session_dir() / "sessions"))


async def load_sessions(
    session_dir: str | None, *, expired: bool = False
) -> list[UploadSession]:
    """Return every unfinished session, oldest first; expired ones only if asked for."""
    async with aclosing(open_sessions(session_dir)) as manager:
        return list(await manager.unfinished(expired=expired))


def find_sessions(
    beginnings: Sequence[str], known: Sequence[UploadSession]
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
        try:
            session = find_session(beginning, known)
        except SessionNotFound as error:
            error.hint = "See which there are: upload-kit sessions."
            raise
        found[session.session_id] = session
    return list(found.values())
