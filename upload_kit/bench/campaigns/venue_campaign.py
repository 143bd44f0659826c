"""What campaigns share that upload to a venue."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from upload_kit.bench.campaigns.outcome import draw_for

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.bench.campaigns.runner import Tries
    from upload_kit.bench.campaigns.venues import Venue, VenueKind


class VenueTries(ABC):
    """
    A campaign that is under way; see `Tries`.

    Args:
        name: The campaign's.

        venue: Where to.

        place: Has a folder for sources and one for sessions.

        seed: Decides, with the name and a try's index, all of the try.
    """

    def __init__(self, name: str, venue: Venue, place: Path, seed: int) -> None:
        self._name = name
        self._venue = venue
        self._place = place
        self._seed = seed

    def draw(self, index: int) -> random.Random:
        """Return what decides one try."""
        return draw_for(self._seed, self._name, index)

    @abstractmethod
    async def attempt(self, index: int, findings: Findings) -> None:
        """Make one try."""

    async def conclude(self, findings: Findings) -> None:
        """See what is left once everything has expired."""
        for leftover in await self._venue.leftovers():
            findings.blame(leftover)


class VenueCampaign:
    """
    Many uploads of one kind to one venue.

    Args:
        kind: Where to.

        under_way: What makes its tries.

        family: Its name, before that of the venue.

        tries: Uploads of a full round.

        at_once: How many run beside one another.
    """

    def __init__(
        self,
        kind: VenueKind,
        under_way: type[VenueTries],
        *,
        family: str,
        tries: int,
        at_once: int,
    ) -> None:
        self.name = f"{family}/{kind.name}"
        self.tries = tries
        self.at_once = at_once
        self._kind = kind
        self._under_way = under_way

    def obstacle(self) -> str | None:
        """Return why the venue cannot run here, or None."""
        return self._kind.obstacle()

    @asynccontextmanager
    async def running(self, place: Path, seed: int) -> AsyncIterator[Tries]:
        """Start the venue."""
        for name in ("venue", "sources", "sessions"):
            await asyncio.to_thread((place / name).mkdir)
        async with self._kind.running(place / "venue") as venue:
            yield self._under_way(self.name, venue, place, seed)
