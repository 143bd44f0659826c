"""Where sessions are kept: from what people write to a store."""

from __future__ import annotations

import os
import re
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from upload_kit.sessions.base import SessionStore

ENTRY_POINTS: Final = "upload_kit.session_stores"
"""Other packages offer stores under this entry point group: `scheme = module:name`."""

_SQLITE: Final = "sqlite:///"
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)
# What this process was offered besides.
_REGISTERED: Final[dict[str, str]] = {}


def register_store(scheme: str, factory: str) -> None:
    """
    Offer a store for places that begin with a scheme, for this process.

    Args:
        scheme: Lower case, at least two letters, without its colon.

        factory: `module:name` of what takes the place as it was written, and returns
            a `SessionStore`.
    """
    _REGISTERED[scheme] = factory


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


def history_path(place: str | os.PathLike[str] | None = None) -> Path:
    """
    Return the file of the history that is kept beside sessions.

    Args:
        place: Where the sessions are, as for `open_store`; None for the usual place. A
            folder has a history of its own; any other place has the usual one.
    """
    text = "" if place is None else os.fspath(place)
    is_folder = text and not text.endswith(".db") and not _SCHEME.match(text)
    folder = Path(text).expanduser() if is_folder else default_session_dir()
    return folder / "history.db"


def open_store(place: str | os.PathLike[str]) -> SessionStore:
    """
    Make the store that a path or URL stands for; nothing is read or written yet.

    Args:
        place: A folder (JSON files), `sqlite:///PATH` or a path that ends in `.db`
            (SQLite), `memory:` (this process only), or one with the scheme of a store
            that was registered or installed.

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
    scheme = _SCHEME.match(text)
    if isinstance(place, str) and scheme is not None:
        return _factory(scheme[1].lower())(text)
    from upload_kit.sessions.json_files import JsonFileStore

    return JsonFileStore(_path(text, text))


def _factory(scheme: str) -> Callable[[str], SessionStore]:
    target = _REGISTERED.get(scheme) or _offered(scheme)
    module, _, name = target.partition(":")
    factory: Callable[[str], SessionStore] = getattr(import_module(module), name)
    return factory


def _offered(scheme: str) -> str:
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == scheme:
            return point.value
    raise ConfigurationError(
        f"Not a place for sessions: {scheme}:...",
        hint="Name a folder, a file that ends in .db, sqlite:///PATH or memory:.",
    )


def _path(text: str, place: str) -> Path:
    if not text:
        raise ConfigurationError(f"Not a place for sessions: {place!r}.")
    return Path(text).expanduser()
