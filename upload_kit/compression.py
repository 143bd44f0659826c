"""
Content coding of chunks, where it pays.

It pays when the coded chunk is on the wire sooner than the plain one would be: the data
must shrink, and the compressor must be faster than the link. Both are measured as the
upload goes; on a fast link, or with data that is compressed already, chunks go plain.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, Final

from upload_kit.config import Compression
from upload_kit.threads import in_thread
from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

# A chunk that shrinks by less is not worth the other side's work.
_WORTHWHILE: Final = 0.9
# Bytes of a chunk that are tried first, and how many chunks go plain after a failure.
_SAMPLE: Final = 256 * KIB
_SKIP_AFTER_FAILURE: Final = 16
# gzip's level 1 and zstd's level 1: 127 and 403 MB/s on one core for CSV, at ratios of
# 0.39 and 0.33; higher levels cost ten times as much for a few percent.
_GZIP_LEVEL: Final = 1
_ZSTD_LEVEL: Final = 1
_GZIP_WINDOW: Final = 31


def _gzip(view: memoryview) -> bytes:
    return zlib.compress(view, _GZIP_LEVEL, wbits=_GZIP_WINDOW)


def _zstd(view: memoryview) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(view)


_CODERS: Final[dict[str, Callable[[memoryview], bytes]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
}


class Compressor:
    """
    Decides chunk by chunk whether to compress, for one upload.

    Args:
        wanted: What the user asked for.

        accepted: Codings that the destination takes.

        clock: Seconds, for the compressor's speed.
    """

    def __init__(
        self,
        wanted: Compression,
        accepted: frozenset[str],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._coding = _choose(wanted, accepted)
        self._always = wanted is not Compression.AUTO
        self._clock = clock
        self._skip = 0
        self._bytes_in = 0
        self._bytes_out = 0

    @property
    def is_off(self) -> bool:
        """Whether no chunk will ever be compressed."""
        return self._coding is None

    @property
    def ratio(self) -> float | None:
        """Bytes out for a byte in; None if nothing was compressed."""
        return self._bytes_out / self._bytes_in if self._bytes_in else None

    async def encode(
        self, view: memoryview, wire_rate: float | None
    ) -> tuple[str, memoryview] | None:
        """
        Compress a chunk if that pays.

        Args:
            view: The chunk's bytes.

            wire_rate: Bytes a second that the link takes; None while it is not known.

        Returns:
            The coding and the coded bytes, or None if the chunk goes as it is.
        """
        if self._coding is None or not view:
            return None
        if not self._always and not await self._pays(view, wire_rate):
            return None
        coded = await in_thread(_CODERS[self._coding], view)
        if len(coded) > len(view) * _WORTHWHILE:
            self._skip = _SKIP_AFTER_FAILURE
            return None
        self._bytes_in += len(view)
        self._bytes_out += len(coded)
        return self._coding, memoryview(coded)

    async def _pays(self, view: memoryview, wire_rate: float | None) -> bool:
        """Try a sample: it must shrink, faster than the link would take it."""
        if self._skip > 0:
            self._skip -= 1
            return False
        if wire_rate is None or self._coding is None:
            return False
        sample = view[:_SAMPLE]
        started = self._clock()
        coded = await in_thread(_CODERS[self._coding], sample)
        rate = len(sample) / max(self._clock() - started, 1e-9)
        if len(coded) > len(sample) * _WORTHWHILE or rate <= wire_rate:
            self._skip = _SKIP_AFTER_FAILURE
            return False
        return True


def _choose(wanted: Compression, accepted: frozenset[str]) -> str | None:
    """Return the best coding that is both wanted and accepted."""
    order = ("zstd", "gzip") if wanted is Compression.AUTO else (wanted.value,)
    return next((coding for coding in order if coding in accepted), None)
