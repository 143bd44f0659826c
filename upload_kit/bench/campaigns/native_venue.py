"""Our own server as a venue, in a process of its own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp

from upload_kit.bench.campaigns.forks import ForkServer
from upload_kit.bench.campaigns.servers import ForkedServer
from upload_kit.bench.campaigns.venues import (
    ALL_KINDS,
    StoreFolder,
    Venue,
    Way,
    linked_way,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from upload_kit.bench.faults import FaultPlan

_ASK: Final = aiohttp.ClientTimeout(total=60)
# Seconds after which a server that is asked to clean up thinks everything has expired.
_SOON: Final = 0.05


class NativeVenue:
    """`http://`: our own server."""

    name: Final = "native"
    kinds: Final = ALL_KINDS

    def obstacle(self) -> str | None:
        """Return why processes cannot be forked here, or None."""
        return ForkServer.obstacle()

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Start the server."""
        async with ForkServer() as forks:
            self._server = ForkedServer(forks, place / "store")
            self._store = StoreFolder(place / "store")
            await self._server.start()
            yield self
            await self._server.stop()

    def way(self, plan: FaultPlan) -> AbstractAsyncContextManager[Way]:
        """Put a link before the server."""
        return linked_way(self._server.port, plan)

    async def finals(self, name: str) -> list[str]:
        """Return the digests of all published files of this name."""
        return await asyncio.to_thread(self._store.digests, name)

    async def remove(self, name: str) -> None:
        """Remove all published files of this name."""
        await asyncio.to_thread(self._store.remove, name)

    async def leftovers(self) -> list[str]:
        """Have everything expire, and return what is there all the same."""
        return await expire_all(self._server)


async def clean_up(url: str) -> None:
    """Ask a server to remove what has expired."""
    async with (
        aiohttp.ClientSession(timeout=_ASK) as session,
        session.post(f"{url}upload/cleanup") as reply,
    ):
        reply.raise_for_status()


async def expire_all(server: ForkedServer) -> list[str]:
    """
    Restart a server so that everything expires soon, and have it clean up.

    Returns:
        What is left where unfinished uploads are kept.
    """
    await server.stop()
    usual = server.settings
    server.settings = {**usual, "expires_after": _SOON}
    await server.start()
    await asyncio.sleep(2 * _SOON)
    await clean_up(server.url)
    server.settings = usual
    return await asyncio.to_thread(StoreFolder(server.folder).unfinished)
