"""
How much is stored, and how many uploads are open, over all processes.

The book is a small file that is only ever read and written under a lock. It holds
nothing that could not be counted anew, and it is counted anew at every start and at
every cleanup, so what a killed process left wrong in it does not stay wrong.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.server.file_locks import HAS_FILE_LOCKS, try_lock, unlock
from upload_kit.server.locks import busy
from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

# The book is held for microseconds; whoever holds it longer was stopped by somebody.
_PATIENCE: Final = 5.0
_RETRY: Final = 0.001


@dataclass(slots=True)
class Usage:
    """What is in a storage."""

    size: int = 0
    """Bytes of all files, finished or announced."""

    sessions: dict[str, int] = field(default_factory=dict)
    """Unfinished uploads by owner."""

    def add(self, owner: str | None, size: int, sessions: int = 0) -> None:
        """Count some bytes, and uploads of one owner, more or less."""
        self.size = max(0, self.size + size)
        if owner is not None and sessions:
            count = max(0, self.sessions.pop(owner, 0) + sessions)
            if count:
                self.sessions[owner] = count


class Ledger:
    """
    Keeps the book, and refuses what goes beyond a limit.

    Its methods block, for microseconds, and are called in threads.

    Args:
        path: The book's file; None keeps it in memory, for one process.

        quota: Bytes of all files; None for no limit.

        max_sessions: Unfinished uploads of one owner.

        patience: Seconds to wait for another process that has the book.
    """

    def __init__(
        self,
        path: str | None,
        *,
        quota: int | None,
        max_sessions: int,
        patience: float = _PATIENCE,
    ) -> None:
        self._patience = patience
        self._quota = quota
        self._max_sessions = max_sessions
        self._guard = threading.Lock()
        self._memory = Usage()
        self._fd = -1
        if path is not None and HAS_FILE_LOCKS:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)

    @property
    def counts_bytes(self) -> bool:
        """Whether anybody wants to know how many bytes there are."""
        return self._quota is not None

    def begin(self, owner: str, size: int) -> None:
        """
        Count an upload that begins, and the bytes that it announces.

        Raises:
            UploadProblem: There are too many of its owner, or too many bytes.
        """
        with self._book() as usage:
            if usage.sessions.get(owner, 0) >= self._max_sessions:
                raise UploadProblem(
                    ProblemType.TOO_MANY_SESSIONS,
                    f"{self._max_sessions} unfinished uploads are allowed at once.",
                )
            self._check_quota(usage, size)
            usage.add(owner, size, 1)

    def end(self, owner: str, size: int = 0) -> None:
        """Count an upload out, and the bytes that went with it."""
        with self._book() as usage:
            usage.add(owner, -size, -1)

    def reserve(self, size: int) -> None:
        """
        Count bytes that are about to come.

        Raises:
            UploadProblem: They are too many.
        """
        if self.counts_bytes:
            with self._book() as usage:
                self._check_quota(usage, size)
                usage.add(None, size)

    def release(self, size: int) -> None:
        """Count bytes out that did not come, or are gone."""
        if self.counts_bytes:
            with self._book() as usage:
                usage.add(None, -size)

    def read(self) -> Usage:
        """Return what the book says."""
        with self._book() as usage:
            return Usage(usage.size, dict(usage.sessions))

    def correct(self, before: Usage, counted: Usage) -> None:
        """
        Replace what the book said by what was counted, keeping what happened meanwhile.

        Args:
            before: What `read` returned before the count began.

            counted: What is there.
        """
        with self._book() as usage:
            usage.add(None, counted.size - before.size)
            for owner in {*before.sessions, *counted.sessions}:
                there = counted.sessions.get(owner, 0)
                usage.add(owner, 0, there - before.sessions.get(owner, 0))

    def close(self) -> None:
        """Close the book."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_quota(self, usage: Usage, size: int) -> None:
        if self._quota is not None and usage.size + size > self._quota:
            raise UploadProblem(
                ProblemType.DISK_FULL,
                f"The server keeps {self._quota} bytes, and {usage.size} are taken.",
            )

    @contextmanager
    def _book(self) -> Iterator[Usage]:
        """Have the book alone; it is written back unless an error comes of it."""
        with self._guard:
            if self._fd < 0:
                yield self._memory
                return
            self._lock()
            try:
                usage = _read(self._fd)
                before = msgspec.json.encode(usage)
                yield usage
                after = msgspec.json.encode(usage)
                if after != before:
                    _write(self._fd, after)
            finally:
                unlock(self._fd)

    def _lock(self) -> None:
        give_up = time.monotonic() + self._patience
        while not try_lock(self._fd, 0, 0):
            if time.monotonic() > give_up:
                raise busy()
            time.sleep(_RETRY)


def _read(fd: int) -> Usage:
    try:
        return msgspec.json.decode(os.pread(fd, os.fstat(fd).st_size, 0), type=Usage)
    except (msgspec.DecodeError, UnicodeError):
        # New, or torn by a kill in the middle of a write: the next count mends it.
        return Usage()


def _write(fd: int, data: bytes) -> None:
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))
