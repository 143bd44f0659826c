"""The table behind the history: its schema, how rows get in, how columns get out."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.sessions.database import Migration, transaction
from upload_kit.sessions.records import logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MIGRATIONS: Final[tuple[Migration, ...]] = (
    (
        """
        CREATE TABLE uploads (
            id INTEGER PRIMARY KEY,
            transfer_id TEXT NOT NULL,
            started_at REAL NOT NULL,
            finished_at REAL NOT NULL,
            name TEXT NOT NULL,
            source TEXT,
            destination TEXT NOT NULL,
            layer TEXT NOT NULL,
            status TEXT NOT NULL,
            size INTEGER,
            bytes_sent INTEGER NOT NULL,
            bytes_resumed INTEGER NOT NULL,
            seconds REAL NOT NULL,
            rate REAL NOT NULL,
            chunks INTEGER NOT NULL,
            chunk_size INTEGER,
            max_parallel INTEGER NOT NULL,
            retries INTEGER NOT NULL,
            retry_causes TEXT NOT NULL,
            compression_ratio REAL,
            sha256 TEXT,
            verified TEXT NOT NULL,
            error_type TEXT,
            error TEXT,
            session_id TEXT,
            rtt REAL
        )
        """,
        "CREATE INDEX uploads_started_at ON uploads (started_at)",
    ),
)

_JSON: Final = frozenset({"retry_causes"})
_UNFIT: Final = (
    TypeError,
    ValueError,
    OverflowError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
_AT_ONCE: Final = 1000


def insert_rows(
    connection: sqlite3.Connection,
    names: Sequence[str],
    rows: Iterable[object],
    *,
    keep: int | None,
) -> None:
    """
    Insert rows in one transaction, and drop the oldest.

    A row that SQLite cannot take is logged and left out; it must not hold up others.

    Args:
        connection: In autocommit mode.

        names: The attributes of a row, which are the names of the columns too.

        rows: What to insert.

        keep: Rows that stay, the newest; None for all.
    """
    marks = ", ".join("?" * len(names))
    # The names are those of our own columns, never what somebody typed.
    insert = f"INSERT INTO uploads ({', '.join(names)}) VALUES ({marks})"  # noqa: S608
    with transaction(connection):
        for row in rows:
            try:
                values = [_to_column(getattr(row, name)) for name in names]
                connection.execute(insert, values)
            except _UNFIT as error:
                logger.error("This cannot go to the history (%s): %r", error, row)
        if keep is not None:
            connection.execute(
                "DELETE FROM uploads WHERE id <= (SELECT max(id) FROM uploads) - ?",
                (keep,),
            )


def select_columns(
    connection: sqlite3.Connection,
    names: Sequence[str],
    where: Mapping[str, object],
    *,
    limit: int | None,
) -> dict[str, list[object]]:
    """
    Return columns, oldest row first.

    Args:
        connection: Where to read.

        names: Which columns.

        where: Conditions with one `?` each, and their values; None leaves one out.

        limit: At most so many rows, the newest; None for all.
    """
    conditions = {text: value for text, value in where.items() if value is not None}
    # As above: names and conditions are ours, values are bound.
    select = f"""
        SELECT {", ".join(names) or "id"} FROM uploads
        WHERE {" AND ".join(conditions) or "1"}
        ORDER BY started_at DESC, id DESC LIMIT ?
    """  # noqa: S608
    cursor = connection.execute(
        select, (*conditions.values(), -1 if limit is None else limit)
    )
    columns: dict[str, list[object]] = {name: [] for name in names}
    # In portions: a hundred thousand tuples at a time would keep the collector busy.
    while rows := cursor.fetchmany(_AT_ONCE):
        for column, values in zip(
            columns.values(), zip(*rows, strict=True), strict=False
        ):
            column.extend(values)
    for name, column in columns.items():
        column.reverse()
        if name in _JSON:
            columns[name] = [msgspec.json.decode(str(text)) for text in column]
    return columns


def _to_column(value: object) -> object:
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    if isinstance(value, str) and not value.isascii():
        # A path may hold bytes that are no text; here it is only to be looked at.
        return value.encode("utf-8", "backslashreplace").decode()
    return value
