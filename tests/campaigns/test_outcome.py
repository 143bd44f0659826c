"""What campaigns say: sums, tables, seeds, and runs that are gone on with."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from upload_kit.bench.campaigns.command import choose, run_campaigns
from upload_kit.bench.campaigns.outcome import (
    CONCLUSION,
    Figure,
    Findings,
    Outcome,
    by_campaign,
    draw_for,
    table,
)
from upload_kit.bench.campaigns.registry import all_campaigns
from upload_kit.bench.campaigns.runner import CampaignRun, RunOptions
from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Listening:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.counts: list[str] = []

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def count(self, text: str) -> None:
        self.counts.append(text)


class Dice:
    """A campaign that throws dice; a six is wrong, and a one is an accident."""

    name = "dice"
    tries = 20
    at_once = 3

    def __init__(self, obstacle: str | None = None) -> None:
        self.thrown: dict[int, int] = {}
        self._obstacle = obstacle

    def obstacle(self) -> str | None:
        return self._obstacle

    @asynccontextmanager
    async def running(self, place: Path, seed: int) -> AsyncIterator[Dice]:
        self._seed = seed
        yield self

    async def attempt(self, index: int, findings: Findings) -> None:
        spots = draw_for(self._seed, self.name, index).randint(1, 6)
        self.thrown[index] = spots
        findings.faults += spots
        if spots == 6:
            findings.blame("a six")
        if spots == 1:
            raise ValueError("the die fell off the table")

    async def conclude(self, findings: Findings) -> None:
        findings.figures.append(Figure(name="throws", value=len(self.thrown)))


async def throw(place: Path, dice: Dice, **options: object) -> CampaignRun:
    run = CampaignRun(
        [dice],
        RunOptions(**options),  # type: ignore[arg-type] # each test knows which
        place,
        listener=Listening(),
    )
    await run.run()
    return run


async def test_same_seed_gives_the_same_tries(tmp_path: Path) -> None:
    """A run can be repeated; another seed is another run."""
    runs = [Dice() for _ in range(3)]
    for dice, seed in zip(runs, (1, 1, 2), strict=True):
        place = tmp_path / str(id(dice))
        place.mkdir()
        await throw(place, dice, seed=seed)
    assert runs[0].thrown == runs[1].thrown
    assert runs[0].thrown != runs[2].thrown
    assert len(runs[0].thrown) == Dice.tries


async def test_one_try_can_be_repeated_alone(tmp_path: Path) -> None:
    """The number of a try is all that is needed besides the seed."""
    (tmp_path / "all").mkdir()
    (tmp_path / "one").mkdir()
    whole, one = Dice(), Dice()
    await throw(tmp_path / "all", whole, seed=5)
    await throw(tmp_path / "one", one, seed=5, first=13, tries=1)
    assert one.thrown == {13: whole.thrown[13]}


async def test_every_find_is_told_and_counted(tmp_path: Path) -> None:
    """Blame and unexpected errors both count as wrong, and are told in words."""
    dice = Dice()
    run = await throw(tmp_path, dice, seed=3, tries=40)
    (total,) = by_campaign(run.outcomes)
    spots = list(dice.thrown.values())
    assert total.tries == 40
    assert total.faults == sum(spots)
    assert total.wrong == spots.count(6) + spots.count(1) > 0
    assert not total.is_good
    listening = run._listener
    assert isinstance(listening, Listening)
    assert sum("a six" in text for text in listening.complaints) == spots.count(6)
    assert sum("off the table" in t for t in listening.complaints) == spots.count(1)
    assert listening.counts


async def test_run_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    """What was tried before is not tried again, and counts all the same."""
    log = tmp_path / "log.json"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    await throw(tmp_path / "a", Dice(), seed=4, tries=7, log=log)
    with log.open("a") as torn:
        torn.write('{"campaign":"dice","seed":4,"in')
    second = Dice()
    run = await throw(tmp_path / "b", second, seed=4, tries=12, log=log)
    assert sorted(second.thrown) == list(range(7, 12))
    (total,) = by_campaign(run.outcomes)
    assert total.tries == 12
    indexes = [one.index for one in run.outcomes if one.index != CONCLUSION]
    assert sorted(indexes) == list(range(12))


async def test_log_of_another_seed_is_refused(tmp_path: Path) -> None:
    """Tries of two seeds are never added up."""
    log = tmp_path / "log.json"
    (tmp_path / "a").mkdir()
    await throw(tmp_path / "a", Dice(), seed=1, tries=2, log=log)
    with pytest.raises(ConfigurationError, match="seed 1"):
        await throw(tmp_path, Dice(), seed=2, tries=2, log=log)


async def test_time_limit_ends_a_run_between_tries(tmp_path: Path) -> None:
    """What was not begun in time is named."""
    run = await throw(tmp_path, Dice(), seed=1, minutes=1e-9)
    assert run.unfinished == ["dice"]
    assert run.outcomes == []


async def test_campaign_that_cannot_run_says_why(tmp_path: Path) -> None:
    """It is left out, and neither good nor bad."""
    run = await throw(tmp_path, Dice("no dice"), seed=1)
    assert run.obstacles == {"dice": "no dice"}
    assert run.outcomes == []


@pytest.mark.parametrize(
    ("seed", "good"), [(1, False), (7, True)], ids=["something", "nothing"]
)
def test_command_fails_if_something_was_found(
    seed: int, *, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs it hears what, and sees the table all the same."""
    assert run_campaigns([Dice()], RunOptions(seed=seed, tries=2)) is good
    said = capsys.readouterr()
    assert ("a six" in said.err or "off the table" in said.err) is not good
    assert said.out.split()[:3] == ["campaign", "tries", "faults"]


def test_table_adds_up_and_shows_broken_limits() -> None:
    """A row a campaign; a figure above its limit is seen at once."""
    figure = Figure(name="loop blocked, ms", value=180.0, limit=100.0)
    tries = [
        Outcome(campaign="a", seed=0, index=i, faults=600, longest_stall=i / 2)
        for i in range(3)
    ]
    end = Outcome(
        campaign="a", seed=0, index=CONCLUSION, tries=0, seconds=7.0, figures=(figure,)
    )
    text = table([*tries, end])
    assert text.splitlines()[1].split() == ["a", "3", "1,800", *"0000", "1.0", "s", "7"]
    assert "ABOVE 100" in text
    assert not end.is_good


def test_outcome_survives_json() -> None:
    """A line of the log is the outcome."""
    figure = Figure(name="x", value=1.5, limit=None)
    outcome = Outcome(
        campaign="a", seed=1, index=2, complaints=("one", "two"), figures=(figure,)
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        pytest.param((), {"link/tus", "link/tus-parts", "leak"}, id="all"),
        pytest.param(("link",), {"link/tus", "link/tus-parts"}, id="kind"),
        pytest.param(("link/tus",), {"link/tus"}, id="whole-name"),
        pytest.param(("link/tus-", "leak"), {"link/tus-parts", "leak"}, id="two"),
    ],
)
def test_campaigns_are_chosen_by_name(only: tuple[str, ...], chosen: set[str]) -> None:
    """What names begin with means all of them; a whole name means that one."""
    names = {one.name for one in choose(all_campaigns(), only)}
    assert names & {"link/tus", "link/tus-parts", "leak"} == chosen


def test_campaign_that_is_none_is_refused() -> None:
    """The hint says which there are."""
    with pytest.raises(ConfigurationError, match="no campaign 'lonk'") as refused:
        choose(all_campaigns(), ["lonk"])
    assert "link/native" in str(refused.value)
