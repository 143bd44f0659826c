"""`upload-kit bench --faults`: run campaigns, show progress, print the table."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from upload_kit.bench.campaigns.outcome import table
from upload_kit.bench.campaigns.runner import CampaignRun, RunOptions
from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from upload_kit.bench.campaigns.runner import Campaign

T = TypeVar("T")

# Seconds between two lines that say how far it is.
_PACE = 5.0


class Progress:
    """Prints how a run goes: every complaint, and now and then how far it is."""

    def __init__(self) -> None:
        self._counted = 0.0

    def complain(self, text: str) -> None:
        """Print it."""
        click.echo(text, err=True)

    def count(self, text: str) -> None:
        """Print it, unless the last one was just now."""
        now = time.monotonic()
        if now - self._counted >= _PACE:
            self._counted = now
            click.echo(text, err=True)


def campaign_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that say which campaigns are run, and how much of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final = (
    click.option(
        "--seed", default=0, show_default=True, help="Another seed, another run."
    ),
    click.option(
        "--tries",
        type=click.IntRange(min=1),
        help="Tries of each campaign.  [default: a full round]",
    ),
    click.option(
        "--first",
        type=click.IntRange(min=0),
        default=0,
        help="Number of the first try, to repeat one of them.",
    ),
    click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="Begin no try after so many minutes.",
    ),
    click.option(
        "--only",
        multiple=True,
        metavar="NAME",
        help="Run this campaign, or those whose names begin so; may be repeated.",
    ),
    click.option(
        "--log",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write a JSON object a try to this file, and leave out those it has: a run"
        " that was interrupted goes on where it was.",
    ),
)


def choose(campaigns: Iterable[Campaign], only: Sequence[str]) -> list[Campaign]:
    """
    Return the campaigns that are asked for.

    Args:
        campaigns: All of them.

        only: Names, or what names begin with; none of them means all. Where it is the
            name of one, it means that one.

    Raises:
        ConfigurationError: There is none of this name.
    """
    everything = list(campaigns)
    names = [one.name for one in everything]
    wanted: set[str] = set()
    for asked in only:
        meant = [name for name in names if name.startswith(asked)]
        if not meant:
            raise ConfigurationError(
                f"There is no campaign {asked!r}.",
                hint=f"There are {', '.join(names)}.",
            )
        wanted |= {asked} if asked in meant else set(meant)
    return [one for one in everything if not only or one.name in wanted]


def run_campaigns(
    campaigns: Sequence[Campaign],
    options: RunOptions,
    *,
    folder: Path | None = None,
    as_json: bool = False,
) -> bool:
    """
    Run campaigns and print what came of them.

    Args:
        campaigns: Which ones.

        options: How much of them.

        folder: Where their files go; None for a temporary folder.

        as_json: Print a JSON object a try instead of the table.

    Returns:
        Whether nothing was lost, nothing was wrong, and every limit was kept.
    """
    # Every retry is a warning, and retries are what this is about.
    logger = logging.getLogger("upload_kit")
    usual = logger.level
    logger.setLevel(logging.CRITICAL)
    place = Path(tempfile.mkdtemp(prefix="upload_kit-campaigns-", dir=folder))
    run = CampaignRun(campaigns, options, place, listener=Progress())
    try:
        outcomes = asyncio.run(run.run())
    finally:
        shutil.rmtree(place, ignore_errors=True)
        logger.setLevel(usual)
    if as_json:
        for outcome in outcomes:
            click.echo(outcome.to_json())
    elif outcomes:
        click.echo(f"\n{table(outcomes)}\n")
    for name, obstacle in run.obstacles.items():
        click.echo(f"Left out: {name}: {obstacle}", err=True)
    if run.unfinished:
        click.echo(f"The time was up in: {', '.join(run.unfinished)}.", err=True)
    return all(outcome.is_good for outcome in outcomes)
