"""Much at once: uploads, sessions, small files; on one server, with nothing lost."""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from upload_kit.bench.campaigns.forked import ForkedCampaign
from upload_kit.bench.campaigns.outcome import Figure
from upload_kit.bench.campaigns.servers import ForkedServer
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from upload_kit.bench.campaigns.forks import ForkServer
    from upload_kit.bench.campaigns.outcome import Findings

_CALLS: Final = "upload_kit.bench.campaigns.load_children"
_ASK: Final = aiohttp.ClientTimeout(total=300)
# Seconds for everything that a child does in one go.
_LONG: Final = 280.0
# Seconds in which all clients are ready to begin.
_READY: Final = 1.0
# Milliseconds that one step of an event loop takes the processor at most.
_STEP: Final = 100.0
# Bytes of memory: what is promised, whatever the number of uploads.
_SERVER_MEMORY: Final = 512 * MIB
_CLIENT_MEMORY: Final = 256 * MIB


class WatchedServer(ForkedServer):
    """
    A server that says in the end what it has measured of itself.

    Args:
        forks: Where processes come from.

        folder: What it stores to.

        settings: Of its `ServerConfig`, as JSON.
    """

    def __init__(self, forks: ForkServer, folder: Path, **settings: Any) -> None:
        usual = {"durability": "page-cache", "max_sessions": 1_000_000}
        call = f"{_CALLS}:serve_watched"
        super().__init__(
            forks, folder, call=call, patience=_LONG, **{**usual, **settings}
        )

    async def account(self, findings: Findings) -> None:
        """End it, and note what it has measured."""
        await self.stop()
        said = await self.process.hear()
        if said is None:
            findings.blame("the server said nothing in the end")
            return
        note_limits(findings, "server", said, _SERVER_MEMORY)


def note_limits(
    findings: Findings, whose: str, said: dict[str, Any], memory: int
) -> None:
    """Note how its event loop did, and its memory, with their limits."""
    findings.figures += [
        Figure(
            name=f"{whose}: longest step, ms",
            value=1000 * said["step"],
            limit=_STEP if whose == "server" else None,
        ),
        Figure(name=f"{whose}: longest queue, ms", value=1000 * said["late"]),
        Figure(
            name=f"{whose}: peak memory, MiB",
            value=said["memory"] / MIB,
            limit=memory / MIB,
        ),
    ]


class LoadCampaign(ForkedCampaign):
    """
    What the campaigns of this module share: one try, with a size.

    Args:
        name: Which one.

        size: Of what there is much of.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(f"load/{name}")
        self._size = size

    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Make the one try."""
        findings.tries = self._size
        await self.load(forks, place, draw, findings)

    @abstractmethod
    async def load(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Do much at once, and check it; see `play`."""


class UploadLoad(LoadCampaign):
    """Uploads by ten clients, all at once, on one server."""

    def __init__(self, size: int = 1000, *, clients: int = 10) -> None:
        super().__init__("at-once", size)
        self._clients = clients

    async def load(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload as many files as there are, each in three chunks."""
        server = WatchedServer(forks, place / "store", durability="fsync")
        await server.start()
        sources = await asyncio.to_thread(
            _make_files, place, draw, self._size, (300 * KIB, 300 * KIB)
        )
        shares = [list(sources)[n :: self._clients] for n in range(self._clients)]
        at = time.time() + _READY
        clients = [
            await forks.fork(
                f"{_CALLS}:upload_many",
                {
                    "url": server.url,
                    "paths": share,
                    "at_once": len(share),
                    "chunk_size": 100 * KIB,
                    "at": at,
                },
            )
            for share in shares
        ]
        said = await asyncio.gather(*(client.hear(_LONG) for client in clients))
        await _check(said, sources, server, findings)
        _note_shares(said, findings)
        await server.account(findings)


class BatchLoad(LoadCampaign):
    """Small files in one batch of one client."""

    def __init__(self, size: int = 10_000) -> None:
        super().__init__("small-files", size)

    async def load(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload them, sixteen at a time."""
        server = WatchedServer(forks, place / "store")
        await server.start()
        sources = await asyncio.to_thread(
            _make_files, place, draw, self._size, (0, 16 * KIB)
        )
        began = time.time()
        client = await forks.fork(
            f"{_CALLS}:upload_many",
            {
                "url": server.url,
                "paths": list(sources),
                "at_once": 16,
                "chunk_size": MIB,
                "at": began,
            },
        )
        said = await client.hear(_LONG)
        rate = self._size / (time.time() - began)
        findings.figures.append(Figure(name="files a second", value=rate))
        await _check([said], sources, server, findings)
        await server.account(findings)


class StoreLoad(LoadCampaign):
    """Sessions in one store, which is then used and cleaned up."""

    def __init__(self, store: str, size: int = 10_000) -> None:
        super().__init__(f"sessions-{store}", size)
        self._store = {"json": "sessions", "sqlite": "sessions.db"}[store]

    async def load(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Make them, look for some, let the first half expire."""
        order = {"store": str(place / self._store), "sessions": self._size}
        child = await forks.fork(f"{_CALLS}:keep_sessions", order)
        said = await child.hear(_LONG)
        if said is None:
            findings.blame("the keeper of sessions died")
            return
        if said["listed"] != self._size or said["found"] != said["wanted"]:
            findings.lose(f"sessions are missing: {said}")
        if said["removed"] != self._size or said["left"]:
            findings.blame(f"expired sessions were not all removed: {said}")
        note_limits(findings, "client", said, _CLIENT_MEMORY)
        findings.figures += [
            Figure(name="sessions made a second", value=said["made_per_second"]),
            Figure(name="seconds to find one", value=said["find_seconds"], limit=2.0),
        ]


class ServerSessionLoad(LoadCampaign):
    """Unfinished uploads at one server, which is then used, restarted, cleaned up."""

    def __init__(self, size: int = 10_000) -> None:
        super().__init__("server-sessions", size)

    async def load(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Begin them, list them, restart, and have all of them expire."""
        server = WatchedServer(forks, place / "store")
        await server.start()
        order = {"url": server.url, "sessions": self._size}
        child = await forks.fork(f"{_CALLS}:begin_many", order)
        said = await child.hear(_LONG)
        if said is None or said["begun"] != self._size:
            findings.blame(f"not all uploads could be begun: {said}")
        await self._count(server, findings)
        await server.account(findings)
        again = WatchedServer(forks, server.folder, expires_after=0.05)
        await again.start()
        async with (
            aiohttp.ClientSession(timeout=_ASK) as session,
            session.post(f"{again.url}upload/cleanup") as reply,
        ):
            removed = (await reply.json())["removed"]
        if removed != self._size:
            findings.blame(f"of {self._size} uploads, {removed} were removed")
        await again.account(findings)

    async def _count(self, server: WatchedServer, findings: Findings) -> None:
        async with (
            aiohttp.ClientSession(timeout=_ASK) as session,
            session.get(f"{server.url}upload/sessions") as reply,
        ):
            listed = len((await reply.json())["sessions"])
        if listed != self._size:
            findings.lose(f"of {self._size} uploads, {listed} are listed")


def _make_files(
    place: Path, draw: random.Random, count: int, sizes: tuple[int, int]
) -> dict[str, str]:
    """Make files; return their digests by their paths."""
    folder = place / "sources"
    folder.mkdir()
    made = {}
    for index in range(count):
        content = draw.randbytes(draw.randint(*sizes))
        path = folder / f"{index:05}.bin"
        path.write_bytes(content)
        made[str(path)] = hashlib.sha256(content).hexdigest()
    return made


async def _check(
    said: list[dict[str, Any] | None],
    sources: dict[str, str],
    server: WatchedServer,
    findings: Findings,
) -> None:
    """Compare what clients say, and what is stored, with the sources."""
    if None in said:
        findings.blame("a client died")
    heard = [one for one in said if one is not None]
    expected = {path.rpartition("/")[2]: sha256 for path, sha256 in sources.items()}
    rows = [row for one in heard for row in one["results"]]
    for name, sha256, _seconds, error in rows:
        if error is not None:
            findings.failed += 1
            findings.complaints.append(f"{name}: {error}")
        elif sha256 not in {None, expected[name]}:
            findings.blame(f"the digest of {name} is said to be another one")
    stored = await asyncio.to_thread(_stored, server.folder)
    for name, sha256 in expected.items():
        if stored.get(name) != [sha256]:
            findings.lose(f"{name} is stored as {stored.get(name)}")
    for one in heard:
        note_limits(findings, "client", one, _CLIENT_MEMORY)


def _stored(folder: Path) -> dict[str, list[str]]:
    """Return the digests of all published files, by their names; blocking."""
    found: dict[str, list[str]] = {}
    for path in (folder / "files").glob("*/[!.]*"):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found.setdefault(path.name, []).append(sha256)
    return found


def _note_shares(said: list[dict[str, Any] | None], findings: Findings) -> None:
    """Note how much longer the last one took than the first: clients and uploads."""
    heard = [one["results"] for one in said if one is not None]
    uploads = [row[2] for rows in heard for row in rows]
    clients = [max(row[2] for row in rows) for rows in heard]
    findings.stalled(max(uploads))
    findings.figures += [
        Figure(name="uploads: slowest / fastest", value=max(uploads) / min(uploads)),
        Figure(
            name="clients: slowest / fastest",
            value=max(clients) / min(clients),
            limit=1.5,
        ),
    ]
