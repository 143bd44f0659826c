"""
Every campaign, those included that need servers which are only there for tests.

`make prove` runs it: `python -m tests.campaigns.prove [--only NAME] [--tries N] ...`.
"""

from __future__ import annotations

from typing import Any

import click

from tests.campaigns.venues import peer_venues
from upload_kit.bench.campaigns.command import (
    campaign_options,
    choose,
    run_campaigns,
)
from upload_kit.bench.campaigns.registry import all_campaigns
from upload_kit.bench.campaigns.runner import RunOptions


@click.command()
@campaign_options
def prove(only: tuple[str, ...], **options: Any) -> None:
    """Look for lost and wrong bytes at every destination."""
    campaigns = choose(all_campaigns(peer_venues()), only)
    good = run_campaigns(campaigns, RunOptions(**options))
    click.get_current_context().exit(0 if good else 1)


if __name__ == "__main__":
    prove()
