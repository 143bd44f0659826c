"""What can be read once, in order: binary file objects and async iterators."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import TYPE_CHECKING, BinaryIO, Final

from upload_kit.config import DEFAULT_READ_TIMEOUT
from upload_kit.errors import SourceError
from upload_kit.sources.base import STEP
from upload_kit.sources.memory import flat
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Sequence
    from hashlib import _Hash as Hash

    from upload_kit.models import SourceIdentity

logger = logging.getLogger("upload_kit.sources")

# Seconds that a generator may take to end.
_CLOSE: Final = 5.0


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
            wanted = min(STEP, len(buffer) - done)
            data = self._read_some(wanted)
            if not data:
                break
            buffer[done : done + len(data)] = data
            _update(digests, data)
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
            self._rest = flat(piece)
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


def _update(digests: Sequence[Hash], view: bytes | memoryview) -> None:
    for digest in digests:
        digest.update(view)
