"""Bytes in files, written and copied whole, however the system splits that."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

# The least that POSIX systems take in one call; Linux and macOS take just that.
_IOV_MAX: Final = 1024

# What a file system answers that cannot copy from file to file by itself.
_CANNOT_COPY: Final = frozenset(
    {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP}
)
_STEP: Final = MIB


def write_all(fd: int, offset: int, pieces: Sequence[bytes]) -> None:
    """Write all pieces one after another, however the system splits them."""
    todo: list[bytes | memoryview] = list(pieces)
    while todo:
        written = os.pwritev(fd, todo[:_IOV_MAX], offset)
        offset += written
        done = 0
        while done < len(todo) and written >= len(todo[done]):
            written -= len(todo[done])
            done += 1
        del todo[:done]
        if written:
            todo[0] = memoryview(todo[0])[written:]


def copy_all(source: int, target: int, *, start: int, offset: int, size: int) -> None:
    """
    Copy bytes from one open file to another: in the kernel, or shared, where it can.

    Args:
        source: Where they are.

        target: Where they go.

        start: Of the first byte, in the source.

        offset: Of the first byte, in the target.

        size: Bytes.

    Raises:
        OSError: The source is shorter than that, or the target cannot be written.
    """
    copy = _copy_in_kernel if hasattr(os, "copy_file_range") else _copy_by_hand
    while size:
        try:
            copied = copy(source, target, size, start, offset)
        except OSError as error:
            if copy is _copy_by_hand or error.errno not in _CANNOT_COPY:
                raise
            copy = _copy_by_hand
            continue
        if not copied:
            raise OSError(errno.EIO, "a file is shorter than it was")
        start, offset, size = start + copied, offset + copied, size - copied


def _copy_in_kernel(source: int, target: int, size: int, *places: int) -> int:
    return os.copy_file_range(source, target, size, *places)


def _copy_by_hand(source: int, target: int, size: int, *places: int) -> int:
    start, offset = places
    data = os.pread(source, min(size, _STEP), start)
    write_all(target, offset, [data])
    return len(data)
