"""Every upload that was made here: what, where, when, how fast, and how it ended."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from upload_kit.errors import ConfigurationError, SessionCorrupt, SessionError
from upload_kit.models import Layer, UploadStatus, Verification
from upload_kit.records import Record
from upload_kit.sessions.database import Database
from upload_kit.sessions.history_table import MIGRATIONS, insert_rows, select_columns
from upload_kit.sessions.records import logger

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

_DELAY: Final = 0.05
"""Seconds that a row waits for others to be written with it."""

_PENDING: Final = 10_000
"""Rows that are remembered while the file cannot be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow(Record):
    """One upload, as it ended."""

    transfer_id: str
    """The ID in events and logs."""

    started_at: float
    """Seconds since the epoch."""

    finished_at: float
    """Seconds since the epoch."""

    name: str
    """File name."""

    source: str | None
    """Path of the source; None if it had none."""

    destination: str
    """URL of the destination, without secrets."""

    layer: Layer
    """Which layer made it."""

    status: UploadStatus
    """How it ended."""

    size: int | None = None
    """Bytes of the source; None if it failed before that was known."""

    bytes_sent: int = 0
    """Bytes on the wire, with retries and after compression."""

    bytes_resumed: int = 0
    """Bytes that were already there."""

    seconds: float = 0.0
    """From the start to the end."""

    rate: float = 0.0
    """Bytes of the source that were moved a second, without those resumed."""

    chunks: int = 0
    """Chunks that were confirmed."""

    chunk_size: int | None = None
    """Bytes of every chunk but the last."""

    max_parallel: int = 1
    """Chunks on the wire at once, at most."""

    retries: int = 0
    """Tries after the first, over all chunks."""

    retry_causes: dict[str, int] = field(default_factory=dict)
    """How often each error class was the cause of a retry."""

    compression_ratio: float | None = None
    """Bytes on the wire for a byte of the source; None if nothing was compressed."""

    sha256: str | None = None
    """Digest of the whole file, where it is known."""

    verified: Verification = Verification.NONE
    """How far the remote's bytes were compared with ours."""

    error_type: str | None = None
    """Class name of the error, as in `upload_kit.errors`."""

    error: str | None = None
    """What went wrong."""

    session_id: str | None = None
    """The session to resume, where there is one."""

    rtt: float | None = None
    """Network quality: median seconds from a request's last byte to its answer."""


FIELDS: Final = tuple(one.name for one in fields(HistoryRow))
"""The names of the columns."""


class History:
    """
    The uploads of this user, in one SQLite file that all programs share.

    Rows are handed over without waiting and written in groups by a thread of its own,
    so that thousands of small uploads a second are not slowed. A broken file or a full
    disk never fails an upload: rows wait, and the log says so.

    Args:
        path: The file; made for this user alone when it is first needed.

        keep: Rows to keep, the newest; None for all.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, keep: int | None = None
    ) -> None:
        if keep is not None and keep < 1:
            raise ConfigurationError(f"keep must be above 0, not {keep}.")
        self._database = Database(path, MIGRATIONS)
        self._keep = keep
        self._lock = threading.Lock()
        self._waiting: list[HistoryRow] = []
        self._scheduled = False
        self._failing = False
        self._hurry = threading.Event()
        self._corrupt: SessionCorrupt | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def add(self, row: HistoryRow) -> None:
        """
        Hand over a row; never waits and never fails. May be called from any thread.

        It is written within about 50 ms, at `flush` or `aclose`, or when the program
        ends, whichever comes first.
        """
        with self._lock:
            self._waiting.append(row)
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self._database.submit(self._write_soon)
        except SessionError as error:
            logger.error("The row of upload %s is lost: %s", row.transfer_id, error)

    async def flush(self) -> None:
        """
        Write what was added so far; it then survives kill -9.

        Raises:
            SessionError: It cannot be written now; the rows wait for the next time.
        """
        await self._soon(self._write)

    async def rows(
        self,
        *,
        since: float | None = None,
        status: UploadStatus | None = None,
        layer: Layer | None = None,
        destination: str | None = None,
        limit: int | None = None,
    ) -> list[HistoryRow]:
        """
        Return uploads, oldest first, with those just added.

        Args:
            since: Only those that started then or later, seconds since the epoch.

            status: Only those that ended so.

            layer: Only those that this layer made.

            destination: Only those to exactly this URL.

            limit: At most so many, the newest.

        Raises:
            SessionCorrupt: The file is broken; it was set aside, and a new one begun.
            SessionError: It cannot be read.
        """
        columns = await self.columns(
            since=since,
            status=status,
            layer=layer,
            destination=destination,
            limit=limit,
        )
        return await asyncio.to_thread(_build_rows, columns)

    async def columns(
        self,
        names: Sequence[str] | None = None,
        *,
        since: float | None = None,
        status: UploadStatus | None = None,
        layer: Layer | None = None,
        destination: str | None = None,
        limit: int | None = None,
    ) -> dict[str, list[object]]:
        """
        Return uploads as columns, for a DataFrame: one list a field of `HistoryRow`.

        Args:
            names: Which fields, in this order; None for all.

            since: As for `rows`, and so are the others.

            status: Only those that ended so.

            layer: Only those that this layer made.

            destination: Only those to exactly this URL.

            limit: At most so many, the newest.

        Raises:
            ConfigurationError: There is no such field, or the limit is negative.
            SessionCorrupt: The file is broken; it was set aside, and a new one begun.
            SessionError: It cannot be read.
        """
        wanted = tuple(FIELDS if names is None else names)
        if unknown := sorted(set(wanted) - set(FIELDS)):
            raise ConfigurationError(f"Not in the history: {', '.join(unknown)}.")
        if limit is not None and limit < 0:
            raise ConfigurationError(f"limit cannot be negative: {limit}.")
        where = {
            "started_at >= ?": since,
            "status = ?": status,
            "layer = ?": layer,
            "destination = ?": destination,
        }

        def read() -> dict[str, list[object]]:
            self._write_or_log()
            corrupt, self._corrupt = self._corrupt, None
            if corrupt is not None:
                raise corrupt
            return self._database.do(select_columns, wanted, where, limit=limit)

        return await self._soon(read)

    async def aclose(self) -> None:
        """Write what was added and close the file; safe to call again."""
        try:
            await self.flush()
        except SessionError as error:
            if self._waiting:
                logger.error("%d uploads are lost: %s", len(self._waiting), error)
        await self._database.aclose()

    async def _soon(self, job: Callable[[], T]) -> T:
        """Do a job in the writing thread, without waiting for more rows to come."""
        self._hurry.set()
        return await self._database.ended(self._database.submit(job))

    def _write_soon(self) -> None:
        self._hurry.wait(_DELAY)
        self._write_or_log()

    def _write_or_log(self) -> None:
        try:
            self._write()
        except SessionError as error:
            if not self._failing:
                logger.warning("The history cannot be written now: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _write(self) -> None:
        with self._lock:
            self._hurry.clear()
            self._scheduled = False
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            self._insert(batch)
        except SessionError:
            with self._lock:
                self._waiting = [*batch, *self._waiting][-_PENDING:]
            raise

    def _insert(self, batch: Sequence[HistoryRow]) -> None:
        try:
            self._database.do(insert_rows, FIELDS, batch, keep=self._keep)
        except SessionCorrupt as error:
            # These rows go to a new file; whoever reads next learns of the old one.
            logger.warning("%s", error)
            self._corrupt = error
            self._database.do(insert_rows, FIELDS, batch, keep=self._keep)


def _build_rows(columns: dict[str, list[object]]) -> list[HistoryRow]:
    rows = []
    for values in zip(*columns.values(), strict=True):
        try:
            rows.append(
                msgspec.convert(dict(zip(FIELDS, values, strict=True)), HistoryRow)
            )
        except msgspec.ValidationError as error:
            logger.warning("A row of the history is left out: %s", error)
    return rows
