"""tus servers that were not written here, as venues."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.servers.tus_peers import PeerServer, tus_node_server, tuspyserver
from upload_kit.bench.campaigns.venues import Venue, Way, linked_way
from upload_kit.bench.faults import FaultKind
from upload_kit.bench.peers.programs import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from upload_kit.bench.faults import FaultPlan

# They compare no digests, so that nobody could notice a byte that arrives wrong.
_KINDS: Final = tuple(kind for kind in FaultKind if kind is not FaultKind.CORRUPT)


class TusPeerVenue:
    """
    A tus server of somebody else's, in a process of its own.

    Args:
        name: Of the server, as `missing` knows it.

        make: Makes the server over a folder.

        notes: How the file ends, after an upload's ID, in which it writes down its size
            and metadata.
    """

    kinds: Final = _KINDS

    def __init__(
        self,
        name: str,
        make: Callable[[Path], PeerServer],
        notes: str,
    ) -> None:
        self.name = name
        self._make = make
        self._notes = notes

    def obstacle(self) -> str | None:
        """Return why it cannot run here, or None."""
        return missing(self.name)

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Start the server."""
        self._folder = place / "store"
        # It looks for programs, which blocks.
        server = await asyncio.to_thread(self._make, self._folder)
        async with server as self._server:
            yield self

    def way(self, plan: FaultPlan) -> AbstractAsyncContextManager[Way]:
        """Put a link before the server."""
        where = urlsplit(self._server.url)
        assert where.port is not None
        return linked_way(where.port, plan, scheme="tus+http", path=where.path)

    async def finals(self, name: str) -> list[str]:
        """Return the digests of all uploads of this name that have all their bytes."""
        return await asyncio.to_thread(lambda: list(self._digests(name)))

    def _digests(self, name: str) -> Iterator[str]:
        for path in self._uploads(name):
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").hexdigest()

    def _uploads(self, name: str) -> Iterator[Path]:
        """Yield the files of whole uploads; these servers never move one that is."""
        for notes in self._folder.glob(f"*{self._notes}"):
            try:
                facts = json.loads(notes.read_text())
                path = notes.with_name(notes.name.removesuffix(self._notes))
                size = path.stat().st_size
            except (FileNotFoundError, json.JSONDecodeError):
                continue  # Of an upload that begins or ends just now.
            is_whole = size == facts["size"]
            if is_whole and facts["metadata"]["filename"] == name:
                yield path

    async def remove(self, name: str) -> None:
        """Remove all whole uploads of this name."""
        await asyncio.to_thread(self._remove, name)

    def _remove(self, name: str) -> None:
        for path in list(self._uploads(name)):
            path.with_name(path.name + self._notes).unlink()
            path.unlink()

    async def leftovers(self) -> list[str]:
        """Return nothing: what expires when is theirs to say."""
        return []


def tus_peer_venues() -> list[TusPeerVenue]:
    """Return all of them."""
    return [
        TusPeerVenue("tuspyserver", tuspyserver, ".info"),
        TusPeerVenue("tus-node", tus_node_server, ".json"),
    ]
