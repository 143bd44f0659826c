"""How a source is read follows from what the destination says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from upload_kit.config import TransferPolicy
from upload_kit.engine.fitting import lane_count, reading_options
from upload_kit.planning import Capabilities, Plan
from upload_kit.sources.memory import BytesSource
from upload_kit.units import MIB

if TYPE_CHECKING:
    from upload_kit.engine.reading import ReadingOptions

_SHA256: Final = frozenset({"sha256"})


async def _options(
    capabilities: Capabilities, *, chunk_size: int = MIB, whole_digest: bool = False
) -> ReadingOptions:
    """Return how 64 chunks are read, with 16 MiB of memory and eight lanes."""
    size = 64 * chunk_size
    source = BytesSource(b"", name="a")
    source.size = size
    policy = TransferPolicy(
        chunk_size=chunk_size,
        max_parallel=8,
        memory_budget=16 * MIB,
        whole_digest=whole_digest,
    )
    plan = Plan(size=size, chunk_size=chunk_size)
    lanes = lane_count(policy, capabilities, plan)
    return reading_options(source, policy, capabilities, plan=plan, lanes=lanes)


@pytest.mark.parametrize(
    ("capabilities", "by_prefix"),
    [
        pytest.param(Capabilities(lanes=1, whole_checksums=_SHA256), True, id="whole"),
        pytest.param(Capabilities(whole_checksums=_SHA256), False, id="in-any-order"),
        pytest.param(
            Capabilities(lanes=1, whole_checksums=_SHA256, checksums=_SHA256),
            False,
            id="chunks-too",
        ),
        pytest.param(Capabilities(lanes=1), False, id="nothing-compared"),
    ],
)
async def test_one_digest_where_one_is_enough(
    capabilities: Capabilities, *, by_prefix: bool
) -> None:
    """Where only the whole is compared, and chunks go in order."""
    options = await _options(capabilities)
    assert options.by_prefix is by_prefix
    assert options.whole_digest or not by_prefix


async def test_whoever_asks_for_the_whole_digest_gets_one_more() -> None:
    """It takes a digest of its own where chunks need theirs, and only there."""
    checked = Capabilities(lanes=1, checksums=_SHA256)
    assert not (await _options(checked, whole_digest=True)).by_prefix
    assert (await _options(Capabilities(lanes=1), whole_digest=True)).by_prefix


@pytest.mark.parametrize(
    "capabilities",
    [Capabilities(checksums=_SHA256), Capabilities(digest_first=True)],
    ids=["checked", "signed"],
)
async def test_a_digest_comes_first_where_it_travels_ahead(
    capabilities: Capabilities,
) -> None:
    """Whether it is compared with anything or not."""
    assert (await _options(capabilities)).digest_first
    assert not (await _options(Capabilities())).digest_first


@pytest.mark.parametrize(
    ("chunk_size", "streamed", "ahead"),
    [(MIB, False, 1), (4 * MIB, True, 4), (16 * MIB, True, 1), (32 * MIB, True, 1)],
    ids=["held", "four", "one", "larger-than-memory"],
)
async def test_what_is_read_ahead(
    chunk_size: int, ahead: int, *, streamed: bool
) -> None:
    """One chunk in memory; of those that are not held, what it would have room for."""
    options = await _options(Capabilities(checksums=_SHA256), chunk_size=chunk_size)
    assert (options.streamed, options.ahead) == (streamed, ahead)
