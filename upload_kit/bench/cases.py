"""What is measured: each case with the figure that it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from upload_kit.config import DEFAULT_CHUNK_SIZE
from upload_kit.models import Layer, Record
from upload_kit.units import GIB, KIB, MB


class Storing(StrEnum):
    """What the server does with what it received."""

    PAGE_CACHE = "page-cache"
    """Written, not synced: as the peers' servers do it."""

    FSYNC = "fsync"
    """Synced before it is acknowledged."""

    DISCARD = "discard"
    """Hashed and thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec(Record):
    """A shaped link between client and server."""

    rate_per_connection: float | None = None
    """Bytes a second of one connection; None for no limit."""

    total_rate: float | None = None
    """Bytes a second of all connections; None for no limit."""

    latency: float = 0.0
    """Seconds one way; a round trip takes twice as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Record):
    """One thing to measure."""

    name: str
    """How the row is called."""

    layer: Layer
    """Which uploader."""

    size: int
    """Bytes of a file."""

    files: int = 1
    """How many files, in one batch if more than one."""

    chunk_size: int = DEFAULT_CHUNK_SIZE
    """Bytes."""

    parallel: int = 1
    """Chunks at once; the foundation layer has one."""

    limit: float | None = None
    """Bandwidth limit, bytes a second; the polish layer only."""

    whole_digest: bool = False
    """Compare the digest of the whole file too; the polish layer always does."""

    sparse: bool = False
    """A file without data blocks: what is measured is memory, not the disk."""

    storing: Storing = Storing.PAGE_CACHE
    """What the server does with the bytes."""

    link: LinkSpec | None = None
    """None for plain loopback."""

    ideal: float | None = None
    """Bytes a second that the link and the chunks allow; None where a raw socket sent
    in the same round is the measure."""

    target: str = ""
    """What the row is held against, in words."""


def link_cases(
    *,
    size: int = 100 * MB,
    chunk_size: int = 5 * MB,
    link: LinkSpec | None = None,
    parallel: tuple[int, ...] = (3, 5),
    limit: float = 10 * MB,
) -> list[Case]:
    """
    Return the five rows of the layers over a slow link.

    Args:
        size: Bytes of the file.

        chunk_size: Bytes a chunk.

        link: Its rate for one connection is what the layers are held against.

        parallel: Numbers of lanes.

        limit: Bandwidth limit of the last row, bytes a second.
    """
    link = link or LinkSpec(rate_per_connection=4 * MB)

    def ideal(lanes: int) -> float | None:
        return ideal_rate(link, size, chunk_size, lanes)

    def case(name: str, layer: Layer, lanes: int, target: str) -> Case:
        return Case(
            name=name,
            layer=layer,
            size=size,
            chunk_size=chunk_size,
            parallel=lanes,
            link=link,
            ideal=ideal(lanes),
            target=target,
        )

    most = parallel[-1]
    limited = case("polish, limited", Layer.POLISH, most, "0.97 to 1.01 of the limit")
    reachable = min(limit, limited.ideal or limit)
    return [
        case("foundation", Layer.FOUNDATION, 1, "0.97 of the link"),
        *(
            case(f"feature x{lanes}", Layer.FEATURE, lanes, "0.96 of the ideal")
            for lanes in parallel
        ),
        case(f"polish x{most}", Layer.POLISH, most, f"0.97 of feature x{most}"),
        Case.from_dict({**limited.to_dict(), "limit": limit, "ideal": reachable}),
    ]


def ideal_rate(link: LinkSpec, size: int, chunk_size: int, lanes: int) -> float | None:
    """
    Return the bytes a second that whole chunks over so many lanes can reach.

    Twenty chunks over three lanes take seven rounds, so three lanes make 20/7 = 2.86
    times what one makes, not three times.
    """
    if link.rate_per_connection is None:
        return link.total_rate
    chunks = -(-size // chunk_size)
    rounds = -(-chunks // lanes)
    rate = link.rate_per_connection * chunks / rounds
    return rate if link.total_rate is None else min(rate, link.total_rate)


LOOPBACK: Final = [
    Case(
        name="feature, chunks checked",
        layer=Layer.FEATURE,
        size=GIB,
        parallel=3,
        target="0.30 of a raw socket",
    ),
    Case(
        name="feature, whole file checked too",
        layer=Layer.FEATURE,
        size=GIB,
        parallel=3,
        whole_digest=True,
        target="0.20 of a raw socket",
    ),
]
SMALL: Final = [
    Case(
        name="2,000 files of 16 KiB",
        layer=Layer.FEATURE,
        size=16 * KIB,
        files=2000,
        parallel=16,
        target="1,500 files/s",
    ),
]
MEMORY: Final = [
    Case(
        name="1 GiB",
        layer=Layer.POLISH,
        size=GIB,
        parallel=3,
        target="120 MB at most",
    ),
    Case(
        name="20 GiB sparse",
        layer=Layer.POLISH,
        size=20 * GIB,
        parallel=3,
        sparse=True,
        storing=Storing.DISCARD,
        target="120 MB at most",
    ),
]
