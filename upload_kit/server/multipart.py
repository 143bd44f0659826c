"""
A file as the one part of a `multipart/form-data` body, without reading it twice.

Written here because aiohttp's reader has no bound on what comes before the first
boundary (aio-libs/aiohttp issue 13652), and because a part's bytes are only passed on.

Source: RFC 7578; RFC 2046, section 5.1.1.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from upload_kit.server.fields import malformed
from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from upload_kit.server.problems import UploadProblem
    from upload_kit.server.receive import Body

_MAX_HEAD: Final = 16 * KIB
_BOUNDARY: Final = re.compile(
    r"multipart/form-data\s*;(?:.*;)?\s*boundary=(?:\"([^\"]{1,70})\"|([^\s\";,]{1,70}))"
    r"\s*(?:;.*)?",
    re.IGNORECASE | re.ASCII,
)
_BOUNDARY_CHARS: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]*[^ ]", re.ASCII)


class _State(Enum):
    HEAD = "before the part's bytes"
    BYTES = "in the part's bytes"
    END = "behind the part"


def parse_boundary(content_type: str) -> bytes | None:
    """
    Return the boundary of a `multipart/form-data` body; None for another type.

    Raises:
        UploadProblem: It is such a body, but has no proper boundary.
    """
    if not content_type.lower().startswith("multipart/"):
        return None
    match = _BOUNDARY.fullmatch(content_type.strip())
    boundary = (match[1] or match[2]) if match else ""
    if _BOUNDARY_CHARS.fullmatch(boundary) is None:
        raise malformed("A multipart body must be form-data, with a proper boundary.")
    return boundary.encode()


class PartReader:
    """
    Takes a body piece by piece, and gives the bytes of its one part.

    Args:
        boundary: Without the dashes.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # As if a line ended before the body, so that the first boundary is like others.
        self._kept = b"\r\n"
        self._state = _State.HEAD
        self.headers: dict[str, str] | None = None
        """The part's headers by lower-case names; None until they came."""

    def feed(self, piece: bytes) -> bytes:
        """
        Return the part's bytes that are certain by now.

        Raises:
            UploadProblem: The body is no such body, or has a second part.
        """
        data = self._kept + piece
        self._kept = b""
        if self._state is _State.HEAD:
            data = self._read_head(data)
        if self._state is _State.BYTES:
            return self._read_bytes(data)
        if self._state is _State.END:
            self._read_end(data)
        return b""

    def finish(self) -> None:
        """
        Say that no more comes.

        Raises:
            UploadProblem: The body is cut off, or has more than one part.
        """
        if self._state is not _State.END or not self._kept.startswith(b"--"):
            raise malformed("The multipart body is cut off, or has a second part.")

    def _read_head(self, data: bytes) -> bytes:
        """Find the first boundary and the headers behind it; return what follows."""
        if len(data) >= len(self._delimiter) and not data.startswith(self._delimiter):
            raise malformed("The multipart body does not begin with its boundary.")
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            if len(data) > _MAX_HEAD:
                raise malformed("The part's headers are too long.")
            self._kept = data
            return b""
        self.headers = _parse_headers(head[len(self._delimiter) :])
        self._state = _State.BYTES
        return rest

    def _read_bytes(self, data: bytes) -> bytes:
        found = data.find(self._delimiter)
        if found >= 0:
            self._state = _State.END
            self._read_end(data[found + len(self._delimiter) :])
            return data[:found]
        # What could be the beginning of the boundary is kept for the next piece.
        keep = len(self._delimiter) - 1
        cut = max(0, len(data) - keep)
        cut = data.find(b"\r", cut)
        if cut < 0:
            return data
        self._kept = data[cut:]
        return data[:cut]

    def _read_end(self, data: bytes) -> None:
        """Keep the two characters that tell the last boundary from another one."""
        self._kept = data[:2]
        if len(self._kept) == 2 and self._kept != b"--":
            raise malformed("The body must have one part: the file.")


class PartBody:
    """
    A `Body` of the bytes of the one part of another body.

    Args:
        outer: The whole body.

        boundary: What stands before and behind the part.
    """

    def __init__(self, outer: Body, boundary: bytes) -> None:
        self._outer = outer
        self._reader = PartReader(boundary)
        self._ahead: tuple[list[bytes], bool] | None = None

    @property
    def size(self) -> int | None:
        """Not known before the end."""
        return None

    async def headers(self) -> Mapping[str, str]:
        """
        Return the part's headers, by their names in lower case.

        Raises:
            UploadProblem: The body is no such body.
        """
        pieces: list[bytes] = []
        last = False
        while self._reader.headers is None:
            more, last = await self._next()
            pieces += more
            if last and self._reader.headers is None:
                raise malformed("The multipart body is cut off.")
        self._ahead = pieces, last
        return self._reader.headers

    async def batch(self) -> tuple[Sequence[bytes], bool]:
        """Return the pieces that come next, and whether they are the last."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        return await self._next()

    def stop(self, problem: UploadProblem) -> None:
        """Make `batch` raise the problem, at once and from now on."""
        self._outer.stop(problem)

    async def _next(self) -> tuple[list[bytes], bool]:
        outer, last = await self._outer.batch()
        pieces = [found for piece in outer if (found := self._reader.feed(piece))]
        if last:
            self._reader.finish()
        return pieces, last


def _parse_headers(head: bytes) -> dict[str, str]:
    headers = {}
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise malformed("A header of the part is broken.")
        headers[name.decode("latin-1").lower()] = _decode(value).strip()
    return headers


def _decode(value: bytes) -> str:
    """Browsers send names as UTF-8; whatever else it is must not be lost."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
