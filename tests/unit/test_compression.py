"""Content coding of chunks: where it pays, and never where it does not."""

from __future__ import annotations

import gzip
import itertools
import random
from typing import TYPE_CHECKING, Final

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.compression import Compressor
from upload_kit.config import Compression
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH: Final = frozenset({"gzip", "zstd"})
TEXT: Final = memoryview(b"time,place,value\n2026-11-23,here,1.25\n" * 20_000)
NOISE: Final = memoryview(random.Random(2).randbytes(len(TEXT)))
SLOW: Final = 1000.0
DECODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.decompress,
    "zstd": lambda coded: zstandard.ZstdDecompressor().decompress(coded),
}


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_coded_chunk_decodes_to_itself(coding: str) -> None:
    """By the decoder that any server has."""
    encoded = await Compressor(Compression(coding), BOTH).encode(TEXT, None)
    assert encoded is not None
    assert encoded[0] == coding
    assert len(encoded[1]) < len(TEXT) / 2
    assert DECODERS[coding](bytes(encoded[1])) == TEXT


@given(data=st.binary(max_size=2000), times=st.integers(1, 50))
async def test_any_chunk_decodes_to_itself(data: bytes, times: int) -> None:
    """Or goes as it is, and is never larger than it was."""
    view = memoryview(data * times)
    for coding, decode in DECODERS.items():
        encoded = await Compressor(Compression(coding), BOTH).encode(view, None)
        if encoded is not None:
            assert decode(bytes(encoded[1])) == view
            assert len(encoded[1]) <= len(view)


@pytest.mark.parametrize("wanted", [*Compression])
async def test_empty_chunk_goes_as_it_is(wanted: Compression) -> None:
    """There is nothing to shrink."""
    assert await Compressor(wanted, BOTH).encode(memoryview(b""), SLOW) is None


@pytest.mark.parametrize("wanted", [*Compression])
async def test_noise_goes_as_it_is(wanted: Compression) -> None:
    """What is compressed already does not shrink, even if asked to."""
    compressor = Compressor(wanted, BOTH)
    assert await compressor.encode(NOISE, SLOW) is None
    assert compressor.ratio is None


@pytest.mark.parametrize(
    ("wanted", "accepted", "coding"),
    [
        (Compression.OFF, BOTH, None),
        (Compression.GZIP, BOTH, "gzip"),
        (Compression.ZSTD, BOTH, "zstd"),
        (Compression.AUTO, BOTH, "zstd"),
        (Compression.AUTO, {"gzip"}, "gzip"),
        (Compression.ZSTD, {"gzip"}, None),
        (Compression.AUTO, {"br"}, None),
        (Compression.GZIP, set[str](), None),
    ],
    ids=lambda value: (
        "+".join(sorted(value)) if isinstance(value, set | frozenset) else str(value)
    ),
)
async def test_coding_is_both_wanted_and_accepted(
    wanted: Compression, accepted: set[str], coding: str | None
) -> None:
    """A server that does not know a coding never gets it."""
    compressor = Compressor(wanted, frozenset(accepted))
    assert compressor.is_off is (coding is None)
    encoded = await compressor.encode(TEXT, SLOW)
    assert (encoded[0] if encoded else None) == coding


async def test_automatic_waits_until_the_link_is_known() -> None:
    """The first chunk goes plain, and measures."""
    compressor = Compressor(Compression.AUTO, BOTH)
    assert await compressor.encode(TEXT, None) is None
    assert await compressor.encode(TEXT, SLOW) is not None


async def test_automatic_does_not_pay_on_a_fast_link() -> None:
    """A link faster than the compressor takes chunks as they are."""
    compressor = Compressor(Compression.AUTO, BOTH)
    assert await compressor.encode(TEXT, 1e15) is None


async def test_speed_of_the_compressor_is_measured() -> None:
    """A sample that takes a second makes 256 KiB/s: it pays below that only."""
    ticks = itertools.count()
    for wire_rate, pays in ((255 * KIB, True), (257 * KIB, False)):
        compressor = Compressor(
            Compression.AUTO, BOTH, clock=lambda: float(next(ticks))
        )
        assert (await compressor.encode(TEXT, wire_rate) is not None) is pays


async def test_automatic_looks_again_after_a_while() -> None:
    """A file may begin with noise and go on with text; samples cost little."""
    compressor = Compressor(Compression.AUTO, BOTH)
    assert await compressor.encode(NOISE, SLOW) is None
    tries = [await compressor.encode(TEXT, SLOW) for _ in range(17)]
    assert [each is not None for each in tries] == [False] * 16 + [True]


async def test_ratio_is_counted_over_coded_chunks_only() -> None:
    """For the history: what went in and what came out."""
    compressor = Compressor(Compression.ZSTD, BOTH)
    encoded = await compressor.encode(TEXT, None)
    await compressor.encode(NOISE, None)
    assert encoded is not None
    assert compressor.ratio == len(encoded[1]) / len(TEXT) < 0.5


async def test_large_chunk_is_sampled_first() -> None:
    """A sample that does not shrink spares the rest of the work."""
    data = bytearray(4 * MIB)
    data[: 256 * KIB] = NOISE[: 256 * KIB]
    compressor = Compressor(Compression.AUTO, BOTH)
    assert await compressor.encode(memoryview(data), SLOW) is None
    assert await Compressor(Compression.ZSTD, BOTH).encode(memoryview(data), SLOW)
