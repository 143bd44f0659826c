"""Where sessions are kept: from what people write to a store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from upload_kit.sessions.base import SessionStore

_SQLITE: Final = "sqlite:///"
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)


def default_session_dir() -> Path:
    """
    Return the folder that holds this user's sessions and history.

    `UPLOAD_KIT_SESSION_DIR` names it, else it is the platform's folder for state that
    outlives a program, for example `~/.local/state/upload_kit`.
    """
    named = os.environ.get("UPLOAD_KIT_SESSION_DIR")
    if named:
        return Path(named).expanduser()
    return platformdirs.user_state_path("upload_kit", appauthor=False)


def open_store(place: str | os.PathLike[str]) -> SessionStore:
    """
    Make the store that a path or URL stands for; nothing is read or written yet.

    Args:
        place: A folder (JSON files), `sqlite:///PATH` or a path that ends in `.db`
            (SQLite), or `memory:` (this process only).

    Raises:
        ConfigurationError: No store has such a URL.
    """
    # Imported when used: most programs need one of them.
    text = os.fspath(place)
    if text == "memory:":
        from upload_kit.sessions.memory import MemoryStore

        return MemoryStore()
    if text.startswith(_SQLITE) or text.endswith(".db"):
        from upload_kit.sessions.sqlite import SqliteStore

        return SqliteStore(_path(text.removeprefix(_SQLITE), text))
    if isinstance(place, str) and _SCHEME.match(text):
        raise ConfigurationError(
            f"Not a place for sessions: {text.partition(':')[0]}:...",
            hint="Name a folder, a file that ends in .db, sqlite:///PATH or memory:.",
        )
    from upload_kit.sessions.json_files import JsonFileStore

    return JsonFileStore(_path(text, text))


def _path(text: str, place: str) -> Path:
    if not text:
        raise ConfigurationError(f"Not a place for sessions: {place!r}.")
    return Path(text).expanduser()
