"""
Locks among processes: byte ranges of a file beside the upload.

Byte `index` of the lock file stands for chunk `index`, all bytes for the whole upload.
The locks belong to an open file description, so the kernel lets go of them when a
process is killed, and two requests of one process exclude each other as well.

The file's content says what is wanted: whoever cannot have a lock adds 1 to the byte
that stands for it, and holders look whether theirs has changed.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from upload_kit.server.locks import LocalLocker, busy
from upload_kit.server.receive import run
from upload_kit.server.storage import UploadMoved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor

HAS_FILE_LOCKS: Final = sys.platform == "linux"
"""Whether this system has locks that belong to an open file description."""

# Where wishes begin: an idempotency key's file has an upload's ID before that.
_WISHES: Final = 64

# Seconds between two looks at whether somebody else wants what is held here.
_LOOK: Final = 0.25

_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.25

# struct flock of 64-bit Linux: type, whence, start, length, pid (which has to be 0).
_FLOCK: Final = struct.Struct("hhqqi4x")


def try_lock(fd: int, start: int, length: int) -> bool:
    """
    Lock a byte range for as long as the file stays open; False if somebody else has it.

    Args:
        fd: Of a file that is open for writing.

        start: First byte.

        length: Bytes; 0 for all that follow.
    """
    import fcntl

    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let go of every byte range of an open file."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))


class _FileLock:
    """One lock on one chunk, or on all of them; its methods are called in threads."""

    def __init__(self, path: str, index: int | None) -> None:
        self._path = path
        self._fd = -1
        self._range = (0, 0) if index is None else (index, 1)
        self._wish = _WISHES if index is None else _WISHES + 1 + index
        self._seen = b""
        self._guard = threading.Lock()

    def acquire(self) -> bool:
        """
        Try to have it; if it is held, say that it is wanted.

        Raises:
            FileNotFoundError: There is no folder to hold anything in.
        """
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        if try_lock(self._fd, *self._range):
            self._seen = self._wishes()
            return True
        count = os.pread(self._fd, 1, self._wish) or b"\0"
        os.pwrite(self._fd, bytes([(count[0] + 1) % 256]), self._wish)
        return False

    def is_wanted(self) -> bool:
        """Return whether somebody else asked for it since it is held."""
        with self._guard:
            return self._fd >= 0 and self._wishes() != self._seen

    def close(self) -> None:
        """Let go of it."""
        with self._guard:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _wishes(self) -> bytes:
        whole = os.pread(self._fd, 1, _WISHES) or b"\0"
        return whole + (os.pread(self._fd, 1, self._wish) or b"\0")


class FileLocker:
    """
    A `Locker` among all processes that use the same folder.

    Args:
        path_of: Returns the lock file of a name.

        pool: Threads for its system calls.

        timeout: Seconds to wait for a holder that was asked to let go.
    """

    def __init__(
        self, path_of: Callable[[str], str], pool: Executor, timeout: float
    ) -> None:
        self._path_of = path_of
        self._pool = pool
        self._timeout = timeout
        self._local = LocalLocker(timeout)
        self._held: dict[_FileLock, Callable[[], None]] = {}
        self._watching = False

    @asynccontextmanager
    async def hold(
        self, name: str, index: int | None, evict: Callable[[], None]
    ) -> AsyncIterator[None]:
        """
        Hold one chunk, or all of them, until the context ends.

        Raises:
            UploadMoved: There is no folder to hold anything in.
        """
        async with self._local.hold(name, index, evict):
            lock = _FileLock(self._path_of(name), index)
            try:
                await self._acquire(lock)
                self._held[lock] = evict
                self._watch()
                yield
            finally:
                self._held.pop(lock, None)
                # Closing has nothing to wait for, so it needs no thread.
                lock.close()

    async def _acquire(self, lock: _FileLock) -> None:
        try:
            if await run(self._pool, lock.acquire):
                return
        except FileNotFoundError:
            raise UploadMoved from None
        wait = _FIRST_WAIT
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    await asyncio.sleep(wait)
                    if await run(self._pool, lock.acquire):
                        return
                    wait = min(2 * wait, _LONGEST_WAIT)
        except TimeoutError:
            raise busy() from None

    def _watch(self) -> None:
        """Look now and then for wishes, for as long as anything is held."""
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self._watching = False
        if not self._held:
            return
        loop = asyncio.get_running_loop()
        looking = loop.run_in_executor(self._pool, _wanted, list(self._held))
        looking.add_done_callback(self._evict)

    def _evict(self, looking: asyncio.Future[list[_FileLock]]) -> None:
        if looking.cancelled() or looking.exception() is not None:
            return
        for lock in looking.result():
            if (evict := self._held.get(lock)) is not None:
                evict()
        if self._held:
            self._watch()


def _wanted(locks: list[_FileLock]) -> list[_FileLock]:
    return [lock for lock in locks if lock.is_wanted()]
