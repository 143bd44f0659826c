"""What was uploaded here, and what is unfinished."""

from __future__ import annotations

import time
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from upload_kit.api.keywords import read_layer
from upload_kit.bridge import bridge
from upload_kit.errors import ConfigurationError, SessionNotFound, SourceError
from upload_kit.locations import parse_location
from upload_kit.models import UploadStatus
from upload_kit.sessions.history import History
from upload_kit.sessions.manager import (
    SessionManager,
    default_session_dir,
    open_store,
)
from upload_kit.sessions.owners import holder, is_expired, is_held
from upload_kit.sessions.places import history_path
from upload_kit.units import parse_duration

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from upload_kit.models import Layer, UploadSession
    from upload_kit.sessions.history import HistoryRow

Moment: TypeAlias = "float | str | datetime | timedelta | None"
"""Seconds since the epoch, a date, or how long ago, such as `2d`; None for ever."""

# Seconds that reading the sessions or the history may take.
_PATIENCE: Final = 60.0


def sessions(session_dir: str | os.PathLike[str] | None = None) -> list[UploadSession]:
    """
    Return every unfinished upload, oldest first.

    Args:
        session_dir: Where they are kept; None for the usual place.
    """

    async def load() -> list[UploadSession]:
        place = session_dir or default_session_dir() / "sessions"
        async with aclosing(SessionManager(open_store(place))) as manager:
            return list(await manager.unfinished())

    return bridge.run(load(), timeout=_PATIENCE)


def can_resume(session: UploadSession) -> bool:
    """Return whether `resume` goes on with it without being told to."""
    return why_left_alone(session) is None


def why_left_alone(session: UploadSession) -> str | None:
    """Return why `resume` does not go on with it without being told to, if so."""
    now = time.time()
    if is_held(session, now):
        return f"{holder(session)} works on it"
    if is_expired(session, now):
        return "it has expired; start the upload again"
    if session.source is None:
        return "it was not made from a file; upload the same data again"
    if session.status is UploadStatus.CANCELLED:
        return "it was cancelled"
    return None


def is_in_use(session: UploadSession) -> bool:
    """Return whether a process works on it now."""
    return is_held(session, time.time())


def history(
    *,
    since: Moment = None,
    status: UploadStatus | str | None = None,
    layer: Layer | str | None = None,
    destination: str | None = None,
    limit: int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> list[HistoryRow]:
    """
    Return the uploads that were made here, oldest first.

    Args:
        since: Only those that started then or later: seconds since the epoch, a date,
            or how long ago, such as `2d`.

        status: Only those that ended so.

        layer: Only those that this layer made.

        destination: Only those to exactly this URL.

        limit: At most so many, the newest.

        path: The history's file, or the folder given as `session_dir`; None for the
            usual one.
    """
    where = _where(since, status, layer, destination)

    async def load() -> list[HistoryRow]:
        async with aclosing(_open_history(path)) as opened:
            return await opened.rows(limit=limit, **where)

    return bridge.run(load(), timeout=_PATIENCE)


def history_columns(
    names: Sequence[str] | None = None,
    *,
    since: Moment = None,
    status: UploadStatus | str | None = None,
    layer: Layer | str | None = None,
    destination: str | None = None,
    limit: int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> dict[str, list[object]]:
    """
    Return what `history` does as columns, which many uploads fit better.

    Args:
        names: Which fields of `HistoryRow`, in this order; None for all.

        since: As for `history`, and so are the others.

        status: Only those that ended so.

        layer: Only those that this layer made.

        destination: Only those to exactly this URL.

        limit: At most so many, the newest.

        path: The history's file, or the folder given as `session_dir`; None for the
            usual one.
    """
    where = _where(since, status, layer, destination)

    async def load() -> dict[str, list[object]]:
        async with aclosing(_open_history(path)) as opened:
            return await opened.columns(names, limit=limit, **where)

    return bridge.run(load(), timeout=_PATIENCE)


def find_session(beginning: str, known: Sequence[UploadSession]) -> UploadSession:
    """
    Return the session whose ID begins so, and that can be gone on with.

    Raises:
        SessionNotFound: No ID begins so.
        ConfigurationError: More than one does.
        SourceError: It was not made from a file.
    """
    matches = [
        session
        for session in known
        if beginning and session.session_id.startswith(beginning.lower())
    ]
    if not matches:
        raise SessionNotFound(
            f"There is no session {beginning!r}.", hint="See upload_kit.sessions()."
        )
    if len(matches) > 1:
        raise ConfigurationError(
            f"{len(matches)} sessions begin with {beginning!r}.",
            hint="Write more of the ID.",
        )
    if matches[0].source is None:
        raise SourceError(
            f"Session {beginning!r} was not made from a file.",
            hint="Upload the same data again.",
        )
    return matches[0]


def _open_history(path: str | os.PathLike[str] | None) -> History:
    if path is None or Path(path).is_dir():
        return History(history_path(path))
    return History(path)


def _where(
    since: Moment,
    status: UploadStatus | str | None,
    layer: Layer | str | None,
    destination: str | None,
) -> dict[str, Any]:
    try:
        wanted = None if status is None else UploadStatus(status)
    except ValueError:
        raise ConfigurationError(
            f"There is no status {status!r}.",
            hint=f"Use {', '.join(one.value for one in UploadStatus)}.",
        ) from None
    return {
        "since": _moment(since),
        "status": wanted,
        "layer": None if layer is None else read_layer(layer),
        "destination": None
        if destination is None
        else str(parse_location(destination)),
    }


def _moment(since: Moment) -> float | None:
    if isinstance(since, timedelta):
        return time.time() - since.total_seconds()
    if isinstance(since, datetime):
        return since.timestamp()
    if not isinstance(since, str):
        return since
    try:
        return datetime.fromisoformat(since).timestamp()
    except ValueError:
        return time.time() - parse_duration(since)
