"""
Content codings of chunks, undone in bounded steps.

A chunk's size is known before it comes, so nothing is ever decoded beyond it, and no
more than one step of it is held in memory: a bomb only ends its own request.
"""

from __future__ import annotations

import zlib
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

import zstandard

from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEP: Final = 256 * KIB

# What RFC 9659 allows a sender of the `zstd` content coding.
_MAX_WINDOW: Final = 8 * MIB


class Decoder(Protocol):
    """Undoes one content coding."""

    def decode(self, pieces: Sequence[bytes]) -> None:
        """
        Hand on what the pieces stand for, step by step.

        Raises:
            UploadProblem: They are broken, or stand for more than the limit.
        """
        ...

    def finish(self) -> None:
        """
        Say that no more pieces come.

        Raises:
            UploadProblem: The coding is not at its end.
        """
        ...


class _Outlet:
    """Takes decoded steps, until there are more than may be."""

    def __init__(self, limit: int, emit: Callable[[bytes], None]) -> None:
        self._room = limit
        self._emit = emit

    def write(self, step: bytes) -> int:
        """Hand a step on; called by zstandard too, which wants the count back."""
        if len(step) > self._room:
            raise UploadProblem(
                ProblemType.TOO_LARGE,
                "The body decodes to more bytes than its chunk has.",
            )
        self._room -= len(step)
        self._emit(step)
        return len(step)


class GzipDecoder:
    """
    Undoes gzip, one member of it.

    Args:
        limit: Bytes of the result at most.

        emit: Takes each step of the result.
    """

    def __init__(self, limit: int, emit: Callable[[bytes], None]) -> None:
        self._outlet = _Outlet(limit, emit)
        self._zlib = zlib.decompressobj(wbits=31)

    def decode(self, pieces: Sequence[bytes]) -> None:
        """Hand on what the pieces stand for."""
        for piece in pieces:
            rest = piece
            while rest:
                if self._zlib.eof:
                    raise _broken("gzip", "something follows its end")
                try:
                    step = self._zlib.decompress(rest, _STEP)
                except zlib.error as error:
                    raise _broken("gzip", str(error)) from error
                self._outlet.write(step)
                rest = self._zlib.unconsumed_tail

    def finish(self) -> None:
        """Refuse a result that was cut off."""
        if not self._zlib.eof or self._zlib.unused_data:
            raise _broken("gzip", "it is cut off, or something follows its end")


class ZstdDecoder:
    """
    Undoes zstd.

    Args:
        limit: Bytes of the result at most.

        emit: Takes each step of the result.
    """

    def __init__(self, limit: int, emit: Callable[[bytes], None]) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._writer = decompressor.stream_writer(
            cast("IO[bytes]", _Outlet(limit, emit)), write_size=_STEP, closefd=False
        )

    def decode(self, pieces: Sequence[bytes]) -> None:
        """Hand on what the pieces stand for."""
        for piece in pieces:
            try:
                self._writer.write(piece)
            except zstandard.ZstdError as error:
                raise _broken("zstd", str(error)) from error

    def finish(self) -> None:
        """Whether it was cut off shows in the digest, which is always compared."""


DECODERS: Final[dict[str, type[GzipDecoder | ZstdDecoder]]] = {
    "gzip": GzipDecoder,
    "zstd": ZstdDecoder,
}
"""What undoes each content coding."""


def _broken(coding: str, why: str) -> UploadProblem:
    return UploadProblem(ProblemType.MALFORMED, f"The body is no {coding}: {why}.")
