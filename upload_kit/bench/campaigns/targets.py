"""What the clients of kill campaigns upload to: a server that may die, or a folder."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from upload_kit.bench.campaigns.native_venue import expire_all
from upload_kit.bench.campaigns.servers import ForkedServer
from upload_kit.bench.campaigns.venues import LocalVenue, StoreFolder
from upload_kit.bench.link import ShapedLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from upload_kit.bench.campaigns.forks import ForkServer
    from upload_kit.bench.faults import FaultPlan
    from upload_kit.models import UploadSession

_ASK: Final = aiohttp.ClientTimeout(total=30)


class Target(Protocol):
    """Where one upload goes, and what stands there."""

    @property
    def url(self) -> str:
        """What to upload to."""
        ...

    @property
    def faults(self) -> int:
        """How many faults of the way there have struck so far."""
        ...

    async def kill(self) -> None:
        """Kill it, if it can be killed."""
        ...

    async def revive(self) -> None:
        """Start it again."""
        ...

    async def missing(self, session: UploadSession) -> int:
        """Return how many chunks it does not have that it has acknowledged."""
        ...

    async def finals(self, name: str) -> list[str]:
        """Return the SHA-256 of everything that stands under a final name."""
        ...

    async def leftovers(self) -> list[str]:
        """Let everything expire, and say what is left all the same."""
        ...


class ServerTarget:
    """
    A server of its own, behind a link; made by `server_target`.

    Args:
        server: Running.

        link: To it.
    """

    def __init__(self, server: ForkedServer, link: ShapedLink) -> None:
        self.url = f"http://127.0.0.1:{link.port}/"
        self._link = link
        self._server = server
        self._store = StoreFolder(server.folder)

    @property
    def faults(self) -> int:
        """What the link has counted."""
        return self._link.stats.faults

    async def kill(self) -> None:
        """Kill the server."""
        await self._server.kill()

    async def revive(self) -> None:
        """Start it on the same port and folder."""
        await self._server.start()

    async def missing(self, session: UploadSession) -> int:
        """Ask the server itself, beside the link."""
        if session.remote_token is None or not session.receipts:
            return 0
        url = f"{self._server.url}upload/status/{session.remote_token}?chunks=1"
        async with (
            aiohttp.ClientSession(timeout=_ASK) as client,
            client.get(url) as reply,
        ):
            if reply.status != 200:
                return len(session.receipts)
            chunks = (await reply.json())["chunks"]
        held = {chunk["index"]: chunk["sha256"] for chunk in chunks}
        return sum(
            held.get(receipt.index) != receipt.sha256 for receipt in session.receipts
        )

    async def finals(self, name: str) -> list[str]:
        """Return the digests of all published files of this name."""
        return await asyncio.to_thread(self._store.digests, name)

    async def leftovers(self) -> list[str]:
        """Have everything expire, and return what is there all the same."""
        return await expire_all(self._server)


@asynccontextmanager
async def server_target(
    forks: ForkServer, folder: Path, rate: float, *, plan: FaultPlan | None = None
) -> AsyncIterator[Target]:
    """
    Start a server and a link to it, and end both with the context.

    Args:
        forks: Where the server comes from.

        folder: What it stores to.

        rate: Bytes a second of the link.

        plan: Its faults; None for none.
    """
    server = ForkedServer(forks, folder)
    await server.start()
    try:
        async with ShapedLink(
            "127.0.0.1", server.port, total_rate=rate, faults=plan
        ) as link:
            yield ServerTarget(server, link)
    finally:
        await server.stop()


class FolderTarget(LocalVenue):
    """
    A folder, which nobody can kill.

    Args:
        folder: Made already.
    """

    faults: Final = 0

    def __init__(self, folder: Path) -> None:
        self.url = folder.as_uri()
        self._folder = folder

    async def kill(self) -> None:
        """Do nothing."""

    async def revive(self) -> None:
        """Do nothing."""

    async def missing(self, session: UploadSession) -> int:
        """Return 0: what resumes finds out."""
        return 0
