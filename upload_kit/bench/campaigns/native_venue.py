"""Our own server as a venue, in a process of its own, by each of its protocols."""

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

    from upload_kit.bench.faults import FaultKind, FaultPlan

_ASK: Final = aiohttp.ClientTimeout(total=60)
# Seconds after which a server that is asked to clean up thinks everything has expired.
_SOON: Final = 0.05


class NativeVenue:
    """`http://`: our own server and protocol."""

    name: str = "native"
    kinds: tuple[FaultKind, ...] = ALL_KINDS
    _scheme = "http"
    _path = "/"

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
        return linked_way(self._server.port, plan, scheme=self._scheme, path=self._path)

    async def finals(self, name: str) -> list[str]:
        """Return the digests of all published files of this name."""
        return await asyncio.to_thread(self._store.digests, name)

    async def remove(self, name: str) -> None:
        """Remove all published files of this name."""
        await asyncio.to_thread(self._store.remove, name)

    async def leftovers(self) -> list[str]:
        """Have everything expire, and return what is there all the same."""
        return await expire_all(self._server)


class OwnTusVenue(NativeVenue):
    """`tus+http://`: our own server, by the tus protocol, one stream an upload."""

    name = "tus"
    _scheme = "tus+http"
    _path = "/files/"


class OwnTusPartsVenue(OwnTusVenue):
    """The same, in parts that the server joins."""

    name = "tus-parts"
    _path = "/files/?parts=16"


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
