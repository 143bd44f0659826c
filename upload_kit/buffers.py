"""The memory that chunks stand in, bounded by a budget."""

from __future__ import annotations

import asyncio
import mmap
from collections import deque
from typing import Final, TypeAlias

from upload_kit.errors import ConfigurationError
from upload_kit.units import MIB, format_size

# Bytes from which on a buffer is mapped, and kept for the next chunk.
_LARGE: Final = MIB

Buffer: TypeAlias = bytearray | mmap.mmap
"""Writable memory of a fixed size."""


def _allocate(size: int) -> Buffer:
    """
    Return new memory.

    Large buffers are mapped: the system gets them back at once when they are dropped,
    where malloc would keep them, a little more with every upload.
    """
    return mmap.mmap(-1, size) if size >= _LARGE else bytearray(size)


class BufferPool:
    """
    Memory for chunks, bounded by a budget, handed out in the order of asking.

    Args:
        budget: Bytes in use, and kept for later use, at most; a single buffer may be
            larger when it is alone.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._free: dict[int, list[Buffer]] = {}
        self._kept = 0

    @property
    def used(self) -> int:
        """Bytes handed out now."""
        return self._used

    async def acquire(self, size: int) -> Buffer:
        """
        Return a buffer of exactly this size, once the budget allows it.

        Raises:
            ConfigurationError: The machine has not so much memory.
        """
        if self._waiters or not self._fits(size):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (size, turn)
            self._waiters.append(entry)
            try:
                # No limit of its own: it ends when a transfer gives a buffer back, and
                # every transfer's waits are limited.
                await turn
            except asyncio.CancelledError:
                self._withdraw(entry)
                raise
        else:
            self._used += size
        try:
            return self._take_kept(size) or self._make(size)
        except (MemoryError, OSError, OverflowError) as error:
            self._used -= size
            self._wake()
            raise ConfigurationError(
                f"There is no memory for a chunk of {format_size(size)}.",
                hint="Choose smaller chunks.",
            ) from error

    def release(self, buffer: Buffer, *, reuse: bool) -> None:
        """
        Give a buffer back.

        Args:
            buffer: What `acquire` returned.

            reuse: False when a broken connection may still hold a view of it: another
                chunk's bytes must never go out in its place.
        """
        self._used -= len(buffer)
        # Small buffers are cheaper to make than to keep.
        if reuse and len(buffer) >= _LARGE:
            self._free.setdefault(len(buffer), []).append(buffer)
            self._kept += len(buffer)
            self._drop_kept()
        self._wake()

    def clear(self) -> None:
        """Let go of the buffers that nobody uses."""
        self._free.clear()
        self._kept = 0

    def _take_kept(self, size: int) -> Buffer | None:
        kept = self._free.get(size)
        if not kept:
            return None
        self._kept -= size
        return kept.pop()

    def _make(self, size: int) -> Buffer:
        self._drop_kept()
        return _allocate(size)

    def _drop_kept(self) -> None:
        """Let go of kept buffers until the budget holds, of rare sizes first."""
        while self._kept and self._used + self._kept > self._budget:
            size = min(self._free, key=lambda each: len(self._free[each]))
            if self._free[size]:
                self._free[size].pop()
                self._kept -= size
            if not self._free[size]:
                del self._free[size]

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._budget

    def _wake(self) -> None:
        while self._waiters and self._fits(self._waiters[0][0]):
            size, turn = self._waiters.popleft()
            if not turn.done():
                self._used += size
                turn.set_result(None)

    def _withdraw(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        """Undo a cancelled request, whether or not its turn had come."""
        size, turn = entry
        if turn.done() and not turn.cancelled():
            self._used -= size
        elif entry in self._waiters:
            self._waiters.remove(entry)
        self._wake()
