"""Many small files, which share requests, through faults of the link or with kills."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from upload_kit.bench.campaigns.forked import ForkedCampaign
from upload_kit.bench.campaigns.kills import Victim
from upload_kit.bench.campaigns.session_folders import expire_sessions, read_sessions
from upload_kit.bench.campaigns.targets import server_target
from upload_kit.bench.campaigns.venues import StoreFolder
from upload_kit.bench.faults import FaultKind, FaultPlan
from upload_kit.models import UploadStatus
from upload_kit.units import KIB, MB

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from upload_kit.bench.campaigns.forks import Fork, ForkServer
    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.bench.campaigns.targets import Target

_UPLOAD: Final = "upload_kit.bench.campaigns.children:upload_small"
# Bytes a second: a hundred files take long enough to be hit in the middle.
_RATE: Final = 4 * MB
# Times that a client is started again before what is left counts as failed.
_PATIENCE: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPlot:
    """What one try uploads, and what happens to it; all of it drawn."""

    contents: dict[str, bytes]
    """The files, by name."""

    parallel: int
    plan: FaultPlan
    """Faults of the link."""

    kill_after: float
    """Seconds until the first kill."""

    second_after: float
    """Seconds from the first kill to the second one, where both are killed."""

    client_first: bool
    """Which of both is killed first."""


def draw_small_plot(draw: random.Random, victim: Victim | None) -> SmallPlot:
    """Draw one try: empty files, tiny ones, and some that fill a request."""
    ends = (0, 1, 1000, 1000, 16 * KIB, 16 * KIB, 64 * KIB)
    contents = {
        f"{number:03}.bin": draw.randbytes(draw.randint(0, draw.choice(ends)))
        for number in range(draw.randint(20, 120))
    }
    seconds = sum(map(len, contents.values())) / _RATE
    kinds = tuple(FaultKind)
    if draw.random() < 0.7:
        kinds = tuple(kind for kind in kinds if kind is not FaultKind.CORRUPT)
    return SmallPlot(
        contents=contents,
        parallel=draw.choice((1, 3, 16, 64)),
        plan=FaultPlan(
            seed=draw.randrange(1 << 32),
            share=draw.choice((0.3, 0.6, 0.9)) if victim is None else 0.0,
            kinds=kinds,
            within=draw.choice((4 * KIB, 64 * KIB, 512 * KIB)),
            max_seconds=draw.choice((0.05, 0.5)),
            endless=0.2,
        ),
        # The rest is what a client takes to start and to make its sessions.
        kill_after=draw.uniform(0, 0.4 + 1.3 * seconds),
        second_after=draw.choice((0.0, draw.uniform(0, 0.2))),
        client_first=draw.random() < 0.5,
    )


class SmallFiles(ForkedCampaign):
    """
    Uploads a hundred small files at once, again until all of them are there.

    Args:
        victim: Who is killed in the middle; None for nobody, and for a bad link.

        tries: How many make a full round.
    """

    def __init__(self, victim: Victim | None, *, tries: int) -> None:
        super().__init__(f"small/{victim or 'link'}", tries=tries, at_once=4)
        self._victim = victim

    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload, kill, look, go on, and look at what is left."""
        plot = draw_small_plot(draw, self._victim)
        findings.tries = len(plot.contents)
        sources = place / "sources"
        await asyncio.to_thread(_write, sources, plot.contents)
        async with AsyncExitStack() as stack:
            made = server_target(forks, place / "store", _RATE, plan=plot.plan)
            target = await stack.enter_async_context(made)
            scene = _Scene(plot, self._victim, place, forks=forks, target=target)
            await scene.play(findings)
            findings.faults += target.faults
            for leftover in await target.leftovers():
                findings.blame(leftover)
        for leftover in await expire_sessions(place / "sessions"):
            findings.blame(leftover)


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)


class _Scene:
    """One try: a client, a server, and what each says of the files."""

    def __init__(
        self,
        plot: SmallPlot,
        victim: Victim | None,
        place: Path,
        *,
        forks: ForkServer,
        target: Target,
    ) -> None:
        self._plot = plot
        self._victim = victim
        self._place = place
        self._forks = forks
        self._target = target
        self._store = StoreFolder(place / "store")
        self._right = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in plot.contents.items()
        }
        # A turned bit may make a key another one, and nothing else says so to a file
        # that goes alone.
        self._is_true = FaultKind.CORRUPT not in plot.plan.kinds or victim is not None
        self._said: set[str] = set()

    async def play(self, findings: Findings) -> None:
        """Begin, kill, and go on until all files are there, or too often."""
        client = await self._begin()
        if self._victim is not None:
            await self._kill(client, self._victim, findings)
        await self._hear(client, findings)
        for _ in range(_PATIENCE):
            if not self._left:
                break
            findings.resumes += 1
            await self._hear(await self._begin(), findings)
        findings.failed += len(self._left)
        for name, digests in (await self._look(findings)).items():
            if len(digests) > 1 and self._is_true:
                findings.blame(f"{name} is stored {len(digests)} times")

    @property
    def _left(self) -> list[str]:
        return [name for name in self._right if name not in self._said]

    async def _begin(self) -> Fork:
        sources = self._place / "sources"
        order: dict[str, Any] = {
            "paths": [str(sources / name) for name in self._left],
            "url": self._target.url,
            "session_dir": str(self._place / "sessions"),
            "parallel": self._plot.parallel,
        }
        client = await self._forks.fork(_UPLOAD, order)
        await client.hear()
        return client

    async def _kill(self, client: Fork, victim: Victim, findings: Findings) -> None:
        """Kill whom the plot says, when it says; have the server come back."""
        kills = []
        if victim is not Victim.SERVER:
            kills.append(client.kill)
        if victim is not Victim.CLIENT:
            kills.insert(0 if not self._plot.client_first else 1, self._target.kill)
        await asyncio.sleep(self._plot.kill_after)
        for number, kill in enumerate(kills):
            await asyncio.sleep(self._plot.second_after if number else 0)
            await kill()
            findings.faults += 1
        if victim is not Victim.CLIENT:
            await self._target.revive()

    async def _hear(self, client: Fork, findings: Findings) -> None:
        """Hear a client out, note what it or its sessions say to be there, and look."""
        heard = time.monotonic()
        while (said := await client.hear()) is not None:
            findings.stalled(time.monotonic() - heard)
            heard = time.monotonic()
            self._note(said, findings)
        await client.ended()
        for session in await read_sessions(self._place / "sessions"):
            if session.status is UploadStatus.COMPLETE:
                self._said.add(session.name)
        await self._look(findings)

    def _note(self, said: dict[str, Any], findings: Findings) -> None:
        if "refused" in said and self._is_true:
            findings.blame(f"{said['name']} gave up: {said['refused']}")
        if "sha256" in said:
            self._said.add(said["name"])
            if said["sha256"] != self._right[said["name"]]:
                findings.blame(f"the digest of {said['name']} is said to be another")
            if said["sent"] < len(self._plot.contents[said["name"]]):
                findings.blame(f"{said['name']} is said to be sent in {said['sent']}")

    async def _look(self, findings: Findings) -> dict[str, list[str]]:
        """Compare what stands there with the sources, and with what was said."""
        stored = await asyncio.to_thread(self._store.contents)
        for name, digests in stored.items():
            if set(digests) != {self._right.get(name)}:
                findings.blame(f"{name} is stored wrong")
        for name in self._said - stored.keys():
            findings.lose(f"{name} is said to be there and is not")
        return stored
