"""A file as the one part of a form arrives unharmed, however the wire cuts it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upload_kit.server.multipart import PartReader, parse_boundary
from upload_kit.server.problems import UploadProblem

BOUNDARY = b"xYz"
HEAD = b'--xYz\r\nContent-Disposition: form-data; filename="a"\r\nX-Y:  z \r\n\r\n'
END = b"\r\n--xYz--\r\n"

# Pieces of what separates parts, so that files look as much like the end as they can.
LOOKALIKES = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"--", b"\r\n--", b"xY", b"\r\n--xY", b"a"]
    ),
    max_size=12,
).map(b"".join)


def read(body: bytes, cuts: list[int]) -> tuple[bytes, dict[str, str]]:
    """Feed a body in pieces; return the file and the part's headers."""
    reader, found = PartReader(BOUNDARY), b""
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        found += reader.feed(body[start:end])
    reader.finish()
    assert reader.headers is not None
    return found, reader.headers


@given(LOOKALIKES | st.binary(max_size=300), st.lists(st.integers(0, 500), max_size=30))
@example(b"", [])
@example(b"\r\n--xY", list(range(80)))
def test_file_is_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    """Bytes out are bytes in, for every way to cut the body into pieces."""
    if b"\r\n--xYz" in b"\r\n" + data:
        return  # The sender of such a file has to choose another boundary.
    found, headers = read(HEAD + data + END, cuts)
    assert found == data
    assert headers["x-y"] == "z"


def test_epilogue_is_ignored() -> None:
    """What stands behind the last boundary is nothing."""
    assert read(HEAD + b"data" + END + b"whatever", [])[0] == b"data"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no boundary at all, but text", id="preamble"),
        pytest.param(HEAD, id="no-end"),
        pytest.param(HEAD + b"data\r\n--xY", id="cut-off-in-the-boundary"),
        pytest.param(HEAD + b"data\r\n--xYz", id="cut-off-behind-the-boundary"),
        pytest.param(HEAD + b"a\r\n" + HEAD + b"b" + END, id="two-parts"),
        pytest.param(b"--xYz\r\nno colon\r\n\r\ndata" + END, id="broken-header"),
        pytest.param(b"--xYz\r\nA: " + b"x" * 40_000, id="endless-headers"),
    ],
)
def test_other_body_is_refused(body: bytes) -> None:
    """Anything but one whole part is refused, and a cut-off one never passes."""
    with pytest.raises(UploadProblem):
        read(body, list(range(0, len(body), 1000)))


def test_preamble_is_not_waited_through() -> None:
    """The very first bytes have to be the boundary: nothing is searched for ever."""
    reader = PartReader(BOUNDARY)
    with pytest.raises(UploadProblem):
        reader.feed(b"x" * 100)


def test_headers_without_end_are_not_kept() -> None:
    """A part whose headers never end does not fill the memory."""
    reader = PartReader(BOUNDARY)
    reader.feed(b"--" + BOUNDARY + b"\r\nX: ")
    with pytest.raises(UploadProblem, match="too long"):
        reader.feed(b"y" * 20_000)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/plain", None),
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
    ],
)
def test_boundary_is_found(content_type: str, expected: bytes | None) -> None:
    """The boundary is read, quoted or not; other types have none."""
    assert parse_boundary(content_type) == expected


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=abc",
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="a\r\nb"',
    ],
)
def test_bad_boundary_is_refused(content_type: str) -> None:
    """A multipart body without a proper boundary cannot be read."""
    with pytest.raises(UploadProblem):
        parse_boundary(content_type)
