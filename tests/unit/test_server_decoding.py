"""Content codings are undone in bounded steps."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.server.decoding import DECODERS
from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}
CODINGS = pytest.mark.parametrize("coding", sorted(ENCODERS))


def decode(coding: str, pieces: list[bytes], limit: int) -> bytes:
    found: list[bytes] = []
    decoder = DECODERS[coding](limit, lambda step: found.append(bytes(step)))
    decoder.decode(pieces)
    decoder.finish()
    return b"".join(found)


def test_every_coding_is_tested() -> None:
    """A coding that is offered is one that is tried here."""
    assert set(DECODERS) == set(ENCODERS)


@CODINGS
@given(data=st.binary(max_size=5000), cut=st.integers(1, 5000))
def test_bytes_come_back(coding: str, data: bytes, cut: int) -> None:
    """Whatever was encoded is decoded, in pieces of any size."""
    body = ENCODERS[coding](data)
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)]
    assert decode(coding, pieces, len(data)) == data


@CODINGS
def test_no_byte_beyond_the_limit(coding: str) -> None:
    """One byte more than announced is refused."""
    with pytest.raises(UploadProblem) as caught:
        decode(coding, [ENCODERS[coding](b"12345")], 4)
    assert caught.value.type is ProblemType.TOO_LARGE


@CODINGS
def test_bomb_costs_no_memory(coding: str) -> None:
    """256 MiB in a few KiB end at the limit, with a few steps of it in memory."""
    bomb = ENCODERS[coding](bytes(256 * MIB))
    seen = 0

    def count(step: bytes) -> None:
        nonlocal seen
        seen += len(step)

    decoder = DECODERS[coding](5 * MIB, count)
    tracemalloc.start()
    try:
        with pytest.raises(UploadProblem):
            decoder.decode([bomb])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen <= 5 * MIB
    assert peak < 2 * MIB


@CODINGS
@pytest.mark.parametrize("garbage", [b"garbage", b"\x00" * 100])
def test_garbage_is_malformed(coding: str, garbage: bytes) -> None:
    """What is no such coding is a malformed request, not a failure of ours."""
    with pytest.raises(UploadProblem) as caught:
        decode(coding, [garbage], 1000)
    assert caught.value.type is ProblemType.MALFORMED


def test_gzip_that_is_cut_off_is_refused() -> None:
    """A gzip body says where it ends, so less than all is noticed at once."""
    body = gzip.compress(random.Random(1).randbytes(1000))
    with pytest.raises(UploadProblem):
        decode("gzip", [body[:-1]], 1000)


@pytest.mark.parametrize("tail", [[b"tail"], [b"", b"tail"]])
def test_gzip_with_a_tail_is_refused(tail: list[bytes]) -> None:
    """Nothing may stand behind the end."""
    with pytest.raises(UploadProblem):
        decode("gzip", [gzip.compress(b"data"), *tail], 1000)


def test_huge_zstd_window_is_refused() -> None:
    """A frame may not ask for more memory than RFC 9659 allows."""
    parameters = zstandard.ZstdCompressionParameters(
        compression_level=1, window_log=27, write_content_size=False
    )
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = writer.compress(b"x" * 1000) + writer.flush()
    with pytest.raises(UploadProblem) as caught:
        decode("zstd", [body], 1000)
    assert caught.value.type is ProblemType.MALFORMED
