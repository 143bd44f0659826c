"""What becomes of a body's bytes: undone, counted, hashed, written, compared."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from upload_kit.server.decoding import DECODERS
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.storage import UploadPublished

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from upload_kit.models import ChunkMetadata
    from upload_kit.server.decoding import Decoder
    from upload_kit.server.ledger import Ledger
    from upload_kit.server.storage import Storage, StoredUpload, UploadInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a body has to be."""

    content: bytes | None = None
    """SHA-256 of the bytes on the wire."""

    unencoded: bytes | None = None
    """SHA-256 of the bytes after any content coding was undone."""


class Intake:
    """
    Undoes the coding of what arrives, counts and hashes it, and checks it at the end.

    Args:
        expected: Digests to compare with.

        emit: Takes the bytes without coding, once they are counted and hashed.

        coding: Content coding of the body; None where there is none.

        limit: Bytes without coding at most.
    """

    def __init__(
        self,
        expected: Expected,
        emit: Callable[[Sequence[bytes], int], None],
        *,
        coding: str | None = None,
        limit: int = 0,
    ) -> None:
        self._expected = expected
        self._emit = emit
        self._hash = hashlib.sha256()
        self._wire_hash = hashlib.sha256() if coding else None
        self._decoder: Decoder | None = (
            DECODERS[coding](limit, self._take_step) if coding else None
        )
        self.size = 0

    def take(self, pieces: Sequence[bytes]) -> None:
        """Count and hash the pieces, and hand them on without their coding."""
        if self._decoder is None or self._wire_hash is None:
            self._take(pieces)
            return
        for piece in pieces:
            self._wire_hash.update(piece)
        self._decoder.decode(pieces)

    def check(self) -> str:
        """
        Compare digests; return that of the bytes without coding, in hexadecimal.

        Raises:
            UploadProblem: One differs, or the coding ended too early.
        """
        if self._decoder is not None:
            self._decoder.finish()
        wire = self._hash if self._wire_hash is None else self._wire_hash
        self._compare(self._expected.content, wire.digest(), "Content-Digest")
        digest = self._hash.digest()
        self._compare(self._expected.unencoded, digest, "Unencoded-Digest")
        return digest.hex()

    def _take_step(self, step: bytes) -> None:
        self._take((step,))

    def _take(self, pieces: Sequence[bytes]) -> None:
        update, offset = self._hash.update, self.size
        for piece in pieces:
            update(piece)
            self.size += len(piece)
        self._emit(pieces, offset)

    @staticmethod
    def _compare(expected: bytes | None, actual: bytes, field: str) -> None:
        if expected is not None and expected != actual:
            raise UploadProblem(
                ProblemType.DIGEST_MISMATCH,
                f"The bytes that came are not those of {field}.",
                extra={"expected": expected.hex(), "actual": actual.hex()},
            )


class ChunkSink:
    """
    Writes one chunk where it belongs and has it count once it proved right.

    Args:
        upload: Where it belongs.

        chunk: Its place and size.

        expected: Digests to compare with.

        coding: Content coding that it travels in.
    """

    def __init__(
        self,
        upload: StoredUpload,
        chunk: ChunkMetadata,
        expected: Expected,
        coding: str | None,
    ) -> None:
        self._upload = upload
        self._chunk = chunk
        self._intake = Intake(expected, self._emit, coding=coding, limit=chunk.size)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write the next pieces."""
        self._intake.take(pieces)

    def finish(self, pieces: Sequence[bytes]) -> ChunkMetadata:
        """Write the last pieces; acknowledge the chunk."""
        self._intake.take(pieces)
        chunk = _finished(self._chunk, self._intake)
        self._upload.acknowledge(chunk)
        return chunk

    def _emit(self, pieces: Sequence[bytes], offset: int) -> None:
        if self._intake.size > self._chunk.size:
            raise _wrong_size(self._chunk, self._intake.size)
        self._upload.write(self._chunk.start + offset, pieces)


class CompareSink:
    """
    Compares what comes with a chunk that counts already; writes nothing.

    Args:
        known: The chunk that counts.

        expected: Digests to compare with.

        coding: Content coding that it travels in.
    """

    def __init__(
        self, known: ChunkMetadata, expected: Expected, coding: str | None
    ) -> None:
        self._known = known
        self._intake = Intake(expected, _drop, coding=coding, limit=known.size)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Hash the next pieces."""
        self._intake.take(pieces)

    def finish(self, pieces: Sequence[bytes]) -> ChunkMetadata:
        """Compare; a chunk that counts is never written over."""
        self._intake.take(pieces)
        digest = self._intake.check()
        if (self._intake.size, digest) != (self._known.size, self._known.sha256):
            raise UploadProblem(
                ProblemType.CHUNK_CONFLICT,
                f"Chunk {self._known.index} counts already, with other bytes.",
                extra={"sha256": self._known.sha256},
            )
        return self._known


class FileSink:
    """
    Writes a file that comes in one request and publishes it once it proved right.

    Small files come in one batch, so all of this is one call of `finish`.

    Args:
        storage: Where it goes.

        info: What is known of it before it came.

        expected: Digests to compare with.

        ledger: Counts its bytes.

        publishing: Told of its ID, is entered while it is published.
    """

    def __init__(
        self,
        storage: Storage,
        info: UploadInfo,
        expected: Expected,
        *,
        ledger: Ledger,
        publishing: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._storage = storage
        self._info = info
        self._ledger = ledger
        self._publishing = publishing
        self._reserved = 0
        self._intake = Intake(expected, self._emit)
        self._upload: StoredUpload | None = None

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write the next pieces."""
        self._intake.take(pieces)

    def finish(self, pieces: Sequence[bytes]) -> UploadInfo:
        """Write the last pieces; publish the file."""
        self._intake.take(pieces)
        digest, size = self._intake.check(), self._intake.size
        info = replace(
            self._info,
            size=size,
            chunk_size=max(1, size),
            sha256=digest,
            completed_at=time.time(),
        )
        upload = self._created()
        try:
            with self._publishing(info.upload_id):
                info = upload.finish(info)
        except UploadPublished:
            # The same file came before, under the same key: the first one counts.
            self.abort()
            info = self._storage.open(info.upload_id).info
        upload.close()
        return info

    def abort(self) -> None:
        """Leave nothing behind of what was written."""
        if self._upload is not None:
            self._upload.discard()
        self._ledger.release(self._reserved)

    def _emit(self, pieces: Sequence[bytes], offset: int) -> None:
        upload = self._created()
        self._reserve(self._intake.size)
        upload.write(offset, pieces)

    def _reserve(self, size: int) -> None:
        if size > self._reserved:
            self._ledger.reserve(size - self._reserved)
            self._reserved = size

    def _created(self) -> StoredUpload:
        if self._upload is None:
            self._reserve(self._info.size or 0)
            self._upload = self._storage.create(self._info, resumable=False)
        return self._upload


def _drop(_pieces: Sequence[bytes], _offset: int) -> None:
    """Let the bytes go: they are only hashed."""


def _finished(chunk: ChunkMetadata, intake: Intake) -> ChunkMetadata:
    digest = intake.check()
    if intake.size != chunk.size:
        raise _wrong_size(chunk, intake.size)
    return replace(chunk, sha256=digest)


def _wrong_size(chunk: ChunkMetadata, size: int) -> UploadProblem:
    return UploadProblem(
        ProblemType.SIZE_MISMATCH,
        f"Chunk {chunk.index} has {chunk.size} bytes; at least {size} came."
        if size > chunk.size
        else f"Chunk {chunk.index} has {chunk.size} bytes; {size} came.",
        extra={"expected": chunk.size, "actual": size},
    )
