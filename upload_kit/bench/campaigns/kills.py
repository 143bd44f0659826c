"""Uploads whose client, server or both are killed with kill -9 at random moments."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from upload_kit.bench.campaigns.forked import ForkedCampaign, hear_out
from upload_kit.bench.campaigns.session_folders import (
    acknowledged_bytes,
    expire_sessions,
    read_sessions,
)
from upload_kit.bench.campaigns.targets import FolderTarget, server_target
from upload_kit.config import Compression
from upload_kit.units import KIB, MB, MIB

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from upload_kit.bench.campaigns.forks import Fork, ForkServer
    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.bench.campaigns.targets import Target

_UPLOAD: Final = "upload_kit.bench.campaigns.children:upload"
# Bytes a second: an upload takes long enough to be hit in the middle.
_RATE: Final = 12 * MB
# Times that an upload is gone on with before it counts as failed.
_PATIENCE: Final = 6


class Victim(StrEnum):
    """Who is killed."""

    CLIENT = "client"
    SERVER = "server"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What one try uploads, and when who is killed; all of it drawn."""

    content: bytes
    chunk_size: int
    parallel: int
    compression: Compression
    to_folder: bool
    """Whether it goes to a folder of this machine; only where the client dies."""

    kill_after: float
    """Seconds from the start of the upload until the first kill."""

    second_after: float
    """Seconds from the first kill to the second one, where both are killed."""

    client_first: bool
    """Which of both is killed first."""

    down_for: float
    """Seconds until the server is started again."""


def draw_plot(draw: random.Random) -> Plot:
    """Draw one try."""
    size = draw.randrange(MIB, 4 * MIB)
    to_folder = draw.random() < 0.25
    seconds = 0.05 if to_folder else size / _RATE
    return Plot(
        content=draw.randbytes(size),
        chunk_size=draw.randrange(64 * KIB, 512 * KIB),
        parallel=draw.randint(1, 4),
        compression=draw.choice((Compression.OFF, Compression.AUTO, Compression.ZSTD)),
        to_folder=to_folder,
        # The rest is what a client takes to start.
        kill_after=draw.uniform(0, 0.15 + 1.3 * seconds),
        second_after=draw.choice((0.0, draw.uniform(0, 0.2))),
        client_first=draw.random() < 0.5,
        down_for=draw.choice((0.0, draw.uniform(0, 0.5))),
    )


class KillCampaign(ForkedCampaign):
    """
    Kills one side or both in the middle of uploads, and goes on with them.

    Args:
        victim: Who is killed.

        tries: Uploads of a full round.
    """

    def __init__(self, victim: Victim, *, tries: int) -> None:
        super().__init__(f"kill/{victim}", tries=tries, at_once=4)
        self._victim = victim

    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload one file, kill, look, go on, and look at what is left."""
        plot = draw_plot(draw)
        await asyncio.to_thread((place / "folder").mkdir)
        source = place / f"try-{place.name}.bin"
        await asyncio.to_thread(source.write_bytes, plot.content)
        async with AsyncExitStack() as stack:
            target: Target = FolderTarget(place / "folder")
            if not (plot.to_folder and self._victim is Victim.CLIENT):
                made = server_target(forks, place / "store", _RATE)
                target = await stack.enter_async_context(made)
            scene = Scene(plot, self._victim, place, source, forks, target)
            await scene.play(findings)
            for leftover in await target.leftovers():
                findings.blame(f"{source.name}: {leftover}")
        for leftover in await expire_sessions(scene.sessions):
            findings.blame(f"{source.name}: {leftover}")


class Scene:
    """One try: a client, what it uploads to, and what becomes of them."""

    def __init__(  # noqa: PLR0917 (made in one place)
        self,
        plot: Plot,
        victim: Victim,
        place: Path,
        source: Path,
        forks: ForkServer,
        target: Target,
    ) -> None:
        self.sessions = place / "sessions"
        self._plot = plot
        self._victim = victim
        self._name = source.name
        self._forks = forks
        self._target = target
        self._sha256 = hashlib.sha256(plot.content).hexdigest()
        self._order: dict[str, Any] = {
            "path": str(source),
            "url": target.url,
            "session_dir": str(self.sessions),
            "chunk_size": plot.chunk_size,
            "parallel": plot.parallel,
            "compression": plot.compression.value,
        }

    async def play(self, findings: Findings) -> None:
        """Begin, kill, and go on until the file is there, or failed too often."""
        client = await self._forks.fork(_UPLOAD, self._order)
        await client.hear()
        await asyncio.sleep(self._plot.kill_after)
        await self._kill(client, findings)
        result = await hear_out(client, findings)
        for _ in range(_PATIENCE):
            await self._look(findings)
            if result is not None:
                await self._check(result, findings)
                return
            result = await self._go_on(findings)
        findings.failed += 1

    async def _kill(self, client: Fork, findings: Findings) -> None:
        """Kill whom the plot says, when it says; have the server come back."""
        plot, kills = self._plot, []
        if self._victim is not Victim.SERVER:
            kills.append(client.kill)
        if self._victim is not Victim.CLIENT:
            kills.insert(0 if plot.client_first else 1, self._target.kill)
        for number, kill in enumerate(kills):
            await asyncio.sleep(plot.second_after if number else 0)
            await kill()
            findings.faults += 1
        await self._look(findings)
        if self._victim is not Victim.CLIENT:
            await asyncio.sleep(plot.down_for)
            # Read first: a client that lives gets more acknowledged meanwhile.
            sessions = await read_sessions(self.sessions)
            await self._target.revive()
            for session in sessions:
                missing = await self._target.missing(session)
                if missing:
                    findings.lose(
                        f"{self._name}: {missing} acknowledged chunks were lost"
                    )

    async def _look(self, findings: Findings) -> None:
        """See that nothing but the whole file stands under the final name."""
        for sha256 in await self._target.finals(self._name):
            if sha256 != self._sha256:
                findings.blame(f"half of {self._name} stands under its name")

    async def _go_on(self, findings: Findings) -> dict[str, Any] | None:
        """Have a new process go on; see that it sends nothing acknowledged again."""
        findings.resumes += 1
        published = await self._target.finals(self._name)
        acknowledged = await acknowledged_bytes(self.sessions)
        client = await self._forks.fork(_UPLOAD, self._order)
        result = await hear_out(client, findings)
        if result is None or published:
            return result
        if result["bytes_resumed"] < acknowledged:
            findings.lose(
                f"{acknowledged} bytes of {self._name} were acknowledged, but only"
                f" {result['bytes_resumed']} were not sent again"
            )
        return result

    async def _check(self, result: dict[str, Any], findings: Findings) -> None:
        """Compare what a client says with what stands there."""
        finals = await self._target.finals(self._name)
        if not finals:
            findings.lose(f"{self._name} is said to be there and is not")
        if len(finals) > 1:
            findings.blame(f"{self._name} is stored {len(finals)} times")
        said = (result["size"], result["sha256"])
        if said != (len(self._plot.content), self._sha256):
            findings.blame(f"{self._name} is said to be {said}")
