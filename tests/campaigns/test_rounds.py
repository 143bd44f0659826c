"""A short round of every campaign; `make prove` runs the full ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.campaigns.venues import peer_venues
from upload_kit.bench.campaigns.outcome import add_up
from upload_kit.bench.campaigns.registry import all_campaigns
from upload_kit.bench.campaigns.runner import CampaignRun, RunOptions

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.bench.campaigns.runner import Campaign

# Of a full load.
SHARE: Final = 0.01
TRIES: Final = {"link": 3, "source": 3, "kill": 2, "disk": 2}


class Silent:
    """Hears how a run goes, and keeps what was lost or wrong."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def count(self, text: str) -> None:
        """Ignore it."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "campaign",
    [
        pytest.param(campaign, id=campaign.name)
        for campaign in all_campaigns(peer_venues(), share=SHARE)
    ],
)
async def test_short_round(campaign: Campaign, tmp_path: Path) -> None:
    """Nothing is lost and nothing is wrong, and nothing is held on to."""
    tries = TRIES.get(campaign.name.partition("/")[0], 1)
    listener = Silent()
    options = RunOptions(tries=tries)
    run = CampaignRun([campaign], options, tmp_path, listener=listener)
    outcomes = await run.run()
    if run.obstacles:
        pytest.skip(run.obstacles[campaign.name])
    total = add_up(outcomes)
    assert (total.lost, total.wrong) == (0, 0), "\n".join(listener.complaints)
    if campaign.name == "leak":
        # Those of loads depend on what else the machine does.
        assert [figure for figure in total.figures if not figure.is_kept] == []
    assert total.tries >= tries
