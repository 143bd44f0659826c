"""One SQLite file behind one thread: opened, migrated, set aside when it is broken."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from upload_kit.errors import SessionCorrupt, SessionError
from upload_kit.sessions.disk import (
    LOCK_TIMEOUT,
    locked,
    make_private_folder,
    open_private,
    set_aside,
)
from upload_kit.sessions.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")

Migration = tuple[str, ...]
"""Statements that lead from one schema version to the next."""

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the body's statements happen all or not at all; others wait meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Migration], path: Path
) -> None:
    """
    Bring the schema to the newest version, in one transaction.

    Args:
        connection: In autocommit mode.

        migrations: The first one makes the schema of version 1 from nothing.

        path: For the error message.

    Raises:
        SessionError: A newer upload_kit wrote it; nothing was changed.
    """
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise SessionError(
                f"A newer upload_kit wrote {path} "
                f"(schema {version}; this one knows {len(migrations)}).",
                hint="Upgrade this one, or name another file.",
            )
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        # A PRAGMA takes no parameters; the number is ours.
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


class Database:
    """
    A SQLite file for several processes; jobs run one after the other in its thread.

    A commit survives the death of the process (write-ahead log, synchronous=NORMAL); a
    power cut may undo the last ones, and never breaks the file.

    Args:
        path: The file; made for this user alone when it is first needed.

        migrations: How the schema grew, oldest first.

        lock_timeout: Seconds to wait for another process to let go of the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        migrations: Sequence[Migration],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self.path = Path(path)
        self._migrations = migrations
        self._lock_timeout = lock_timeout
        self._worker = Worker("upload-kit-sqlite", lock_timeout=lock_timeout)
        self._connection: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None

    async def run(
        self,
        job: Callable[Concatenate[sqlite3.Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """
        Do a job with the connection and return what it returns.

        Raises:
            SessionCorrupt: The file is broken; it was set aside, and the next job
                starts with a new one.
            SessionError: It cannot be used now: the disk is full, or nobody lets go of
                a lock.
        """
        return await self._worker.run(self.do, job, *args, **kwargs)

    def submit(
        self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Hand in a job for the thread, in which it may call `do`; return at once."""
        return self._worker.submit(job, *args, **kwargs)

    async def ended(self, future: Future[T]) -> T:
        """Wait for a job that was handed in; see `Worker.ended`."""
        return await self._worker.ended(future)

    def do(
        self,
        job: Callable[Concatenate[sqlite3.Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Do a job as `run` does, in the thread itself."""
        try:
            return job(self._connected(), *args, **kwargs)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                raise self._set_aside(error) from error
            raise self._unusable(error) from error
        except OSError as error:
            raise self._unusable(error) from error

    async def aclose(self) -> None:
        """Close the file once everything handed in is done; safe to call again."""
        with contextlib.suppress(SessionError):
            await self._worker.run(self._disconnect)
        self._worker.close()

    def _connected(self) -> sqlite3.Connection:
        # Another process may have set the file aside, or its owner removed it; what
        # went to the old file would be lost.
        if self._connection is None or not self._is_in_place():
            self._disconnect()
            make_private_folder(self.path.parent)
            with self._locked():
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            # Only ever a new file: closing a descriptor of one that is in use would
            # drop the locks that this process holds on it.
            os.close(open_private(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        self._opened = self.path.stat()
        connection = sqlite3.connect(
            self.path, timeout=self._lock_timeout, isolation_level=None
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            migrate(connection, self._migrations, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_in_place(self) -> bool:
        try:
            return self._opened is not None and os.path.samestat(
                self._opened, self.path.stat()
            )
        except FileNotFoundError:
            return False

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _set_aside(self, error: sqlite3.Error) -> SessionCorrupt:
        self._disconnect()
        with self._locked():
            # Else another process has done it already.
            if self._is_in_place():
                aside = set_aside(self.path)
                for suffix in ("-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        side = self.path.with_name(self.path.name + suffix)
                        side.rename(aside.with_name(aside.name + suffix))
                hint = f"It was moved to {aside}."
            else:
                hint = f"It was moved to {self.path.with_name('corrupt')}."
        return SessionCorrupt(
            f"The database {self.path} is broken: {error}.", hint=hint
        )

    def _unusable(self, error: Exception) -> SessionError:
        return SessionError(
            f"The database {self.path} cannot be used: {error}.",
            hint="Look at the disk and the permissions, or name another file.",
        )

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        path = self.path.with_name(f"{self.path.name}.lock")
        return locked(path, timeout=self._lock_timeout)
