"""
A file whose readers wait in the kernel, as they do for a disk that hangs.

Linux asks a listener whether a file may be opened or read (fanotify, permission
events), and has whoever wants to wait for the answer. Ours does not answer for a while.

Source: fanotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import TYPE_CHECKING, Final, Self

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_CLASS_CONTENT: Final = 0x4
_MARK_ADD: Final = 0x1
_OPEN_PERM: Final = 0x10000
_ACCESS_PERM: Final = 0x20000
_ALLOW: Final = 1
_AT_FDCWD: Final = -100
# event_len, vers, reserved, metadata_len, mask, fd, pid
_EVENT: Final = struct.Struct("=IBBHQii")
_ANSWER: Final = struct.Struct("=iI")


class HeldFile:
    """
    Holds up whoever opens or reads a file, while the context lasts or until `let_go`.

    Args:
        path: The file.

        opens: Hold its opening, instead of its reading.

        spared: Calls that go through before the first one is held up.
    """

    def __init__(self, path: Path, *, opens: bool = False, spared: int = 0) -> None:
        self._path = path
        self._mask = _OPEN_PERM if opens else _ACCESS_PERM
        self._spared = spared
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._answering: threading.Thread | None = None
        self.held = threading.Event()

    def __enter__(self) -> Self:
        self._fd = self._libc.fanotify_init(_CLASS_CONTENT, os.O_RDONLY | os.O_CLOEXEC)
        if self._fd < 0:
            pytest.skip("only root may hold up reads of a file")
        marked = self._libc.fanotify_mark(
            self._fd,
            _MARK_ADD,
            ctypes.c_uint64(self._mask),
            _AT_FDCWD,
            os.fsencode(self._path),
        )
        assert marked == 0, os.strerror(ctypes.get_errno())
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Let everybody go on, from now on; safe to call again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _answer(self) -> None:
        """Let the first calls through; leave the next ones without an answer."""
        fd = self._fd
        for _ in range(self._spared):
            *_facts, file, _pid = _EVENT.unpack(os.read(fd, _EVENT.size))
            os.write(fd, _ANSWER.pack(file, _ALLOW))
            os.close(file)
        *_facts, file, _pid = _EVENT.unpack(os.read(fd, _EVENT.size))
        self.held.set()
        os.close(file)
