"""
What can be uploaded: a path, bytes, a binary file object, an async iterator of bytes.

A source fills buffers and feeds digests in the same pass, off the event loop. One that
is `rereadable` can be read at any offset, again and again; any other one strictly in
order, once.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import stat
import threading
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, TypeAlias, TypeVar

from upload_kit.config import DEFAULT_READ_TIMEOUT
from upload_kit.errors import ConfigurationError, SourceChanged, SourceError
from upload_kit.models import SourceIdentity
from upload_kit.threads import in_thread
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash as Hash

T = TypeVar("T")

SourceLike: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | AsyncIterable[bytes]
)
"""What callers may hand in."""

logger = logging.getLogger("upload_kit.sources")

# Bytes read and hashed at a time: they are still in the core's cache when hashed.
_STEP: Final = MIB
# Seconds that a generator may take to end.
_CLOSE: Final = 5.0
# A file that is no larger is read whole when it is opened, and bytes that are no more
# are copied in the event loop: a thread costs more than either.
_SMALL: Final = 64 * KIB


class Source(Protocol):
    """Bytes to upload; opened once, closed once."""

    name: str
    """File name, as the destination gets to know it."""

    size: int | None
    """Bytes; None when it shows only at the end. Valid after `open`."""

    path: str | None
    """Absolute path that another process could open, after `open`; None if none."""

    identity: SourceIdentity | None
    """What tells whether it is still the same. Valid after `open`."""

    rereadable: bool
    """Whether any part can be read again."""

    head: bytes
    """First bytes, to tell the type by; empty where they cannot be peeked at."""

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """
        Make ready and find out the size.

        Args:
            patience: Seconds for the disk to give the next bytes, now and in `read`.
                A stream may take as long as its author does.

        Raises:
            SourceError: It is missing, unreadable, or nothing that can be uploaded.
        """
        ...

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """
        Fill the buffer with the bytes from offset `start`, and feed the digests.

        Args:
            buffer: Where the bytes go.

            start: Offset in the source; where it is not rereadable, that of the first
                byte not yet read.

            digests: Each gets every byte that was read.

        Returns:
            Bytes read; fewer than the buffer holds only at the end of the source.

        Raises:
            SourceError: It cannot be read, or its disk hangs.
            SourceChanged: It changed since it was opened.
        """
        ...

    async def aclose(self) -> None:
        """Let go of it; safe to call again."""
        ...


class FileSource:
    """A regular file, watched for changes while it is read."""

    rereadable = True

    def __init__(
        self, path: str | os.PathLike[str], *, name: str | None = None
    ) -> None:
        self._path = Path(path)
        self.name = name or self._path.name
        self.path: str | None = str(path)
        self.size: int | None = None
        self.identity: SourceIdentity | None = None
        self.head = b""
        self._fd = -1
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._patience = DEFAULT_READ_TIMEOUT
        self._steps = 0
        self._closed = False

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """Open the file and remember what it looks like."""
        self._patience = patience
        self._closed = False
        await self._in_time(in_thread(self._open))

    async def _in_time(self, work: asyncio.Future[T]) -> T:
        """
        Return what a thread brings, as long as it moves.

        Raises:
            SourceError: It does not: its disk hangs.
        """
        try:
            while not work.done():
                steps = self._steps
                await asyncio.wait({work}, timeout=self._patience)
                if not work.done() and self._steps == steps:
                    raise SourceError(
                        f"{self._path} gave nothing for {self._patience:g} s.",
                        hint="Does its disk hang? Resume once it works.",
                    )
            return work.result()
        finally:
            work.cancel()

    def _open(self) -> None:
        try:
            self.path = str(self._path.absolute())
            # O_NONBLOCK: opening a FIFO without a writer would wait for ever.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
            fd = self._keep(os.open(self._path, flags | getattr(os, "O_BINARY", 0)))
        except FileNotFoundError as error:
            raise SourceError(
                f"There is no file {self._path}.", hint="Check the path."
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"Cannot open {self._path}: {reason}.") from error
        try:
            facts = os.fstat(fd)
            _require_regular(self._path, facts.st_mode)
            head = memoryview(bytearray(min(_SMALL, facts.st_size)))
            self.head = bytes(head[: self._fill(head, 0, ())])
            if facts.st_size == 0:
                self._require_empty()
        except OSError as error:
            self._close()
            raise SourceError(f"Cannot read {self._path}: {error.strerror}.") from error
        except SourceError:
            self._close()
            raise
        self.size = facts.st_size
        self.identity = _identity(facts)

    def _keep(self, fd: int) -> int:
        """Keep what was opened, unless nobody waits for it any more."""
        with self._guard:
            self._fd = fd
            is_late = self._closed
        if is_late:
            self._close()
        return fd

    def _require_empty(self) -> None:
        """Refuse the kernel's files, of which none says how long it is."""
        if self._read_into(memoryview(bytearray(1)), 0):
            raise SourceError(
                f"{self._path} says that it is empty, and is not.",
                hint="Open it yourself and hand in the file object.",
            )

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """Read in a thread; see `Source.read`."""
        if self.size == len(self.head):
            return _copy(memoryview(self.head), buffer, start, digests)
        work = in_thread(self._read, buffer, start, digests)
        return await self._in_time(work)

    def _read(self, buffer: memoryview, start: int, digests: Sequence[Hash]) -> int:
        try:
            count = self._fill(buffer, start, digests)
            facts = os.fstat(self._fd)
        except OSError as error:
            raise SourceError(f"Cannot read {self._path}: {error.strerror}.") from error
        if _identity(facts) != self.identity:
            raise SourceChanged(
                f"{self._path} changed while it was read: it had {self.size} bytes and"
                f" now has {facts.st_size}.",
                hint="Upload it again once nothing writes to it any more.",
            )
        return count

    def _fill(self, buffer: memoryview, start: int, digests: Sequence[Hash]) -> int:
        """Read step by step, hashing each step while it is in the core's cache."""
        done = 0
        while done < len(buffer):
            step = buffer[done : done + _STEP]
            count = self._read_into(step, start + done)
            self._steps += 1
            if count == 0:
                break
            for digest in digests:
                digest.update(step[:count])
            done += count
        return done

    def _read_into(self, view: memoryview, start: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], start)
        with self._turn:  # pragma: no cover (Windows has no positioned read)
            os.lseek(self._fd, start, os.SEEK_SET)
            data = os.read(self._fd, len(view))
        view[: len(data)] = data  # pragma: no cover
        return len(data)  # pragma: no cover

    async def aclose(self) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        # One of thousands of files must not stay in memory after its turn.
        self.head = b""
        with self._guard:
            self._closed = True
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise SourceError(
            f"{path} is a directory.", hint="Name the files in it, or use a pattern."
        )
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"{path} is no regular file.",
            hint="Open it yourself and hand in the file object to upload a stream.",
        )


def _identity(facts: os.stat_result) -> SourceIdentity:
    return SourceIdentity(
        size=facts.st_size, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino
    )


def _copy(
    data: memoryview, buffer: memoryview, start: int, digests: Sequence[Hash]
) -> int:
    part = data[start : start + len(buffer)]
    buffer[: len(part)] = part
    for digest in digests:
        digest.update(part)
    return len(part)


class BytesSource:
    """Bytes in memory; they must not be changed before the upload is done."""

    rereadable = True
    path: str | None = None
    identity: SourceIdentity | None = None

    def __init__(self, data: bytes | bytearray | memoryview, *, name: str) -> None:
        self._view = _flat(data)
        self.name = name
        self.size: int | None = len(self._view)
        self.head = bytes(self._view[:_SMALL])

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """Nothing needs to be made ready."""

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """Copy in a thread; see `Source.read`."""
        if len(buffer) <= _SMALL:
            return _copy(self._view, buffer, start, digests)
        return await in_thread(_copy, self._view, buffer, start, digests)

    async def aclose(self) -> None:
        """Nothing needs to be let go of."""


def _flat(data: bytes | bytearray | memoryview) -> memoryview:
    """Return the bytes in a row; copied only where they are not."""
    view = memoryview(data)
    if not view.c_contiguous or 0 in (view.shape or ()):
        return memoryview(view.tobytes())
    return view.cast("B")


class FileObjectSource:
    """A binary file object, read once from where it stands; the caller closes it."""

    rereadable = False
    path: str | None = None
    identity: SourceIdentity | None = None
    head = b""

    def __init__(self, file: BinaryIO, *, name: str, size: int | None = None) -> None:
        self._file = file
        self.name = name
        self.size = size

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """Find out how many bytes are left, where that can be told."""
        if self.size is None:
            self.size = await in_thread(self._remaining)

    def _remaining(self) -> int | None:
        try:
            if not self._file.seekable():
                return None
            here = self._file.tell()
            end = self._file.seek(0, io.SEEK_END)
            self._file.seek(here)
        except Exception as error:
            raise _unreadable(self.name, error) from error
        return max(0, end - here)

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """Read on in a thread; see `Source.read`."""
        return await in_thread(self._read, buffer, digests)

    def _read(self, buffer: memoryview, digests: Sequence[Hash]) -> int:
        done = 0
        # Raw files and pipes may return less than was asked for.
        while done < len(buffer):
            wanted = min(_STEP, len(buffer) - done)
            data = self._read_some(wanted)
            if not data:
                break
            buffer[done : done + len(data)] = data
            for digest in digests:
                digest.update(data)
            done += len(data)
        return done

    def _read_some(self, wanted: int) -> bytes:
        try:
            data = self._file.read(wanted)
        except Exception as error:
            raise _unreadable(self.name, error) from error
        if not isinstance(data, bytes | bytearray | memoryview):
            raise SourceError(
                f"{self.name} gave {type(data).__name__}, not bytes.",
                hint="Open the file in binary mode.",
            )
        if len(data) > wanted:
            raise SourceError(
                f"{self.name} gave {len(data)} bytes where {wanted} were asked for."
            )
        return data

    async def aclose(self) -> None:
        """Leave the file open: it is the caller's."""


class IteratorSource:
    """An async iterator of bytes, of any piece sizes, read once."""

    rereadable = False
    path: str | None = None
    identity: SourceIdentity | None = None
    head = b""

    def __init__(
        self, pieces: AsyncIterable[bytes], *, name: str, size: int | None = None
    ) -> None:
        self._pieces: AsyncIterator[bytes] = aiter(pieces)
        self._rest = memoryview(b"")
        self.name = name
        self.size = size

    async def open(self, patience: float = DEFAULT_READ_TIMEOUT) -> None:
        """Nothing needs to be made ready."""

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        """Collect pieces until the buffer is full; see `Source.read`."""
        done = 0
        while done < len(buffer):
            if not self._rest and not await self._advance():
                break
            taken = self._rest[: len(buffer) - done]
            buffer[done : done + len(taken)] = taken
            self._rest = self._rest[len(taken) :]
            done += len(taken)
        if digests:
            await in_thread(_update, digests, buffer[:done])
        return done

    async def _advance(self) -> bool:
        """Get the next piece; return whether there was one."""
        try:
            # No limit: how fast its data comes is for the caller to say.
            piece = await anext(self._pieces)
            self._rest = _flat(piece)
        except StopAsyncIteration:
            return False
        except Exception as error:
            raise _unreadable(self.name, error) from error
        return True

    async def aclose(self) -> None:
        """Close the iterator if it is a generator; what it raises is only logged."""
        close = getattr(self._pieces, "aclose", None)
        if close is None:
            return
        try:
            async with asyncio.timeout(_CLOSE):
                await close()
        except Exception:  # Everything was read, or something else went wrong before.
            logger.exception("%s could not be closed.", self.name)


def _unreadable(name: str, error: Exception) -> SourceError:
    """Return our error for whatever a caller's own object raised."""
    return SourceError(f"Cannot read {name}: {str(error) or type(error).__name__}.")


def _update(digests: Sequence[Hash], view: memoryview) -> None:
    for digest in digests:
        digest.update(view)


def make_source(
    source: SourceLike, *, name: str | None = None, size: int | None = None
) -> Source:
    """
    Wrap whatever a caller may hand in.

    Args:
        source: A path, bytes, a binary file object, or an async iterator of bytes.

        name: File name at the destination; by default the path's last part, the file
            object's name, or `upload.bin`.

        size: Bytes, where the caller knows them and the source cannot tell.

    Raises:
        ConfigurationError: It is nothing that can be uploaded.
    """
    if size is not None and size < 0:
        raise ConfigurationError(f"A size cannot be negative: {size}.")
    if isinstance(source, str | os.PathLike):
        return FileSource(source, name=name)
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesSource(source, name=name or "upload.bin")
    if isinstance(source, AsyncIterable):
        return IteratorSource(source, name=name or "upload.bin", size=size)
    if hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise ConfigurationError(
                "A text file cannot be uploaded.", hint="Open it in binary mode."
            )
        named = getattr(source, "name", None)
        known = Path(named).name if isinstance(named, str) else "upload.bin"
        return FileObjectSource(source, name=name or known, size=size)
    raise ConfigurationError(
        f"Cannot upload a {type(source).__name__}.",
        hint="Hand in a path, bytes, a binary file object or an async iterator.",
    )
