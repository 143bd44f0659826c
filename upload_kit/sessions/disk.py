"""Files that nobody else may read, that are whole or not there, under one lock."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from upload_kit.errors import SessionError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_TIMEOUT: Final = 10.0
"""Seconds; a lock is held for milliseconds, so whoever holds it longer hangs."""

_POLL: Final = (0.001, 0.02)
# A link in place of one of our files would lead the writing somewhere else. Windows has
# no such flag, and needs to be told that bytes are bytes.
_FLAGS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def make_private_folder(folder: Path) -> None:
    """Make the folder for this user alone; one that exists stays as it is."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private(path: Path, flags: int) -> int:
    """Open a file that, if it is made now, this user alone may read."""
    return os.open(path, flags | _FLAGS, 0o600)


def write_whole(descriptor: int, content: bytes) -> None:
    """
    Write everything, or fail.

    Raises:
        OSError: The disk is full; a part may be written.
    """
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: Path, content: bytes) -> None:
    """
    Write a file in one atomic step: a reader sees the old one or the new one.

    The folder must be `locked`: its writers share one temporary file, so that a process
    that is killed leaves at most one behind, and the next writer takes it over.
    """
    temporary = path.with_name(".new")
    descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_whole(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """
    Keep every other process and thread out while the body runs.

    The system lets go of the lock when a process dies. Blocks the calling thread.

    Args:
        path: The lock file; it is made if need be, and stays.

        timeout: Seconds to wait.

    Raises:
        SessionError: Somebody else holds it for longer than that.
    """
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        _wait_for_lock(descriptor, path, timeout)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    pause, longest = _POLL
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise SessionError(
                f"Another process has held {path} for {timeout:g} seconds.",
                hint="End that process; the lock goes with it.",
            )
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def set_aside(path: Path) -> Path:
    """
    Move what cannot be read to the folder `corrupt` beside it, and return where to.

    Nothing that was set aside before is overwritten.
    """
    folder = path.with_name("corrupt")
    make_private_folder(folder)
    aside = folder / path.name
    number = 1
    while aside.exists():
        aside = folder / f"{path.name}.{number}"
        number += 1
    path.rename(aside)
    return aside
