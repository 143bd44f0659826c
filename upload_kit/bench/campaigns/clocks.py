"""Uploads during which the clock of the client, of the server or of both jumps."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from upload_kit.bench.campaigns.forked import ForkedCampaign, hear_out
from upload_kit.bench.campaigns.servers import ForkedServer
from upload_kit.bench.campaigns.venues import StoreFolder
from upload_kit.bench.link import ShapedLink
from upload_kit.config import Compression
from upload_kit.units import KIB, MB, MIB

if TYPE_CHECKING:
    import random

    from upload_kit.bench.campaigns.forks import Fork, ForkServer
    from upload_kit.bench.campaigns.outcome import Findings

_UPLOAD: Final = "upload_kit.bench.campaigns.children:upload"
# Bytes a second: a clock that jumps is noticed within a second.
_RATE: Final = 1 * MB
_PATIENCE: Final = 5
_LIBRARIES: Final = "usr/lib/*/faketime/libfaketimeMT.so.1"
_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
# Seconds until a process has noticed that its clock jumped, and that the rest may take.
_NOTICED: Final = 1.2
_SLACK: Final = 20.0
_ASK: Final = aiohttp.ClientTimeout(total=30)
# Seconds; sessions expire after two days.
_JUMPS: Final = (-3650 * _DAY, -_DAY, -_HOUR, -30, 30, _HOUR, 3 * _DAY, 3650 * _DAY)


def _library() -> str | None:
    """Return where Debian's faketime has its library, or None."""
    return next((str(path) for path in Path("/").glob(_LIBRARIES)), None)


class FakedClock:
    """
    A clock that can be set, for one process of a `ForkServer` that can have such.

    What is monotonic stays so, and files keep the times that the system gives them.

    Args:
        file: Says how far it is off; blocking, as `set` is.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: float) -> None:
        """Have the clock be off by so much; its process sees it within a second."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+.0f}\n")
        draft.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that have a process live by it."""
        return {"FAKETIME_TIMESTAMP_FILE": str(self._file)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """What one try uploads, and which clock jumps when and where; all of it drawn."""

    content: bytes
    chunk_size: int
    parallel: int
    wait: float
    server_jump: int
    client_jump: int


def _draw(draw: random.Random) -> _Plot:
    size = draw.randrange(MIB, 3 * MIB)
    whose = draw.choice(("server", "client", "both"))
    return _Plot(
        content=draw.randbytes(size),
        chunk_size=draw.randrange(64 * KIB, 512 * KIB),
        parallel=draw.randint(1, 4),
        wait=draw.uniform(0, size / _RATE),
        server_jump=draw.choice(_JUMPS) if whose != "client" else 0,
        client_jump=draw.choice(_JUMPS) if whose != "server" else 0,
    )


class ClockCampaign(ForkedCampaign):
    """
    Lets clocks jump, forwards and backwards, by seconds and by years.

    Args:
        tries: Uploads of a full round.
    """

    def __init__(self, *, tries: int = 100) -> None:
        super().__init__("clock", tries=tries, at_once=8)

    def obstacle(self) -> str | None:
        """Return why no clock can be set here, or None."""
        if _library() is None:
            return "it needs faketime (on Debian: apt-get install faketime)"
        return super().obstacle()

    def environment(self) -> dict[str, str]:
        """Return the variables of processes that live by such clocks."""
        return {
            "LD_PRELOAD": _library() or "",
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload one file, with clocks that jump once, until it is there."""
        plot = _draw(draw)
        source = place / "try.bin"
        await asyncio.to_thread(source.write_bytes, plot.content)
        server_clock = await asyncio.to_thread(FakedClock, place / "server-clock")
        client_clock = await asyncio.to_thread(FakedClock, place / "client-clock")
        server = ForkedServer(
            forks, place / "store", environment=server_clock.environment
        )
        await server.start()

        async def upload(order: dict[str, Any]) -> Fork:
            return await forks.fork(
                _UPLOAD, order, environment=client_clock.environment
            )

        async with ShapedLink("127.0.0.1", server.port, total_rate=_RATE) as link:
            order = {
                "path": str(source),
                "url": f"http://127.0.0.1:{link.port}/",
                "session_dir": str(place / "sessions"),
                "chunk_size": plot.chunk_size,
                "parallel": plot.parallel,
                "compression": Compression.OFF.value,
            }
            client = await upload(order)
            await client.hear()
            await asyncio.sleep(plot.wait)
            await asyncio.to_thread(server_clock.set, plot.server_jump)
            await asyncio.to_thread(client_clock.set, plot.client_jump)
            findings.faults += bool(plot.server_jump) + bool(plot.client_jump)
            result = await hear_out(client, findings)
            for _ in range(_PATIENCE):
                if result is not None:
                    break
                findings.resumes += 1
                result = await hear_out(await upload(order), findings)
        await self._check(plot, StoreFolder(server.folder), result, findings)
        # A clock that did not jump would have proved nothing.
        await asyncio.sleep(_NOTICED)
        off = await _seconds_off(server.url)
        if abs(off - plot.server_jump) > _SLACK:
            findings.blame(f"the server's clock is off by {off:.0f} s")
        await server.stop()

    async def _check(
        self,
        plot: _Plot,
        store: StoreFolder,
        result: dict[str, Any] | None,
        findings: Findings,
    ) -> None:
        """Compare what is stored with the source."""
        expected = hashlib.sha256(plot.content).hexdigest()
        finals = await asyncio.to_thread(store.digests, "try.bin")
        jumps = f"server {plot.server_jump:+} s, client {plot.client_jump:+} s"
        if any(sha256 != expected for sha256 in finals):
            findings.blame(f"half a file stands under its name ({jumps})")
        if result is None:
            findings.failed += 1
            findings.complaints.append(f"an upload never came through ({jumps})")
        elif not finals:
            findings.lose(f"the file is said to be there and is not ({jumps})")


async def _seconds_off(url: str) -> float:
    """Return how far a server's clock is off, by the date of its answer."""
    async with (
        aiohttp.ClientSession(timeout=_ASK) as client,
        client.get(f"{url}healthz") as reply,
    ):
        date = email.utils.parsedate_to_datetime(reply.headers["Date"])
    return date.timestamp() - time.time()
