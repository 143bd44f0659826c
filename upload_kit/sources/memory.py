"""Bytes in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from upload_kit.config import DEFAULT_READ_TIMEOUT
from upload_kit.threads import in_thread
from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash as Hash

    from upload_kit.models import SourceIdentity

SMALL: Final = 64 * KIB
"""Bytes up to which a copy is made in the event loop: a thread would cost more."""


class BytesSource:
    """Bytes in memory; they must not be changed before the upload is done."""

    rereadable = True
    path: str | None = None
    identity: SourceIdentity | None = None

    def __init__(self, data: bytes | bytearray | memoryview, *, name: str) -> None:
        self._view = flat(data)
        self.name = name
        self.size: int | None = len(self._view)
        self.head = bytes(self._view[:SMALL])

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """Nothing needs to be made ready."""

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """Copy in a thread; see `Source.read`."""
        if len(buffer) <= SMALL:
            return copy_part(self._view, buffer, start, digests)
        return await in_thread(copy_part, self._view, buffer, start, digests)

    async def aclose(self) -> None:
        """Nothing needs to be let go of."""


def flat(data: bytes | bytearray | memoryview) -> memoryview:
    """Return the bytes in a row; copied only where they are not."""
    view = memoryview(data)
    if not view.c_contiguous or 0 in (view.shape or ()):
        return memoryview(view.tobytes())
    return view.cast("B")


def copy_part(
    data: memoryview, buffer: memoryview, start: int, digests: Sequence[Hash]
) -> int:
    """Fill the buffer from offset `start` of the data; see `Source.read`."""
    part = data[start : start + len(buffer)]
    buffer[: len(part)] = part
    for digest in digests:
        digest.update(part)
    return len(part)
