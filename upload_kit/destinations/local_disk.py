"""The disk under `file://`: files that outlive their readers, and what has expired."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from upload_kit.threads import in_thread
from upload_kit.units import MIB

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

_HIDDEN: Final = re.compile(r"\.upload_kit-([0-9a-f]{32})\.(?:part|journal)")


class OpenFile:
    """
    A file that is closed once no thread works on it any more, whoever went away.

    A cancelled task leaves a thread behind. Were the file closed under it, it would
    work on whatever file is given the same descriptor next.

    Args:
        path: Opened for reading and writing when it is first used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._lock = threading.Lock()
        self._users = 1

    async def use(self, function: Callable[..., T], *args: object) -> T:
        """
        Call a function in a thread, with the descriptor in front of its arguments.

        Raises:
            OSError: The file cannot be opened, or what the function raises.
        """
        return await in_thread(self._use, function, *args)

    def close(self) -> asyncio.Future[None]:
        """Close it in a thread, as soon as may be; nobody has to wait for that."""
        return in_thread(self._leave)

    def _use(self, function: Callable[..., T], *args: object) -> T:
        with self._lock:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR)
            self._users += 1
        try:
            return function(self._fd, *args)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last and self._fd >= 0:
            os.close(self._fd)


def write_at(fd: int, piece: memoryview, position: int) -> None:
    """Write everything at an offset."""
    while piece:
        count = os.pwrite(fd, piece, position)
        piece, position = piece[count:], position + count


def digest_at(fd: int, start: int, end: int) -> bytes:
    """Return the SHA-256 of a range; of less, where the file ends before."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(MIB))
    while start < end:
        count = os.preadv(fd, [buffer[: min(len(buffer), end - start)]], start)
        if count == 0:
            break
        digest.update(buffer[:count])
        start += count
    return digest.digest()


def append(path: Path, line: bytes) -> None:
    """Add to a file in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive loss of power."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep(folder: Path, expires_after: float) -> None:
    """
    Remove half-done uploads of a folder that nobody has touched for so many seconds.

    Nobody else would: whoever began them may have died before it could remember them.
    """
    newest: dict[str, float] = {}
    found: list[tuple[str, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _HIDDEN.fullmatch(entry.name)
            if match is None:
                continue
            with suppress(OSError):
                touched = entry.stat(follow_symlinks=False).st_mtime
                newest[match[1]] = max(touched, newest.get(match[1], 0.0))
                found.append((match[1], entry.path))
    before = time.time() - expires_after
    for token, path in found:
        if newest[token] < before:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 (the path comes from scandir)
