"""Which bytes go in which chunk, whatever the source and the destination."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from upload_kit.errors import ConfigurationError
from upload_kit.planning import Capabilities, Plan, plan_chunks
from upload_kit.units import GIB, KIB, MIB

ANYTHING = Capabilities()
CHUNK = 10


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        pytest.param(0, [0], id="empty"),
        pytest.param(1, [1], id="one-byte"),
        pytest.param(CHUNK - 1, [9], id="one-less"),
        pytest.param(CHUNK, [10], id="one-chunk"),
        pytest.param(CHUNK + 1, [10, 1], id="one-more"),
        pytest.param(2 * CHUNK - 1, [10, 9], id="two-less-one"),
        pytest.param(2 * CHUNK, [10, 10], id="two-chunks"),
        pytest.param(7 * CHUNK + 3, [10] * 7 + [3], id="many"),
    ],
)
def test_file_is_split_at_every_boundary(size: int, sizes: list[int]) -> None:
    """Every chunk is full but the last; an empty file has one chunk of no bytes."""
    plan = Plan(size=size, chunk_size=CHUNK)
    chunks = list(plan.chunks())
    assert [chunk.size for chunk in chunks] == sizes
    assert [chunk.start for chunk in chunks] == [CHUNK * i for i in range(len(sizes))]
    assert [chunk.index for chunk in chunks] == list(range(len(sizes)))
    assert plan.total_chunks == len(sizes)


@given(size=st.integers(0, 2_000), chunk_size=st.integers(1, 300))
def test_chunks_cover_the_source_exactly(size: int, chunk_size: int) -> None:
    """No byte twice, none left out, in order; none but an empty file's is empty."""
    chunks = list(Plan(size=size, chunk_size=chunk_size).chunks())
    assert chunks[0].start == 0
    assert chunks[-1].end == size
    for before, after in pairwise(chunks):
        assert before.end == after.start
        assert before.size == chunk_size
    assert all(chunk.size for chunk in chunks) == (size > 0)


@given(size=st.integers(0, 2**60), chunk_size=st.integers(1, 2**40))
def test_plan_of_a_huge_file_is_no_list(size: int, chunk_size: int) -> None:
    """The last chunk is known at once, whatever their number."""
    plan = Plan(size=size, chunk_size=chunk_size)
    assert plan.total_chunks is not None
    last = plan.chunk(plan.total_chunks - 1)
    assert last.end == size
    with pytest.raises(IndexError):
        plan.chunk(plan.total_chunks)


@pytest.mark.parametrize("index", [-1, 3])
def test_chunk_that_is_not_there_has_no_plan(index: int) -> None:
    """An index out of range is an IndexError, as of a sequence."""
    with pytest.raises(IndexError):
        Plan(size=25, chunk_size=CHUNK).chunk(index)


def test_unknown_size_gives_chunks_without_end() -> None:
    """All of them full; the source tells when it ends."""
    plan = Plan(size=None, chunk_size=CHUNK)
    assert plan.total_chunks is None
    assert [chunk.end for chunk in islice(plan.chunks(), 4)] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("limits", "size", "wanted", "fitted"),
    [
        pytest.param({}, 100, 7, 7, id="nothing-to-fit"),
        pytest.param({"min_chunk": 8}, 100, 7, 8, id="least"),
        pytest.param({"max_chunk": 6}, 100, 7, 6, id="most"),
        pytest.param({"chunk_multiple": 5}, 100, 7, 10, id="rounded-up"),
        pytest.param(
            {"chunk_multiple": 4, "max_chunk": 7}, 100, 7, 4, id="rounded-below-most"
        ),
        pytest.param({"max_chunks": 3}, 100, 7, 34, id="few-chunks"),
        pytest.param({"max_chunks": 1}, 100, 7, 100, id="one-piece"),
        pytest.param({"max_chunks": 1}, 0, 7, 7, id="one-piece-empty"),
        pytest.param(
            {"max_chunks": 10_000, "min_chunk": 5 * MIB, "max_chunk": 5 * GIB},
            100 * GIB,
            5 * MIB,
            -(-100 * GIB // 10_000),
            id="s3",
        ),
        pytest.param(
            {"chunk_multiple": 256 * KIB}, 10**9, 300_000, 512 * KIB, id="gcs"
        ),
        pytest.param({"max_chunk": 6}, None, 7, 6, id="unknown-length"),
    ],
)
def test_chunk_size_fits_the_destination(
    limits: dict[str, Any], size: int | None, wanted: int, fitted: int
) -> None:
    """The wanted size gives way to what the destination can take."""
    capabilities = Capabilities(unknown_length=True, **limits)
    assert plan_chunks(size, wanted, capabilities).chunk_size == fitted


@given(
    size=st.none() | st.integers(0, 10**7),
    wanted=st.integers(1, 10**6),
    min_chunk=st.integers(1, 5_000),
    max_chunk=st.none() | st.integers(1, 10**6),
    multiple=st.integers(1, 3_000),
    max_chunks=st.none() | st.integers(2, 500),
)
def test_plan_breaks_no_limit_or_is_refused(
    *,
    size: int | None,
    wanted: int,
    min_chunk: int,
    max_chunk: int | None,
    multiple: int,
    max_chunks: int | None,
) -> None:
    """There is no plan that the destination would refuse half-way."""
    assume(max_chunk is None or max_chunk >= min_chunk)
    limits = Capabilities(
        min_chunk=min_chunk,
        max_chunk=max_chunk,
        chunk_multiple=multiple,
        max_chunks=max_chunks,
        unknown_length=True,
    )
    try:
        plan = plan_chunks(size, wanted, limits)
    except ConfigurationError:
        return
    assert plan.chunk_size >= min_chunk
    assert plan.chunk_size % multiple == 0
    assert max_chunk is None or plan.chunk_size <= max_chunk
    if plan.total_chunks is not None and max_chunks is not None:
        assert plan.total_chunks <= max_chunks


@pytest.mark.parametrize(
    ("limits", "size", "message"),
    [
        pytest.param({}, None, "must know the size", id="length-wanted"),
        pytest.param(
            {"max_chunks": 1, "unknown_length": True}, None, "one piece", id="one-piece"
        ),
        pytest.param({"max_size": 99}, 100, "is more than", id="too-big"),
        pytest.param(
            {"max_chunks": 3, "max_chunk": 30}, 100, "3 chunks", id="too-many"
        ),
        pytest.param(
            {"max_chunk": 3, "chunk_multiple": 4}, 9, "does not fit", id="contradiction"
        ),
    ],
)
def test_what_cannot_fit_is_refused_before_a_byte_goes(
    limits: dict[str, Any], size: int | None, message: str
) -> None:
    """The error names the destination, the limit and a way out."""
    with pytest.raises(ConfigurationError, match=message) as refused:
        plan_chunks(size, 10, Capabilities(**limits), where="here")
    assert "here" in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("size", [99, 100], ids=str)
def test_largest_file_is_still_taken(size: int) -> None:
    """A limit is the last size that works."""
    assert plan_chunks(size, 10, Capabilities(max_size=100)).size == size
