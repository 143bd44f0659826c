"""The life of a file that comes in one request. Knows no HTTP."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from upload_kit.logs import note
from upload_kit.server import rules
from upload_kit.server.batch import BatchSink
from upload_kit.server.core import superseded
from upload_kit.server.documents import Snapshot
from upload_kit.server.fields import parse_media_type
from upload_kit.server.intake import Expected, FileSink
from upload_kit.server.locks import LocalLocker
from upload_kit.server.problems import UploadProblem
from upload_kit.server.receive import pump, run
from upload_kit.server.rules import NewUpload
from upload_kit.server.storage import UploadMissing, whole_chunk
from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.server.batch import ListedFile
    from upload_kit.server.parts import Parts
    from upload_kit.server.receive import Body
    from upload_kit.server.storage import UploadInfo

# Hexadecimal digits of an upload's ID.
_ID_LENGTH: Final = 32
# Bytes that come in one batch.
_SMALL: Final = 64 * KIB

log: Final = logging.getLogger("upload_kit.server")


class FileCore:
    """
    Stores files that come in one request.

    Args:
        parts: What it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._receiving = LocalLocker(parts.config.busy_timeout)

    def describe(self, owner: str, new: NewUpload) -> UploadInfo:
        """
        Give a file its ID before it comes.

        Raises:
            UploadProblem: It is larger than may be.
        """
        return rules.begin(self._parts.config, owner, new, max(1, new.size or 0))

    async def store(
        self,
        info: UploadInfo,
        *,
        body: Body,
        expected: Expected,
        key: str | None = None,
        arrived: Callable[[int], None] = lambda _size: None,
    ) -> Snapshot:
        """
        Store a file, and publish it in one atomic step.

        A file with a key gets its ID from the key. So the same key again meets the
        first file where it stands, in whatever process that came; nothing has to be
        remembered, and nothing is locked but what this process receives itself.

        Args:
            info: What `describe` returned.

            body: Its bytes.

            expected: Digests that it has to have.

            key: Hexadecimal digits; the same key again returns the first file instead
                of a second one.

            arrived: Told of the bytes of every batch.

        Raises:
            UploadProblem: It was refused; nothing is left of it then.
        """
        take = partial(self._take, body=body, expected=expected, arrived=arrived)
        if key is None:
            return await take(info)
        info = replace(info, upload_id=key[:_ID_LENGTH])
        evict = partial(body.stop, superseded())
        async with self._receiving.hold(info.upload_id, None, evict):
            return await self._first(info, body) or await take(info)

    async def store_batch(
        self,
        owner: str,
        files: Sequence[ListedFile],
        body: Body,
        *,
        via: tuple[str, ...] = (),
    ) -> list[Snapshot | UploadProblem]:
        """
        Store small files that come back to back; each counts by itself.

        Nothing is locked, and nothing looked for before: they are received as soon as
        looked for, and of two that have the same key the first one published counts.

        Args:
            owner: Whose files they are.

            files: What comes, in order.

            body: Their bytes.

            via: IDs of the servers that they came through.

        Returns:
            What became of each.

        Raises:
            UploadProblem: The body is broken; the files before that place are stored.
        """
        pool = self._parts.pool
        sink = BatchSink(files, partial(self._listed, owner, via=via))
        try:
            outcomes = await pump(body, sink, pool, lambda _size: None)
        except BaseException:
            await run(pool, sink.abort)
            raise
        return [
            outcome if isinstance(outcome, UploadProblem) else _completed(outcome)
            for outcome in outcomes
        ]

    def _listed(
        self, owner: str, file: ListedFile, *, via: tuple[str, ...]
    ) -> FileSink:
        """Return what takes a file of a batch, or raise why it is refused."""
        new = NewUpload(
            name=file.name,
            size=file.size,
            content_type=parse_media_type(file.content_type),
            metadata=file.metadata,
            via=via,
        )
        info = self.describe(owner, new)
        info = replace(info, upload_id=owned_key(owner, file.key)[:_ID_LENGTH])
        return self._sink(info, Expected(content=bytes.fromhex(file.sha256)))

    async def _first(self, info: UploadInfo, body: Body) -> Snapshot | None:
        """Return what was stored with this key before, if it is worth looking first."""
        if body.size is not None and body.size <= _SMALL:
            # It is received as soon as looked for, and publishing it looks anyway.
            return None
        with suppress(UploadMissing):
            async with self._parts.uploads.use(info.upload_id) as upload:
                if upload.info.completed_at is not None:
                    return Snapshot.of(upload)
        return None

    async def _take(
        self,
        info: UploadInfo,
        *,
        body: Body,
        expected: Expected,
        arrived: Callable[[int], None],
    ) -> Snapshot:
        parts = self._parts
        note(upload=info.upload_id)
        sink = self._sink(info, expected)
        try:
            stored = await pump(body, sink, parts.pool, arrived)
        except BaseException:
            await run(parts.pool, sink.abort)
            raise
        return _completed(stored)

    def _sink(self, info: UploadInfo, expected: Expected) -> FileSink:
        parts = self._parts
        return FileSink(
            parts.storage,
            info,
            expected,
            ledger=parts.ledger,
            publishing=parts.publishing,
        )


def owned_key(owner: str, key: str) -> str:
    """Return a digest of a key and its owner: nobody meets another one's keys."""
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()


def _completed(stored: UploadInfo) -> Snapshot:
    log.info("%s is complete, %s bytes", stored.name, stored.size)
    chunks = {0: whole_chunk(stored)}
    return Snapshot(info=stored, chunks=chunks, touched_at=stored.completed_at or 0.0)
