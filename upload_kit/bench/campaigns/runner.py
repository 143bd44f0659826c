"""Runs campaigns: a few tries at once, bounded in time, to be gone on with."""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.bench.campaigns.outcome import CONCLUSION, Findings, Outcome
from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

# Complaints of one try that are told; the log has all of them.
_MOST_COMPLAINTS: Final = 20
# Seconds that one try may take before it counts as a hang.
_TRY_SECONDS: Final = 300.0


class Tries(Protocol):
    """A campaign that is under way, with its servers running."""

    async def attempt(self, index: int, findings: Findings) -> None:
        """Make one try; everything in it follows from the seed and the index."""
        ...

    async def conclude(self, findings: Findings) -> None:
        """Look at what all tries together have left behind."""
        ...


class Campaign(Protocol):
    """Many tries of one kind."""

    @property
    def name(self) -> str:
        """In the table, and on the command line."""
        ...

    @property
    def tries(self) -> int:
        """How many make a full round."""
        ...

    @property
    def at_once(self) -> int:
        """How many run beside one another."""
        ...

    def obstacle(self) -> str | None:
        """Return why it cannot run on this machine, or None; it may block."""
        ...

    def running(self, place: Path, seed: int) -> AbstractAsyncContextManager[Tries]:
        """
        Start what it needs, and end it with the context.

        Args:
            place: An empty folder of its own.

            seed: Decides, with the campaign's name and a try's index, all of the try.
        """
        ...


class Listener(Protocol):
    """Hears how a run goes."""

    def complain(self, text: str) -> None:
        """Hear that something was lost or wrong."""
        ...

    def count(self, text: str) -> None:
        """Hear how far it is; after every try."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How much is run."""

    seed: int = 0
    """Another seed, another run."""

    tries: int | None = None
    """Tries of each campaign; None for a full round."""

    first: int = 0
    """Index of the first one."""

    minutes: float | None = None
    """No try begins later than this; None for no limit."""

    log: Path | None = None
    """One line of JSON a try; tries that it has already are not made again."""


class CampaignRun:
    """
    Runs campaigns one after another.

    Args:
        campaigns: Which ones.

        options: How much of them.

        place: Folder for their files; removing it is the caller's.

        listener: Told how it goes.
    """

    def __init__(
        self,
        campaigns: Sequence[Campaign],
        options: RunOptions,
        place: Path,
        *,
        listener: Listener,
    ) -> None:
        self._campaigns = campaigns
        self._options = options
        self._place = place
        self._listener = listener
        self._began = time.monotonic()
        self.outcomes: list[Outcome] = []
        self.obstacles: dict[str, str] = {}
        self.unfinished: list[str] = []

    async def run(self) -> list[Outcome]:
        """
        Run them, and return what came of every try, those of the log among them.

        Raises:
            ConfigurationError: The log belongs to a run with another seed.
        """
        done = await asyncio.to_thread(self._read_log)
        for campaign in self._campaigns:
            mine = [one for one in done if one.campaign == campaign.name]
            self.outcomes += mine
            obstacle = await asyncio.to_thread(campaign.obstacle)
            if obstacle is not None:
                self.obstacles[campaign.name] = obstacle
                continue
            await self._run(campaign, {one.index for one in mine})
        return self.outcomes

    async def _run(self, campaign: Campaign, done: set[int]) -> None:
        """Run what is left of one campaign."""
        first, tries = self._options.first, self._options.tries or campaign.tries
        wanted = [i for i in range(first, first + tries) if i not in done]
        if not wanted:
            return
        if self._is_over():
            self.unfinished.append(campaign.name)
            return
        place = self._place / campaign.name.replace("/", "-")
        await asyncio.to_thread(place.mkdir)
        began = time.monotonic()
        async with campaign.running(place, self._options.seed) as running:
            indexes = iter(wanted)
            async with asyncio.TaskGroup() as group:
                for _ in range(campaign.at_once):
                    group.create_task(self._work(campaign, running, indexes))
            findings = Findings(tries=0)
            await running.conclude(findings)
        if next(indexes, None) is not None:
            self.unfinished.append(campaign.name)
        seed, seconds = self._options.seed, time.monotonic() - began
        await self._note(
            findings.outcome(campaign.name, seed, CONCLUSION, seconds=seconds)
        )

    async def _work(
        self, campaign: Campaign, running: Tries, indexes: Iterator[int]
    ) -> None:
        """Make one try after another until none is left, or the time is over."""
        while not self._is_over():
            index = next(indexes, None)
            if index is None:
                return
            await self._note(await self._try(campaign.name, running, index))

    async def _try(self, name: str, running: Tries, index: int) -> Outcome:
        findings, began = Findings(), time.monotonic()
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                await running.attempt(index, findings)
        except TimeoutError:
            findings.blame(f"the try did not end within {_TRY_SECONDS:.0f} s")
        except Exception as error:  # noqa: BLE001 (an error of no known type is a find)
            findings.blame("".join(traceback.format_exception(error)))
        seconds = time.monotonic() - began
        return findings.outcome(name, self._options.seed, index, seconds=seconds)

    def _is_over(self) -> bool:
        limit = self._options.minutes
        return limit is not None and time.monotonic() - self._began > 60 * limit

    async def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self._options.log is not None:
            await asyncio.to_thread(_append, self._options.log, outcome)
        where = f"{outcome.campaign}, try {outcome.index}"
        for complaint in outcome.complaints[:_MOST_COMPLAINTS]:
            self._listener.complain(f"{where}: {complaint}")
        more = len(outcome.complaints) - _MOST_COMPLAINTS
        if more > 0:
            self._listener.complain(f"{where}: and {more} more")
        self._listener.count(self._progress(outcome.campaign))

    def _progress(self, name: str) -> str:
        mine = [one for one in self.outcomes if one.campaign == name]
        count = sum(one.index != CONCLUSION for one in mine)
        faults = sum(one.faults for one in mine)
        bad = sum(one.lost + one.wrong for one in mine)
        return (
            f"{time.monotonic() - self._began:6.0f} s  {name}: {count} tries,"
            f" {faults} faults, {bad} lost or wrong"
        )

    def _read_log(self) -> list[Outcome]:
        log = self._options.log
        if log is None or not log.exists():
            return []
        done = []
        for line in log.read_text().splitlines():
            # A run that was killed in mid-line made that try for nothing.
            with suppress(ConfigurationError):
                done.append(Outcome.from_json(line))
        if any(one.seed != self._options.seed for one in done):
            raise ConfigurationError(
                f"{log} belongs to a run with seed {done[0].seed}, not"
                f" {self._options.seed}."
            )
        return done


def _append(log: Path, outcome: Outcome) -> None:
    """Add a line; it stands alone even after one that was never finished."""
    with log.open("a") as file:
        file.write(f"\n{outcome.to_json()}\n")
