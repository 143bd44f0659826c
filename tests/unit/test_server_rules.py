"""The pure rules of uploads: sizes, places, what is missing, what is complete."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.models import ChunkMetadata
from upload_kit.server.config import ServerConfig
from upload_kit.server.discard import DiscardStorage
from upload_kit.server.documents import missing_ranges, total_chunks
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.rules import (
    NewUpload,
    begin,
    choose_chunk_size,
    place,
    settle,
)

if TYPE_CHECKING:
    from upload_kit.server.storage import StoredUpload

CONFIG = ServerConfig(
    directory="x", default_chunk=10, max_chunk=100, max_chunks=50, max_size=4000
)
SHA = "0" * 64


def upload(size: int | None, received: dict[int, int] | None = None) -> StoredUpload:
    """Return an upload in chunks of 10 bytes, of which some were received."""
    new = NewUpload(name="a", size=size)
    stored = DiscardStorage().create(begin(CONFIG, "me", new, 10))
    for index, count in (received or {}).items():
        stored.acknowledge(
            ChunkMetadata(index=index, start=10 * index, size=count, sha256=SHA)
        )
    return stored


def refused(call: Any, *arguments: Any, **named: Any) -> ProblemType:
    with pytest.raises(UploadProblem) as caught:
        call(*arguments, **named)
    return caught.value.type


@given(st.sets(st.integers(0, 60)), st.integers(61, 70))
def test_missing_and_received_make_the_whole(received: set[int], total: int) -> None:
    """Every index is received or in exactly one range; ranges do not touch."""
    ranges = missing_ranges(received, total)
    missing = [index for start, end in ranges for index in range(start, end)]
    assert sorted([*missing, *received]) == list(range(total))
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_missing_without_a_total() -> None:
    """While the size is not known, only gaps are missing."""
    assert missing_ranges([0, 3], None) == [[1, 3]]
    assert missing_ranges([], None) == []


@pytest.mark.parametrize(
    ("size", "total"), [(None, None), (0, 1), (1, 1), (10, 1), (11, 2), (100, 10)]
)
def test_total_chunks(size: int | None, total: int | None) -> None:
    """An empty file has one chunk; a size that is not known has no number of them."""
    assert total_chunks(upload(size).info) == total


def test_chunk_size_grows_where_there_were_too_many() -> None:
    """Without a wish the default, or as large as the number of chunks asks for."""
    large = ServerConfig(directory="x", max_chunks=10)
    assert choose_chunk_size(CONFIG, NewUpload(name="a", size=30)) == 10
    assert choose_chunk_size(large, NewUpload(name="a", size=600 << 20)) == 60 << 20


@pytest.mark.parametrize(
    ("size", "chunk_size"),
    [
        pytest.param(10, 101, id="chunk-too-large"),
        pytest.param(51, 1, id="too-many-chunks"),
        pytest.param(4000, 79, id="one-chunk-too-many"),
    ],
)
def test_chunk_size_is_refused(size: int, chunk_size: int) -> None:
    """Neither too large chunks nor too many of them."""
    new = NewUpload(name="a", size=size, chunk_size=chunk_size)
    assert refused(choose_chunk_size, CONFIG, new) is ProblemType.TOO_LARGE


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        (NewUpload(name="a", size=4001), ProblemType.TOO_LARGE),
        (NewUpload(name="n" * 4097), ProblemType.MALFORMED),
        (NewUpload(name="a", metadata={"k": "v" * 20_000}), ProblemType.TOO_LARGE),
        (
            NewUpload(name="a", metadata={f"{i}": "" for i in range(65)}),
            ProblemType.TOO_LARGE,
        ),
    ],
    ids=["size", "name", "metadata-bytes", "metadata-keys"],
)
def test_new_upload_is_refused(new: NewUpload, problem: ProblemType) -> None:
    """What a client says of a file is bounded."""
    assert refused(begin, CONFIG, "me", new, 10) is problem


def test_identifiers_are_never_the_same() -> None:
    """Each upload gets 128 random bits."""
    new = NewUpload(name="a")
    found = {begin(CONFIG, "me", new, 10).upload_id for _ in range(1000)}
    assert len(found) == 1000
    assert all(len(upload_id) == 32 for upload_id in found)


@given(st.integers(1, 400), st.data())
def test_chunks_tile_the_file(size: int, data: st.DataObject) -> None:
    """Chunks follow one another without gap or overlap, up to the last byte."""
    stored = upload(size)
    total = total_chunks(stored.info)
    assert total is not None
    chunks = [place(CONFIG, stored, index, None) for index in range(total)]
    assert chunks[0].start == 0
    assert chunks[-1].end == size
    assert all(a.end == b.start for a, b in pairwise(chunks))


@pytest.mark.parametrize(
    ("index", "size", "problem"),
    [
        pytest.param(0, 9, ProblemType.SIZE_MISMATCH, id="short"),
        pytest.param(0, 11, ProblemType.SIZE_MISMATCH, id="long"),
        pytest.param(2, 10, ProblemType.SIZE_MISMATCH, id="last-as-long-as-others"),
        pytest.param(3, 1, ProblemType.MALFORMED, id="beyond-the-end"),
        pytest.param(10**18, 1, ProblemType.MALFORMED, id="far-beyond-the-end"),
    ],
)
def test_chunk_has_no_place(index: int, size: int, problem: ProblemType) -> None:
    """A chunk of a file of 25 bytes that is not one of its three is refused."""
    assert refused(place, CONFIG, upload(25), index, size) is problem


def test_places_while_the_size_is_not_known() -> None:
    """Any full chunk has a place, and a short one where it can be the last."""
    stored = upload(None, {3: 10})
    assert place(CONFIG, stored, 7, 10).start == 70
    assert place(CONFIG, stored, 7, 4).end == 74
    assert refused(place, CONFIG, stored, 2, 4) is ProblemType.SIZE_MISMATCH
    assert refused(place, CONFIG, stored, 2, 11) is ProblemType.SIZE_MISMATCH
    assert refused(place, CONFIG, stored, 50, 10) is ProblemType.MALFORMED
    assert refused(place, CONFIG, stored, 2, None) is ProblemType.LENGTH_REQUIRED


def test_complete_upload_is_settled() -> None:
    """All chunks and the right size make a whole; the empty file needs no chunk."""
    assert settle(upload(25, {0: 10, 1: 10, 2: 5}), 25).size == 25
    assert settle(upload(None, {0: 10, 1: 3}), 13).size == 13
    assert settle(upload(None, {0: 10, 1: 3}), None).size == 13
    assert settle(upload(0), None).size == 0
    assert settle(upload(None), 0).size == 0


@pytest.mark.parametrize(
    ("stored", "size", "problem"),
    [
        pytest.param(upload(25, {0: 10}), None, ProblemType.INCOMPLETE, id="missing"),
        pytest.param(upload(25), 26, ProblemType.SIZE_MISMATCH, id="another-size"),
        pytest.param(
            upload(None, {0: 10}), 11, ProblemType.INCOMPLETE, id="missing-last"
        ),
        pytest.param(
            upload(None, {0: 10, 1: 3}), 15, ProblemType.SIZE_MISMATCH, id="short-last"
        ),
        pytest.param(
            upload(None, {0: 10, 1: 3}), 10, ProblemType.SIZE_MISMATCH, id="too-much"
        ),
        pytest.param(upload(None, {1: 10}), None, ProblemType.INCOMPLETE, id="gap"),
    ],
)
def test_incomplete_upload_is_not_settled(
    stored: StoredUpload, size: int | None, problem: ProblemType
) -> None:
    """Nothing is published that has a gap, or another size than was said."""
    assert refused(settle, stored, size) is problem
