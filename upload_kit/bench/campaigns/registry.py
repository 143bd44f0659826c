"""Every campaign that this package brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upload_kit.bench.campaigns.clocks import ClockCampaign
from upload_kit.bench.campaigns.disks import DiskCampaign
from upload_kit.bench.campaigns.kills import KillCampaign, Victim
from upload_kit.bench.campaigns.leaks import LeakCampaign
from upload_kit.bench.campaigns.links import LinkCampaign
from upload_kit.bench.campaigns.loads import (
    BatchLoad,
    ServerSessionLoad,
    StoreLoad,
    UploadLoad,
)
from upload_kit.bench.campaigns.native_venue import (
    NativeVenue,
    OwnTusPartsVenue,
    OwnTusVenue,
)
from upload_kit.bench.campaigns.small_files import SmallFiles
from upload_kit.bench.campaigns.sources import SourceCampaign
from upload_kit.bench.campaigns.venues import LocalVenue, MemoryVenue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upload_kit.bench.campaigns.runner import Campaign
    from upload_kit.bench.campaigns.venues import VenueKind


def all_campaigns(
    venues: Iterable[VenueKind] = (), *, share: float = 1.0
) -> list[Campaign]:
    """
    Return the campaigns of a full round, in their order.

    Args:
        venues: Further places to upload to, besides those of this package.

        share: How much of a full load the loads are, 0 to 1; of all other campaigns
            the tries say that.
    """
    return [
        *(LinkCampaign(kind) for kind in (*_own_venues(), *venues)),
        KillCampaign(Victim.CLIENT, tries=300),
        KillCampaign(Victim.SERVER, tries=300),
        KillCampaign(Victim.BOTH, tries=100),
        SmallFiles(None, tries=200),
        *(SmallFiles(victim, tries=100) for victim in Victim),
        DiskCampaign(),
        ClockCampaign(),
        *(SourceCampaign(kind) for kind in (MemoryVenue(), LocalVenue())),
        UploadLoad(round(1000 * share)),
        BatchLoad(round(10_000 * share)),
        StoreLoad("json", round(10_000 * share)),
        StoreLoad("sqlite", round(10_000 * share)),
        ServerSessionLoad(round(10_000 * share)),
        LeakCampaign(round(4000 * share)),
    ]


def _own_venues() -> list[VenueKind]:
    return [
        MemoryVenue(),
        LocalVenue(),
        NativeVenue(),
        OwnTusVenue(),
        OwnTusPartsVenue(),
    ]
