"""Files on disk."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from upload_kit.config import DEFAULT_READ_TIMEOUT
from upload_kit.errors import SourceChanged, SourceError
from upload_kit.models import SourceIdentity
from upload_kit.sources.base import STEP
from upload_kit.sources.memory import SMALL, copy_part
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash as Hash

T = TypeVar("T")


class FileSource:
    """A regular file, watched for changes while it is read."""

    rereadable = True

    def __init__(
        self, path: str | os.PathLike[str], *, name: str | None = None
    ) -> None:
        self._path = path if isinstance(path, Path) else Path(path)
        self.name = name or self._path.name
        self.path: str | None = str(path)
        self.size: int | None = None
        self.identity: SourceIdentity | None = None
        self.head = b""
        self._fd = -1
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._patience = DEFAULT_READ_TIMEOUT
        self._steps = 0
        self._closed = False

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """Open the file and remember what it looks like."""
        self._patience = patience
        self._closed = False
        await self._in_time(in_thread(self._open))

    async def _in_time(self, work: asyncio.Future[T]) -> T:
        """
        Return what a thread brings, as long as it moves.

        Raises:
            SourceError: It does not: its disk hangs.
        """
        loop = asyncio.get_running_loop()
        timer = None
        hangs = False

        def look(steps: int) -> None:
            nonlocal hangs, timer
            if self._steps == steps:
                hangs = work.cancel()
            else:
                timer = loop.call_later(self._patience, look, self._steps)

        try:
            timer = loop.call_later(self._patience, look, self._steps)
            return await work
        except asyncio.CancelledError:
            if not hangs:
                raise
            raise SourceError(
                f"{self._path} gave nothing for {self._patience:g} s.",
                hint="Does its disk hang? Resume once it works.",
            ) from None
        finally:
            if timer is not None:
                timer.cancel()

    def _open(self) -> None:
        try:
            self.path = str(self._path.absolute())
            # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
            fd = self._keep(os.open(self._path, flags | getattr(os, "O_BINARY", 0)))
        except FileNotFoundError as error:
            raise SourceError(
                f"There is no file {self._path}.", hint="Check the path."
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"Cannot open {self._path}: {reason}.") from error
        try:
            facts = os.fstat(fd)
            _require_regular(self._path, facts.st_mode)
            # One that is no larger is read whole now: a thread costs more than that.
            head = memoryview(bytearray(min(SMALL, facts.st_size)))
            self.head = bytes(head[: self._fill(head, 0, ())])
            if facts.st_size == 0:
                self._require_empty()
        except OSError as error:
            self._close()
            raise SourceError(f"Cannot read {self._path}: {error.strerror}.") from error
        except SourceError:
            self._close()
            raise
        self.size = facts.st_size
        self.identity = _identity(facts)
        if len(self.head) == self.size:
            self._close_file()

    def _keep(self, fd: int) -> int:
        """Keep what was opened, unless nobody waits for it any more."""
        with self._guard:
            self._fd = fd
            is_late = self._closed
        if is_late:
            self._close()
        return fd

    def _require_empty(self) -> None:
        """Refuse the kernel's files, of which none says how long it is."""
        if self._read_into(memoryview(bytearray(1)), 0):
            raise SourceError(
                f"{self._path} says that it is empty, and is not.",
                hint="Open it yourself and hand in the file object.",
            )

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """Read in a thread; see `Source.read`."""
        if self.size == len(self.head):
            return copy_part(memoryview(self.head), buffer, start, digests)
        work = in_thread(self._read, buffer, start, digests)
        return await self._in_time(work)

    def _read(self, buffer: memoryview, start: int, digests: Sequence[Hash]) -> int:
        try:
            count = self._fill(buffer, start, digests)
            facts = os.fstat(self._fd)
        except OSError as error:
            raise SourceError(f"Cannot read {self._path}: {error.strerror}.") from error
        if _identity(facts) != self.identity:
            raise SourceChanged(
                f"{self._path} changed while it was read: it had {self.size} bytes and"
                f" now has {facts.st_size}.",
                hint="Upload it again once nothing writes to it any more.",
            )
        return count

    def _fill(self, buffer: memoryview, start: int, digests: Sequence[Hash]) -> int:
        """Read step by step, hashing each step while it is in the core's cache."""
        done = 0
        while done < len(buffer):
            step = buffer[done : done + STEP]
            count = self._read_into(step, start + done)
            self._steps += 1
            if count == 0:
                break
            for digest in digests:
                digest.update(step[:count])
            done += count
        return done

    def _read_into(self, view: memoryview, start: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], start)
        with self._turn:  # pragma: no cover (Windows has no positioned read)
            os.lseek(self._fd, start, os.SEEK_SET)
            data = os.read(self._fd, len(view))
        view[: len(data)] = data  # pragma: no cover
        return len(data)  # pragma: no cover

    async def aclose(self) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        # One of thousands of files must not stay in memory after its turn.
        self.head = b""
        with self._guard:
            self._closed = True
        self._close_file()

    def _close_file(self) -> None:
        with self._guard:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise SourceError(
            f"{path} is a directory.", hint="Name the files in it, or use a pattern."
        )
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"{path} is no regular file.",
            hint="Open it yourself and hand in the file object to upload a stream.",
        )


def _identity(facts: os.stat_result) -> SourceIdentity:
    return SourceIdentity(
        size=facts.st_size, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino
    )
