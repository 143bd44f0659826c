"""
Who may work on which chunk: a port, and locks within one process.

A newer claim evicts the older one: the older request is most likely dead and does not
know it yet. Whole-upload claims (to publish, to remove) conflict with all others.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager


class Locker(Protocol):
    """What keeps two requests from working on the same chunk."""

    def hold(
        self, name: str, index: int | None, evict: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """
        Hold one chunk of an upload, or all of it, until the context ends.

        Args:
            name: Of the upload.

            index: Of the chunk; None holds all chunks.

            evict: Called, perhaps often, when somebody newer wants the same. It must
                make the holder's work end soon, and must not raise.

        Raises:
            UploadProblem: `busy`: whoever holds it did not let go in time.
        """
        ...


@dataclass(slots=True, eq=False)
class _Hold:
    index: int | None
    evict: Callable[[], None]
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def conflicts(self, other: _Hold) -> bool:
        return None in (self.index, other.index) or self.index == other.index


class LocalLocker:
    """
    A `Locker` among the tasks of one event loop.

    Args:
        timeout: Seconds to wait for a holder that was evicted.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._holds: dict[str, list[_Hold]] = {}

    @asynccontextmanager
    async def hold(
        self, name: str, index: int | None, evict: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Hold one chunk, or all of them, until the context ends."""
        mine = _Hold(index, evict)
        holds = self._holds.setdefault(name, [])
        # In line before it waits: a claim that comes later evicts this one in turn.
        older = [hold for hold in holds if hold.conflicts(mine)]
        holds.append(mine)
        try:
            await self._evict(older)
            yield
        finally:
            holds.remove(mine)
            mine.released.set()
            if not holds:
                self._holds.pop(name, None)

    async def _evict(self, older: list[_Hold]) -> None:
        for hold in older:
            hold.evict()
        try:
            async with asyncio.timeout(self._timeout):
                for hold in older:
                    await hold.released.wait()
        except TimeoutError:
            raise busy() from None


def busy() -> UploadProblem:
    """Return the problem of a claim that waited too long."""
    return UploadProblem(
        ProblemType.BUSY, "Another request still works on the same chunk."
    )
