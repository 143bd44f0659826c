"""What came of tries: counted, added up, shown as a table."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upload_kit.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONCLUSION: Final = -1
"""The index of what a campaign found once all its tries were done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Record):
    """Something measured, with the limit that it is held against."""

    name: str
    """What was measured, with its unit."""

    value: float
    """What came out."""

    limit: float | None = None
    """What it must not be above; None for no limit."""

    @property
    def is_kept(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Record):
    """What came of one try; of many, once they are added up."""

    campaign: str
    """Which campaign."""

    seed: int
    """With the campaign's name and the index, it decides everything in the try."""

    index: int
    """Which try, from 0; `CONCLUSION` for what was found after the last one."""

    tries: int = 1
    """Uploads that were begun."""

    faults: int = 0
    """Faults that struck, kills among them."""

    resumes: int = 0
    """Times that an upload was gone on with, by the same process or a new one."""

    failed: int = 0
    """Uploads that said in the end that they failed."""

    lost: int = 0
    """Acknowledged chunks that were gone, and files that were said to be there."""

    wrong: int = 0
    """Stored files that differ from their source, half files under a final name, and
    things left behind for ever."""

    longest_stall: float = 0.0
    """Seconds without any movement at most."""

    seconds: float = 0.0
    """How long the try took; of a conclusion, how long the whole campaign did."""

    complaints: tuple[str, ...] = ()
    """What was lost or wrong, in words."""

    figures: tuple[Figure, ...] = ()
    """What else was measured."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost or wrong, and every figure is within its limit."""
        kept = all(figure.is_kept for figure in self.figures)
        return kept and not (self.lost or self.wrong)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What one try finds as it goes; `outcome` is what came of it."""

    tries: int = 1
    faults: int = 0
    resumes: int = 0
    failed: int = 0
    lost: int = 0
    wrong: int = 0
    longest_stall: float = 0.0
    complaints: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def lose(self, complaint: str) -> None:
        """Note that something acknowledged is gone."""
        self.lost += 1
        self.complaints.append(complaint)

    def blame(self, complaint: str) -> None:
        """Note that something is wrong."""
        self.wrong += 1
        self.complaints.append(complaint)

    def stalled(self, seconds: float) -> None:
        """Note a time without movement."""
        self.longest_stall = max(self.longest_stall, seconds)

    def outcome(
        self, campaign: str, seed: int, index: int, *, seconds: float
    ) -> Outcome:
        """Return what came of the try."""
        return Outcome(
            campaign=campaign,
            seed=seed,
            index=index,
            tries=self.tries,
            faults=self.faults,
            resumes=self.resumes,
            failed=self.failed,
            lost=self.lost,
            wrong=self.wrong,
            longest_stall=self.longest_stall,
            seconds=seconds,
            complaints=tuple(self.complaints),
            figures=tuple(self.figures),
        )


def draw_for(seed: int, campaign: str, index: int) -> random.Random:
    """
    Return the generator that decides everything that is left to chance in one try.

    Example:
        >>> draw_for(7, "memory", 3).random() == draw_for(7, "memory", 3).random()
        True
    """
    return random.Random(f"{seed}/{campaign}/{index}")  # noqa: S311 (to be repeated)


def add_up(outcomes: Sequence[Outcome]) -> Outcome:
    """
    Return many tries of one campaign as one.

    Of figures with the same name the largest one counts. Tries run beside one another,
    so the time of all of them is what the conclusions say.
    """
    largest: dict[str, Figure] = {}
    for figure in (figure for one in outcomes for figure in one.figures):
        known = largest.setdefault(figure.name, figure)
        if figure.value > known.value:
            largest[figure.name] = figure
    first = outcomes[0]
    return Outcome(
        campaign=first.campaign,
        seed=first.seed,
        index=first.index,
        tries=sum(one.tries for one in outcomes),
        faults=sum(one.faults for one in outcomes),
        resumes=sum(one.resumes for one in outcomes),
        failed=sum(one.failed for one in outcomes),
        lost=sum(one.lost for one in outcomes),
        wrong=sum(one.wrong for one in outcomes),
        longest_stall=max(one.longest_stall for one in outcomes),
        seconds=sum(one.seconds for one in outcomes if one.index == CONCLUSION),
        complaints=tuple(text for one in outcomes for text in one.complaints),
        figures=tuple(largest.values()),
    )


def by_campaign(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Add up the tries of each campaign, in the order in which they first come."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.campaign, []).append(outcome)
    return [add_up(group) for group in groups.values()]


_HEADINGS: Final = (
    "campaign",
    "tries",
    "faults",
    "resumes",
    "failed",
    "lost",
    "wrong",
    "longest stall",
    "seconds",
)


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the table of all campaigns, and under it what else was measured."""
    sums = by_campaign(outcomes)
    rows = [_HEADINGS, *(_cells(one) for one in sums)]
    lines = _aligned(rows)
    figures = [(one.campaign, figure) for one in sums for figure in one.figures]
    if figures:
        measured = [
            (name, figure.name, _number(figure.value), _limit(figure))
            for name, figure in figures
        ]
        lines += ["", *_aligned([("campaign", "figure", "value", ""), *measured])]
    return "\n".join(lines)


def _cells(one: Outcome) -> tuple[str, ...]:
    return (
        one.campaign,
        *(f"{n:,}" for n in (one.tries, one.faults, one.resumes)),
        *(f"{n:,}" for n in (one.failed, one.lost, one.wrong)),
        f"{one.longest_stall:.1f} s",
        f"{one.seconds:.0f}",
    )


def _limit(figure: Figure) -> str:
    if figure.limit is None:
        return ""
    word = "at most" if figure.is_kept else "ABOVE"
    return f"{word} {_number(figure.limit)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Pad each column; all but the first are numbers, and stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
