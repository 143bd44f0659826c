"""What becomes of bytes that are added to the end of an upload."""

from __future__ import annotations

import hashlib
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.server.body import too_large
from upload_kit.server.hashing import hashed_beside
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from upload_kit.server.hashing import Digest
    from upload_kit.server.ledger import Ledger
    from upload_kit.server.storage import StoredUpload

# What is lost at most when the server is killed in the middle of a long request.
_SETTLE_BYTES: Final = 64 * MIB
_SETTLE_SECONDS: Final = 1.0


class Crc32:
    """CRC-32 as zlib has it, with the methods of a digest; big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """Return the four bytes."""
        return self._value.to_bytes(4, "big")


CHECKSUMS: Final[dict[str, Callable[[], Digest]]] = {
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "crc32": Crc32,
}
"""What makes a digest, by the name that a client gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """What the bytes of one request have to be."""

    algorithm: str
    """One of `CHECKSUMS`."""

    digest: bytes
    """As the client computed it."""


class AppendSink:
    """
    Writes bytes at the end of an upload.

    Without a checksum they count as they come: what arrived before a break is kept,
    and of what arrives before a kill all but the last moments. With one they count
    together, once they proved right, or not at all.

    Args:
        upload: Where they go.

        start: Offset of the first one; everything before it counts.

        room: Bytes at most; None for no limit.

        checksum: What they have to be.

        ledger: Counts them; None where they were counted before.

        pool: Threads, of which one hashes while another one writes.
    """

    def __init__(
        self,
        upload: StoredUpload,
        start: int,
        *,
        room: int | None,
        checksum: Checksum | None,
        ledger: Ledger | None,
        pool: Executor,
    ) -> None:
        self._upload = upload
        self._start = self._kept = self._end = start
        self._room = room
        self._checksum = checksum
        self._digest = CHECKSUMS[checksum.algorithm]() if checksum else None
        self._ledger = ledger
        self._pool = pool
        self._reserved = 0
        self._settled_at = time.monotonic()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write the next pieces."""
        self._take(pieces)
        if self._digest is None and (
            self._end - self._kept >= _SETTLE_BYTES
            or time.monotonic() - self._settled_at >= _SETTLE_SECONDS
        ):
            self._settle()

    def finish(self, pieces: Sequence[bytes]) -> int:
        """Write the last pieces; return where the upload ends now."""
        self._take(pieces)
        self._check()
        self._settle()
        return self._end

    def keep(self) -> None:
        """Have what arrived before a break count, unless it had to prove right."""
        try:
            if self._digest is None:
                self._settle()
        finally:
            surplus = self._reserved - (self._kept - self._start)
            if self._ledger is not None and surplus > 0:
                self._ledger.release(surplus)

    def _take(self, pieces: Sequence[bytes]) -> None:
        size = sum(map(len, pieces))
        if not size:
            return
        if self._room is not None and self._end + size - self._start > self._room:
            raise too_large(self._room)
        if self._ledger is not None:
            self._ledger.reserve(size)
            self._reserved += size
        if self._digest is None:
            self._upload.write(self._end, pieces)
        else:
            with hashed_beside(self._pool, self._digest, pieces):
                self._upload.write(self._end, pieces)
        self._end += size

    def _check(self) -> None:
        if self._digest is None or self._checksum is None:
            return
        actual = self._digest.digest()
        if actual != self._checksum.digest:
            raise UploadProblem(
                ProblemType.CHECKSUM_MISMATCH,
                f"The bytes that came have another {self._checksum.algorithm}.",
                extra={
                    "expected": self._checksum.digest.hex(),
                    "actual": actual.hex(),
                },
            )

    def _settle(self) -> None:
        if self._end > self._kept:
            self._upload.extend(self._end)
            self._kept = self._end
        self._settled_at = time.monotonic()
