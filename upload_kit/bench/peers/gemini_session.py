"""One upload at the scripted Gemini service: what it keeps, and its digest."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """
    An upload on its way.

    Bytes are taken as they come and kept in steps; they are hashed in a thread, so that
    the service is no slower than it must be.
    """

    id: str
    facts: dict[str, Any]
    size: int
    step: int
    """Bytes; of a request that broke off, multiples of it are kept."""

    keep: bool
    """Whether the bytes are kept for comparing, besides their digest."""

    corrupt: bool = False
    """Store the first byte wrong."""

    status: str = "active"
    received: int = 0
    """Bytes that are kept."""

    final: dict[str, Any] | None = None
    """The file, once it is whole."""

    writer: object = None
    """Whichever request may write; a later one takes over from a dead one."""

    _pieces: list[bytes] = field(default_factory=list)
    _pending: list[bytes] = field(default_factory=list)
    _unhashed: deque[bytes] = field(default_factory=deque)
    _digest: Any = field(default_factory=hashlib.sha256)
    _hashing: asyncio.Task[None] | None = None

    def take(self, piece: bytes) -> None:
        """Take some bytes; whole steps are kept at once."""
        self._pending.append(piece)
        if sum(map(len, self._pending)) >= self.step:
            self.settle(whole=False)

    def settle(self, *, whole: bool) -> None:
        """
        Keep what was taken.

        Args:
            whole: Keep all of it; otherwise whole steps, and the rest is still pending.
        """
        pending = b"".join(self._pending)
        kept = len(pending) if whole else len(pending) // self.step * self.step
        self._pending = [pending[kept:]] if kept < len(pending) else []
        if kept:
            self._keep(pending[:kept])

    def drop(self) -> None:
        """Forget what is not kept yet: its request broke off."""
        self._pending.clear()

    def _keep(self, piece: bytes) -> None:
        if self.corrupt and self.received == 0:
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        self.received += len(piece)
        if self.keep:
            self._pieces.append(piece)
        self._unhashed.append(piece)
        if self._hashing is None or self._hashing.done():
            self._hashing = asyncio.create_task(self._hash())

    async def _hash(self) -> None:
        while self._unhashed:
            await asyncio.to_thread(self._digest.update, self._unhashed.popleft())

    async def sha256(self) -> bytes:
        """Return the digest of what is kept, once all of it was hashed."""
        if self._hashing is not None:
            await self._hashing
        return bytes(self._digest.digest())

    def content(self) -> bytes:
        """Return what is kept."""
        return b"".join(self._pieces)
