"""The journal of acknowledged chunks survives kills and is shared by processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from upload_kit.models import ChunkMetadata
from upload_kit.server.journal import Journal, format_lines, parse_lines

if TYPE_CHECKING:
    from pathlib import Path

CHUNKS = st.builds(
    ChunkMetadata,
    index=st.integers(0, 10**6),
    start=st.integers(0, 2**60),
    size=st.integers(0, 2**40),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)


def chunk(index: int) -> ChunkMetadata:
    return ChunkMetadata(index=index, start=index * 10, size=10, sha256=f"{index:064x}")


def test_lines_are_seen_by_who_wrote_them(tmp_path: Path) -> None:
    """What is appended is read back once."""
    journal = Journal(str(tmp_path / "j"), create=True)
    journal.append([chunk(0), chunk(1)])
    assert journal.tail() == [chunk(0), chunk(1)]
    assert journal.tail() == []
    journal.close()


def test_lines_are_seen_by_others(tmp_path: Path) -> None:
    """Two open journals of the same file see one another's lines, in order."""
    one = Journal(str(tmp_path / "j"), create=True)
    two = Journal(str(tmp_path / "j"))
    one.append([chunk(0)])
    two.append([chunk(1)])
    assert one.tail() == two.tail() == [chunk(0), chunk(1)]
    one.append([chunk(2)])
    assert two.tail() == [chunk(2)]
    one.close()
    two.close()


def test_more_than_one_read_of_lines(tmp_path: Path) -> None:
    """A journal of 20,000 chunks is read whole."""
    journal = Journal(str(tmp_path / "j"), create=True)
    journal.append([chunk(i) for i in range(20_000)])
    assert [c.index for c in journal.tail()] == list(range(20_000))
    journal.close()


@given(st.lists(CHUNKS, max_size=6), st.integers(0, 2000), st.lists(CHUNKS, max_size=3))
def test_torn_line_costs_itself_only(
    before: list[ChunkMetadata], cut: int, after: list[ChunkMetadata]
) -> None:
    """Cut off anywhere and continued, every whole line counts and no other does."""
    written = format_lines(before)
    torn = written[: cut % (len(written) + 1)]
    survivors = list(parse_lines(torn))
    assert survivors == before[: len(survivors)]
    assert len(before) - len(survivors) <= written[len(torn) :].count(b"\n")
    assert list(parse_lines(torn + format_lines(after))) == survivors + after


@given(st.binary(max_size=300))
def test_garbage_is_no_chunk(data: bytes) -> None:
    """Zeros and other remains of a power cut never pass for a chunk."""
    assert all(c.sha256 is not None for c in parse_lines(data + bytes(50)))
    assert list(parse_lines(format_lines([chunk(3)]) + data))[:1] == [chunk(3)]
