"""Sessions in one SQLite file, for any number of processes on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.errors import ConfigurationError, SessionCorrupt, SessionError
from upload_kit.models import Receipt, UploadSession
from upload_kit.sessions.database import Database, Migration, transaction
from upload_kit.sessions.disk import LOCK_TIMEOUT
from upload_kit.sessions.records import (
    check_fence,
    check_filters,
    check_id,
    decode_session,
    encode_session,
    next_version,
    scan_heads,
    warn,
)

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_MIGRATIONS: Final[tuple[Migration, ...]] = (
    (
        """
        CREATE TABLE sessions (
            session_id TEXT PRIMARY KEY,
            version INTEGER NOT NULL,
            fence INTEGER NOT NULL,
            head TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE receipts (
            session_id TEXT NOT NULL,
            chunk INTEGER NOT NULL,
            receipt TEXT NOT NULL,
            PRIMARY KEY (session_id, chunk)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE corrupt (
            session_id TEXT NOT NULL,
            found_at REAL NOT NULL,
            head TEXT,
            receipts TEXT
        )
        """,
    ),
)

# One statement, so that head and receipts are of one moment.
_SELECT: Final = """
    SELECT version, head,
           (SELECT '[' || group_concat(receipt) || ']' FROM receipts AS r
            WHERE r.session_id = s.session_id) AS receipts
    FROM sessions AS s WHERE session_id = ?
"""
_RECORD: Final = """
    INSERT OR REPLACE INTO receipts
    SELECT session_id, ?, ? FROM sessions WHERE session_id = ? AND fence <= ?
"""


class SqliteStore:
    """
    A `SessionStore` in a SQLite file.

    A receipt is a row of its own, so that a checkpoint costs the same whether a session
    has ten chunks or ten thousand.

    Args:
        path: The file; made for this user alone when it is first needed.

        lock_timeout: Seconds to wait for another process to let go of the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lock_timeout: float = LOCK_TIMEOUT
    ) -> None:
        self._database = Database(path, _MIGRATIONS, lock_timeout=lock_timeout)

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    async def get(self, session_id: str) -> UploadSession | None:
        """Return the session with all its receipts, or None if there is none."""
        return await self._database.run(_get, check_id(session_id), self.path)

    async def put(
        self,
        session: UploadSession,
        *,
        expected: int | None,
        keep_receipts: bool = True,
    ) -> int:
        """Write the session if nobody else did meanwhile."""
        check_id(session.session_id)
        return await self._database.run(
            _put, session, expected=expected, keep_receipts=keep_receipts
        )

    async def record(self, session_id: str, receipt: Receipt, *, fence: int) -> None:
        """Add one receipt: one row, whatever the number of chunks."""
        await self._database.run(_record, check_id(session_id), receipt, fence=fence)

    async def delete(self, session_id: str, *, expected: int | None = None) -> None:
        """Remove the session and its receipts; nothing happens if there is none."""
        await self._database.run(_delete, check_id(session_id), expected=expected)

    async def scan(
        self,
        *,
        on_corrupt: Callable[[SessionError], None] | None = None,
        **where: str,
    ) -> AsyncIterator[UploadSession]:
        """Yield every readable session that matches, oldest first."""
        check_filters(where)
        report = on_corrupt or warn
        try:
            heads, unreadable = await self._database.run(_heads, self.path)
        except SessionCorrupt as error:
            heads, unreadable = [], [error]
        for problem in unreadable:
            report(problem)
        async for session in scan_heads(heads, where, self.get, report):
            yield session

    async def aclose(self) -> None:
        """Close the file; safe to call again."""
        await self._database.aclose()


def _get(
    connection: sqlite3.Connection, session_id: str, path: Path
) -> UploadSession | None:
    row = connection.execute(_SELECT, (session_id,)).fetchone()
    if row is None:
        return None
    version, head, receipts = row
    try:
        session = decode_session(json.loads(head))
        parsed = msgspec.json.decode(receipts or "[]", type=list[Receipt])
    except (ValueError, TypeError, ConfigurationError) as error:
        raise _set_aside(connection, session_id, path, error) from error
    ordered = sorted(parsed, key=lambda receipt: receipt.index)
    return replace(session, version=version, receipts=tuple(ordered))


def _put(
    connection: sqlite3.Connection,
    session: UploadSession,
    *,
    expected: int | None,
    keep_receipts: bool,
) -> int:
    session_id = session.session_id
    with transaction(connection):
        stored = _version(connection, session_id)
        version = next_version(session_id, stored, expected)
        head = encode_session(replace(session, version=version, receipts=()))
        connection.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
            (session_id, version, session.fence, head),
        )
        if not keep_receipts:
            _forget_receipts(connection, session_id)
    return version


def _record(
    connection: sqlite3.Connection, session_id: str, receipt: Receipt, *, fence: int
) -> None:
    values = (receipt.index, receipt.to_json(), session_id, fence)
    if connection.execute(_RECORD, values).rowcount == 0:
        row = connection.execute(
            "SELECT fence FROM sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        check_fence(session_id, row[0] if row else None, fence)


def _delete(
    connection: sqlite3.Connection, session_id: str, *, expected: int | None
) -> None:
    with transaction(connection):
        stored = _version(connection, session_id)
        if stored is not None and expected is not None:
            next_version(session_id, stored, expected)
        _forget(connection, session_id)


def _heads(
    connection: sqlite3.Connection, path: Path
) -> tuple[list[UploadSession], list[SessionError]]:
    found: list[UploadSession] = []
    unreadable: list[SessionError] = []
    rows = connection.execute("SELECT session_id, head FROM sessions").fetchall()
    for session_id, head in rows:
        try:
            found.append(decode_session(json.loads(head)))
        except (ValueError, TypeError) as error:
            unreadable.append(_set_aside(connection, session_id, path, error))
    return found, unreadable


def _version(connection: sqlite3.Connection, session_id: str) -> int | None:
    row = connection.execute(
        "SELECT version FROM sessions WHERE session_id = ?", (session_id,)
    ).fetchone()
    return row[0] if row else None


def _forget_receipts(connection: sqlite3.Connection, session_id: str) -> None:
    connection.execute("DELETE FROM receipts WHERE session_id = ?", (session_id,))


def _forget(connection: sqlite3.Connection, session_id: str) -> None:
    connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
    _forget_receipts(connection, session_id)


def _set_aside(
    connection: sqlite3.Connection, session_id: str, path: Path, error: Exception
) -> SessionCorrupt:
    """Move a row that cannot be read to the table `corrupt`."""
    with transaction(connection):
        row = connection.execute(_SELECT, (session_id,)).fetchone()
        if row is not None:
            connection.execute(
                "INSERT INTO corrupt VALUES (?, ?, ?, ?)",
                (session_id, time.time(), row[1], row[2]),
            )
            _forget(connection, session_id)
    return SessionCorrupt(
        f"The record of session {session_id} is broken: {error}.",
        hint=f"It was moved to the table 'corrupt' of {path}.",
        session_id=session_id,
    )
