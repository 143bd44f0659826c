"""
Many small files in one body: a line that lists them, then their bytes, back to back.

Source: docs/dev/native-protocol.md. Each file counts by itself: one that is refused
stops no other.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeVar

import msgspec

from upload_kit.server.fields import DEFAULT_MEDIA_TYPE, malformed
from upload_kit.server.problems import ProblemType, UploadProblem, as_problem
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.server.receive import Body
    from upload_kit.server.storage import UploadInfo

_T = TypeVar("_T")

log: Final = logging.getLogger("upload_kit.server")

MAX_FILES: Final = 256
"""Files of one batch."""

MAX_BYTES: Final = MIB
"""Bytes of all files of one batch."""

MAX_LIST: Final = 256 * KIB
"""Bytes of the line that lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """What the list says of one file."""

    name: str
    """The file's name."""

    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]
    """Bytes."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
    """Digest that it has to have."""

    key: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{16,64}\\Z")]
    """The same key again answers with the first result."""

    content_type: str = DEFAULT_MEDIA_TYPE
    """MIME type."""

    metadata: dict[str, str] = field(default_factory=dict)
    """What is to be kept beside the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    files: Annotated[list[ListedFile], msgspec.Meta(min_length=1, max_length=MAX_FILES)]


_decode: Final = msgspec.json.Decoder(_List).decode


class BatchBody:
    """
    A `Body` of the bytes behind the list of another body.

    Args:
        outer: The whole body.

        list_digest: SHA-256 that the list has to have; None if that was not said.
    """

    def __init__(self, outer: Body, list_digest: bytes | None = None) -> None:
        self._outer = outer
        self._list_digest = list_digest
        self._ahead: tuple[Sequence[bytes], bool] | None = None
        self.size: int | None = None

    async def files(self) -> Sequence[ListedFile]:
        """
        Return the list; to be called first.

        Raises:
            UploadProblem: There is none, or it does not fit what comes behind it.
        """
        line, rest, last = await self._read_line()
        self._check(line)
        try:
            files = _decode(line).files
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise malformed(f"The list of files is broken: {error}.") from error
        self.size = sum(file.size for file in files)
        if self.size > MAX_BYTES:
            raise malformed(f"The files of a batch have {MAX_BYTES} bytes at most.")
        if self._outer.size not in (None, len(line) + 1 + self.size):
            raise malformed("The body is not as long as its files are together.")
        self._ahead = rest, last
        return files

    def _check(self, line: bytes) -> None:
        if self._list_digest not in {None, hashlib.sha256(line).digest()}:
            raise UploadProblem(
                ProblemType.DIGEST_MISMATCH,
                "The list that came is not that of List-Digest.",
            )

    async def _read_line(self) -> tuple[bytes, Sequence[bytes], bool]:
        line, last = bytearray(), False
        while not last:
            pieces, last = await self._outer.batch()
            for number, piece in enumerate(pieces, 1):
                head, newline, tail = piece.partition(b"\n")
                line += head
                if len(line) > MAX_LIST:
                    raise malformed(f"The list of files has over {MAX_LIST} bytes.")
                if newline:
                    return bytes(line), [tail, *pieces[number:]], last
        raise malformed("The body is cut off in the list of its files.")

    async def batch(self) -> tuple[Sequence[bytes], bool]:
        """Return the pieces that come next, and whether they are the last."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        return await self._outer.batch()

    def stop(self, problem: UploadProblem) -> None:
        """Make `batch` raise the problem, at once and from now on."""
        self._outer.stop(problem)


class OneFileSink(Protocol):
    """What takes the bytes of one file; see `intake.FileSink`."""

    def write(self, pieces: Sequence[bytes]) -> None:
        """Take the next pieces."""
        ...

    def finish(self, pieces: Sequence[bytes]) -> UploadInfo:
        """Take the last pieces; publish the file."""
        ...

    def abort(self) -> None:
        """Leave nothing behind of what was written."""
        ...


class BatchSink:
    """
    Shares the bytes out among the files that they belong to, in a thread.

    What takes a file is made when its first byte comes, or its end, so that a long list
    whose files come slowly, or never, costs no more than the list.

    Args:
        files: What comes, in order.

        begin: Makes what takes a file, or raises why it is refused.
    """

    def __init__(
        self, files: Sequence[ListedFile], begin: Callable[[ListedFile], OneFileSink]
    ) -> None:
        self._files = files
        self._begin = begin
        self._outcomes: list[UploadInfo | UploadProblem] = []
        self._sink: OneFileSink | None = None
        self._problem: UploadProblem | None = None
        self._left = files[0].size
        self._pieces: list[bytes] = []

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write the next pieces; publish every file that is whole by then."""
        for piece in pieces:
            self._take(memoryview(piece))
        if self._pieces:
            self._guarded(self._write_on)

    def finish(self, pieces: Sequence[bytes]) -> list[UploadInfo | UploadProblem]:
        """Write the last pieces; return what became of each file."""
        for piece in pieces:
            self._take(memoryview(piece))
        self._end_whole()
        if not self._is_done:
            raise malformed("The body is cut off before the end of its files.")
        return self._outcomes

    def abort(self) -> None:
        """Leave nothing behind of a file that is not whole."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()

    @property
    def _is_done(self) -> bool:
        return len(self._outcomes) == len(self._files)

    def _take(self, view: memoryview) -> None:
        while view:
            self._end_whole()
            if self._is_done:
                raise malformed("The body goes on behind the end of its files.")
            piece, view = view[: self._left], view[self._left :]
            self._pieces.append(bytes(piece))
            self._left -= len(piece)

    def _end_whole(self) -> None:
        """Publish the file whose last byte came, and those that have none."""
        while self._left == 0 and not self._is_done:
            stored = self._guarded(self._publish)
            outcome = self._problem or stored
            assert outcome is not None
            self._outcomes.append(outcome)
            self._sink = self._problem = None
            if not self._is_done:
                self._left = self._files[len(self._outcomes)].size

    def _publish(self) -> UploadInfo:
        return self._begun().finish(self._taken())

    def _write_on(self) -> None:
        """Write what came of a file that is not whole."""
        self._begun().write(self._taken())

    def _begun(self) -> OneFileSink:
        if self._sink is None:
            self._sink = self._begin(self._files[len(self._outcomes)])
        return self._sink

    def _taken(self) -> Sequence[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _guarded(self, act: Callable[[], _T]) -> _T | None:
        """Do it, unless the file is refused already; refuse it where that fails."""
        if self._problem is None:
            try:
                return act()
            except Exception as error:  # noqa: BLE001 (one file's failure is not another's)
                self._problem = as_problem(error, "Storing a file of a batch")
                self._drop()
        self._pieces.clear()
        return None

    def _drop(self) -> None:
        """Put away what a refused file has left, as far as that is possible."""
        try:
            self.abort()
        except OSError as error:
            log.warning("What is left of a refused file stays for a while: %s", error)
