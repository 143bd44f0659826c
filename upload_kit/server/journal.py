"""
The list of acknowledged chunks of one upload: append-only, a line a chunk.

A chunk counts from the moment its line is there. Several processes append to the same
journal, and each reads what the others wrote from where it stopped last.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Final

from upload_kit.models import ChunkMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LINE: Final = re.compile(
    rb"([0-9]{1,19}) ([0-9]{1,19}) ([0-9]{1,19}) ([0-9a-f]{64}|-)"
)
_READ_SIZE: Final = 1 << 20


def format_lines(chunks: Iterable[ChunkMetadata]) -> bytes:
    """
    Write chunks as lines: index, start, size, digest, or `-` where none was computed.

    Each begins with a line break as well, so that it stands alone even where a process
    was killed, or the power failed, in the middle of the line before.
    """
    return b"".join(
        f"\n{c.index} {c.start} {c.size} {c.sha256 or '-'}\n".encode() for c in chunks
    )


def parse_lines(data: bytes) -> Iterator[ChunkMetadata]:
    """Read chunks from whole lines; what is no such line is left out."""
    for line in data.split(b"\n"):
        if match := _LINE.fullmatch(line):
            index, start, size = (int(group) for group in match.groups()[:3])
            sha256 = None if match[4] == b"-" else match[4].decode()
            yield ChunkMetadata(index=index, start=start, size=size, sha256=sha256)


class Journal:
    """
    The journal file of one upload.

    Not thread-safe: whoever owns it calls one method at a time.
    """

    def __init__(self, path: str, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags | (os.O_CREAT if create else 0), 0o600)
        self._offset = 0

    def tail(self) -> list[ChunkMetadata]:
        """Return the chunks added since the last call, by whichever process."""
        chunks: list[ChunkMetadata] = []
        size = os.fstat(self._fd).st_size
        while self._offset < size:
            data = os.pread(self._fd, _READ_SIZE, self._offset)
            whole = data.rfind(b"\n") + 1
            if not whole:
                break
            chunks.extend(parse_lines(data[:whole]))
            self._offset += whole
        return chunks

    def append(self, chunks: Iterable[ChunkMetadata]) -> None:
        """
        Add chunks in one write, so that lines of several processes never mix.

        Raises:
            OSError: Not all of it could be written, and none of it may count.
        """
        lines = format_lines(chunks)
        if os.write(self._fd, lines) != len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Wait until everything that was added survives loss of power."""
        os.fdatasync(self._fd)

    def modified_at(self) -> float:
        """Return when the last line was added, or the journal began."""
        return os.fstat(self._fd).st_mtime

    def close(self) -> None:
        """Close the file; safe to call again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
