"""What is measured: each case with the figure that it is held against."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from upload_kit.config import DEFAULT_CHUNK_SIZE
from upload_kit.errors import ConfigurationError
from upload_kit.models import Layer
from upload_kit.records import Record
from upload_kit.units import (
    GIB,
    KIB,
    MB,
    format_rate,
    parse_duration,
    parse_rate,
)


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

    def __str__(self) -> str:
        """Write it as `parse_link` reads it."""
        parts = []
        if self.rate_per_connection is not None:
            parts.append(f"{format_rate(self.rate_per_connection)} per connection")
        if self.total_rate is not None:
            parts.append(f"{format_rate(self.total_rate)} in all")
        if self.latency:
            parts.append(f"{2000 * self.latency:g} ms round trip")
        return ", ".join(parts) or "loopback"


_LINK_PART: Final = re.compile(
    r"(?P<amount>\S+(?: ?[kMGT]?i?B/s| ?m?s)?)\s+"
    r"(?P<what>per connection|in all|total|latency|round trip)",
    re.IGNORECASE,
)


def parse_link(text: str | LinkSpec | None) -> LinkSpec | None:
    """
    Read a link such as `4MB/s per connection, 100MB/s in all, 50ms round trip`.

    Args:
        text: Parts separated by commas; `latency` is one way. None or `loopback` is a
            link without limits.

    Raises:
        ConfigurationError: A part of it says nothing.
    """
    if text is None or isinstance(text, LinkSpec):
        return text
    if text.strip().lower() == "loopback":
        return None
    rate, total, latency = None, None, 0.0
    for part in text.split(","):
        match = _LINK_PART.fullmatch(part.strip())
        if match is None:
            raise ConfigurationError(
                f"Not a link: {part.strip()!r}.",
                hint="Write it like '4MB/s per connection, 50ms round trip'.",
            )
        amount, what = match["amount"], match["what"].lower()
        if what == "per connection":
            rate = parse_rate(amount)
        elif what in {"in all", "total"}:
            total = parse_rate(amount)
        else:
            latency = parse_duration(amount) / (2 if what == "round trip" else 1)
    return LinkSpec(rate_per_connection=rate, total_rate=total, latency=latency)


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


SLOW_LINK: Final = LinkSpec(rate_per_connection=4 * MB)
"""What one connection makes on many a shared line."""


def layer_cases(
    *,
    size: int = 100 * MB,
    chunk_size: int = 5 * MB,
    link: LinkSpec | None = SLOW_LINK,
    parallel: tuple[int, ...] = (3, 5),
    limit: float | None = 10 * MB,
    layers: tuple[Layer, ...] = tuple(Layer),
) -> list[Case]:
    """
    Return the rows that compare the layers.

    Args:
        size: Bytes of the file.

        chunk_size: Bytes a chunk.

        link: What lies between client and server; None for loopback.

        parallel: Numbers of lanes; the polish layer takes the last one.

        limit: Bandwidth limit of one more row of the polish layer, bytes a second;
            None for no such row.

        layers: Which layers.
    """
    one = Case(
        name="foundation",
        layer=Layer.FOUNDATION,
        size=size,
        chunk_size=chunk_size,
        link=link,
        ideal=ideal_rate(link, size, chunk_size, 1),
        target="0.97 of the link",
    )
    features = [
        replace(
            one,
            name=f"feature x{lanes}",
            layer=Layer.FEATURE,
            parallel=lanes,
            ideal=ideal_rate(link, size, chunk_size, lanes),
            target="0.96 of the ideal",
        )
        for lanes in parallel
    ]
    polish = replace(
        features[-1],
        name=f"polish x{parallel[-1]}",
        layer=Layer.POLISH,
        target=f"0.97 of feature x{parallel[-1]}",
    )
    cases = [one, *features, polish]
    if limit is not None:
        limited = replace(
            polish,
            name=f"polish x{parallel[-1]}, {format_rate(limit)}",
            limit=limit,
            ideal=limit if polish.ideal is None else min(limit, polish.ideal),
            target="0.97 to 1.01 of the limit",
        )
        cases.append(limited)
    return [case for case in cases if case.layer in layers]


def ideal_rate(
    link: LinkSpec | None, size: int, chunk_size: int, lanes: int
) -> float | None:
    """
    Return the bytes a second that whole chunks over so many lanes can reach.

    Twenty chunks over three lanes take seven rounds, so three lanes make 20/7 = 2.86
    times what one makes, not three times.
    """
    if link is None or link.rate_per_connection is None:
        return None if link is None else link.total_rate
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
