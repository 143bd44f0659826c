"""The port of whatever gives bytes to upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.config import DEFAULT_READ_TIMEOUT
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash as Hash

    from upload_kit.models import SourceIdentity

STEP: Final = MIB
"""Bytes read and hashed at a time: they are still in the core's cache when hashed."""


class Source(Protocol):
    """
    Bytes to upload; opened once, closed once.

    It fills buffers and feeds digests in the same pass, off the event loop. One that is
    `rereadable` can be read at any offset, again and again; any other one strictly in
    order, once.
    """

    name: str
    """File name, as the destination gets to know it."""

    size: int | None
    """Bytes; None when it shows only at the end. Valid after `open`."""

    path: str | None
    """Absolute path that another process could open, after `open`; None if none."""

    identity: SourceIdentity | None
    """What tells whether it is still the same. Valid after `open`."""

    rereadable: bool
    """Whether any part can be read again."""

    head: bytes
    """First bytes, to tell the type by; empty where they cannot be peeked at."""

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """
        Make ready and find out the size.

        Args:
            patience: Seconds for the disk to give the next bytes, now and in `read`.
                A stream may take as long as its author does.

        Raises:
            SourceError: It is missing, unreadable, or nothing that can be uploaded.
        """
        ...

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """
        Fill the buffer with the bytes from offset `start`, and feed the digests.

        Args:
            buffer: Where the bytes go.

            start: Offset in the source; where it is not rereadable, that of the first
                byte not yet read.

            digests: Each gets every byte that was read.

        Returns:
            Bytes read; fewer than the buffer holds only at the end of the source.

        Raises:
            SourceError: It cannot be read, or its disk hangs.
            SourceChanged: It changed since it was opened.
        """
        ...

    async def aclose(self) -> None:
        """Let go of it; safe to call again."""
        ...
