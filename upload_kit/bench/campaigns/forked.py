"""What campaigns share whose clients and servers are forked processes."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from upload_kit.bench.campaigns.forks import ForkServer
from upload_kit.bench.campaigns.outcome import draw_for

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from upload_kit.bench.campaigns.forks import Fork
    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.bench.campaigns.runner import Tries


class ForkedCampaign(ABC):
    """
    A campaign of which every try has a folder and forked processes of its own.

    Args:
        name: In the table, and on the command line.

        tries: How many make a full round.

        at_once: How many run beside one another.
    """

    def __init__(self, name: str, *, tries: int = 1, at_once: int = 1) -> None:
        self.name = name
        self.tries = tries
        self.at_once = at_once

    def obstacle(self) -> str | None:
        """Return why it cannot run on this machine, or None; it may block."""
        return ForkServer.obstacle()

    def environment(self) -> Mapping[str, str]:
        """Return variables that its processes need; it may block."""
        return {}

    @asynccontextmanager
    async def running(self, place: Path, seed: int) -> AsyncIterator[Tries]:
        """Start what forks clients and servers."""
        async with ForkServer(await asyncio.to_thread(self.environment)) as forks:
            yield _ForkedTries(self, forks, place, seed)

    @abstractmethod
    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """
        Make one try.

        Args:
            forks: Where processes come from.

            place: An empty folder.

            draw: Decides what is left to chance.

            findings: Where to put what is seen.
        """


class _ForkedTries:
    """A campaign that is under way; see `Tries`."""

    def __init__(
        self, campaign: ForkedCampaign, forks: ForkServer, place: Path, seed: int
    ) -> None:
        self._campaign = campaign
        self._forks = forks
        self._place = place
        self._seed = seed

    async def attempt(self, index: int, findings: Findings) -> None:
        """Make one try in a folder of its own."""
        draw = draw_for(self._seed, self._campaign.name, index)
        place = self._place / f"{index:05}"
        await asyncio.to_thread(place.mkdir)
        await self._campaign.play(self._forks, place, draw, findings)

    async def conclude(self, findings: Findings) -> None:
        """Do nothing: each try has looked at what it left behind."""


async def hear_out(client: Fork, findings: Findings) -> dict[str, Any] | None:
    """Hear an uploading client out; None unless it said that the file is there."""
    result: dict[str, Any] | None = None
    heard = time.monotonic()
    while (said := await client.hear()) is not None:
        findings.stalled(time.monotonic() - heard)
        heard = time.monotonic()
        result = said.get("result")
    await client.ended()
    return result
