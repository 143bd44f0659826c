"""
The life of an upload that comes in chunks. Knows no HTTP.

Every protocol of the server ends here; protocols never meet one another.
"""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from upload_kit.logs import note
from upload_kit.server import rules
from upload_kit.server.documents import Snapshot
from upload_kit.server.intake import ChunkSink, CompareSink
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.receive import pump, run
from upload_kit.server.storage import UploadMissing, UploadMoved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from upload_kit.models import ChunkMetadata
    from upload_kit.server.activity import Counter
    from upload_kit.server.intake import Expected
    from upload_kit.server.parts import Parts
    from upload_kit.server.receive import Body
    from upload_kit.server.rules import NewUpload
    from upload_kit.server.storage import StoredUpload, UploadInfo

log: Final = logging.getLogger("upload_kit.server")


class UploadCore:
    """
    What may happen to uploads, and when.

    Args:
        parts: What it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._pool = parts.pool

    async def create(self, owner: str, new: NewUpload) -> Snapshot:
        """
        Begin an upload whose chunks come one by one.

        Raises:
            UploadProblem: It is larger, or in more chunks, than may be.
        """
        chunk_size = rules.choose_chunk_size(self._config, new)
        info = rules.begin(self._config, owner, new, chunk_size)
        upload = await run(self._pool, self._create, info)
        self._parts.uploads.add(upload)
        note(upload=info.upload_id)
        log.info("%s begins, %s bytes", info.name, info.size)
        return Snapshot.of(upload)

    async def status(self, owner: str, upload_id: str) -> Snapshot:
        """
        Return how far an upload is.

        Raises:
            UploadProblem: There is none for this owner, or it expired.
        """
        async with self._use(owner, upload_id) as upload:
            return Snapshot.of(upload)

    async def put_chunk(
        self,
        owner: str,
        upload_id: str,
        index: int,
        *,
        body: Body,
        size: int | None,
        expected: Expected,
        coding: str | None = None,
    ) -> tuple[ChunkMetadata, bool]:
        """
        Store one chunk, or compare it with what counts already.

        Args:
            owner: Whose upload it is.

            upload_id: Which upload.

            index: Which chunk.

            body: Its bytes on the wire.

            size: Bytes without coding; None if only the end will tell.

            expected: Digests that it has to have.

            coding: Content coding of the body.

        Returns:
            The chunk, and whether it counted before.

        Raises:
            UploadProblem: It was refused; nothing has changed then.
        """
        with (
            self._parts.activities.of(upload_id) as activity,
            activity.receiving() as counter,
        ):
            hold = partial(self._hold, index=index, body=body)
            take = partial(
                self._take,
                index=index,
                size=size,
                body=body,
                expected=expected,
                coding=coding,
                counter=counter,
            )
            try:
                return await self._put(owner, upload_id, take, hold=hold)
            except UploadMoved:
                # Another process published or removed it; nothing was read so far.
                return await self._put(owner, upload_id, take, hold=hold)

    async def complete(
        self, owner: str, upload_id: str, *, sha256: str | None, size: int | None
    ) -> Snapshot:
        """
        Publish an upload; safe to call again, also after it succeeded.

        Args:
            owner: Whose upload it is.

            upload_id: Which upload.

            sha256: Digest that the whole file has to have; None for no comparison.

            size: Bytes of the whole file, if it began without; None where known.

        Raises:
            UploadProblem: Chunks are missing or differ; nothing has changed.
        """
        try:
            async with self._use(owner, upload_id) as upload:
                if upload.info.completed_at is None:
                    await self._finish(upload, sha256, size)
                rules.check_published(upload.info, sha256, size)
                published = Snapshot.of(upload)
        except UploadMoved:
            # Another process published or removed it meanwhile: see which of the two.
            published = await self.status(owner, upload_id)
            rules.check_published(published.info, sha256, size)
        self._forget(upload_id)
        return published

    async def delete(self, owner: str, upload_id: str) -> None:
        """
        Throw an unfinished upload away; nothing happens when it is not there.

        Raises:
            UploadProblem: It is published already.
        """
        for _ in range(2):
            try:
                async with self._use(owner, upload_id, expired=True) as upload:
                    rules.refuse_if_complete(upload.info)
                    async with self._hold(upload, None):
                        await run(self._pool, upload.refresh)
                        await run(self._pool, self._discard, upload)
                    log.info("%s is thrown away", upload.info.name)
            except UploadMoved:
                continue
            except UploadMissing:
                pass
            break
        self._forget(upload_id)

    async def sessions(self, owner: str) -> list[Snapshot]:
        """Return all unfinished uploads of an owner that have not expired."""
        found: list[Snapshot] = []
        scan = self._parts.storage.scan
        for upload_id in await run(self._pool, lambda: list(scan(owner))):
            with suppress(UploadProblem):
                found.append(await self.status(owner, upload_id))
        return sorted(found, key=lambda snapshot: snapshot.info.created_at)

    async def _put(
        self,
        owner: str,
        upload_id: str,
        take: Callable[[StoredUpload], Awaitable[tuple[ChunkMetadata, bool]]],
        *,
        hold: Callable[[StoredUpload], AbstractAsyncContextManager[None]],
    ) -> tuple[ChunkMetadata, bool]:
        """Hold a chunk, see what became of its upload meanwhile, and take it."""
        async with (
            self._use(owner, upload_id, fresh=False) as upload,
            hold(upload),
        ):
            await run(self._pool, upload.refresh)
            self._check(upload, owner, expired=False)
            return await take(upload)

    async def _finish(
        self, upload: StoredUpload, sha256: str | None, size: int | None
    ) -> None:
        """Check that all of a file is there and right, and publish it."""
        info = rules.settle(upload, size)
        digest = await self._digest(upload, info, wanted=sha256 is not None)
        rules.check_whole_digest(sha256, digest)
        if upload.info.completed_at is not None:
            # Another request published it while its digest was computed.
            return
        async with self._hold(upload, None):
            await run(self._pool, upload.refresh)
            await run(self._pool, self._publish, upload, info, digest)
        log.info("%s is complete, %s bytes", info.name, info.size)

    async def _take(
        self,
        upload: StoredUpload,
        *,
        index: int,
        size: int | None,
        body: Body,
        expected: Expected,
        coding: str | None,
        counter: Counter,
    ) -> tuple[ChunkMetadata, bool]:
        """Take a chunk that is held, into an upload that is fresh."""
        known = upload.chunks.get(index)
        if known is not None:
            compare = CompareSink(known, expected, coding)
            return await pump(body, compare, self._pool, counter), True
        chunk = rules.place(self._config, upload, index, size)
        sink = ChunkSink(upload, chunk, expected, coding)
        async with self._reserved(upload.info, chunk):
            stored = await pump(body, sink, self._pool, counter)
        self._parts.digests.advance(upload)
        return stored, False

    @asynccontextmanager
    async def _reserved(
        self, info: UploadInfo, chunk: ChunkMetadata
    ) -> AsyncIterator[None]:
        """Count a chunk's bytes, where the upload did not announce its size."""
        ledger = self._parts.ledger
        if info.size is not None or not ledger.counts_bytes:
            yield
            return
        await run(self._pool, ledger.reserve, chunk.size)
        try:
            yield
        except BaseException:
            await run(self._pool, ledger.release, chunk.size)
            raise

    async def _digest(
        self, upload: StoredUpload, info: UploadInfo, *, wanted: bool
    ) -> str | None:
        if len(upload.chunks) == 1:
            return next(iter(upload.chunks.values())).sha256
        if (wanted or info.whole_digest) and self._parts.storage.is_readable:
            assert info.size is not None
            return await self._parts.digests.finish(upload, info.size)
        return None

    def _create(self, info: UploadInfo) -> StoredUpload:
        """Count and make an upload, in a thread."""
        self._parts.ledger.begin(info.owner, info.size or 0)
        try:
            return self._parts.storage.create(info)
        except BaseException:
            self._parts.ledger.end(info.owner, info.size or 0)
            raise

    def _publish(
        self, upload: StoredUpload, info: UploadInfo, digest: str | None
    ) -> None:
        """Publish an upload that is held, in a thread."""
        with self._parts.publishing(info.upload_id):
            upload.finish(replace(info, sha256=digest, completed_at=time.time()))
        self._parts.ledger.end(info.owner)

    def _discard(self, upload: StoredUpload) -> None:
        """Remove an upload that is held, in a thread."""
        size = upload.info.size
        if size is None:
            size = sum(chunk.size for chunk in upload.chunks.values())
        upload.discard()
        self._parts.ledger.end(upload.info.owner, size)

    @asynccontextmanager
    async def _use(
        self, owner: str, upload_id: str, *, fresh: bool = True, expired: bool = False
    ) -> AsyncIterator[StoredUpload]:
        """
        Open an upload of this owner; say nothing of those of others.

        Args:
            owner: Whose it has to be.

            upload_id: Which upload.

            fresh: See what other processes did to it; if not, the caller has to.

            expired: Whether one that expired will do.
        """
        if fresh:
            await self._drop_if_moved(upload_id)
        async with self._parts.uploads.use(upload_id) as upload:
            self._check(upload, owner, expired=expired or not fresh)
            note(upload=upload_id)
            try:
                yield upload
            except UploadMoved:
                self._parts.uploads.forget(upload_id, upload)
                raise

    async def _drop_if_moved(self, upload_id: str) -> None:
        """See what other processes did to an upload; let go of one that is gone."""
        async with self._parts.uploads.use(upload_id) as upload:
            try:
                await run(self._pool, upload.refresh)
            except UploadMoved:
                self._parts.uploads.forget(upload_id, upload)

    def _check(self, upload: StoredUpload, owner: str, *, expired: bool) -> None:
        if upload.info.owner != owner:
            raise UploadMissing
        if not expired:
            rules.refuse_if_expired(upload, self._config.expires_after)

    def _hold(
        self, upload: StoredUpload, index: int | None, body: Body | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold a chunk, or all of them; a newer request ends the body of this one."""
        rules.refuse_if_complete(upload.info)
        evict = _keep_on if body is None else partial(body.stop, superseded())
        return self._parts.locker.hold(upload.info.upload_id, index, evict)

    def _forget(self, upload_id: str) -> None:
        """Let go of an upload that ended, and tell who watches it."""
        self._parts.digests.forget(upload_id)
        self._parts.uploads.forget(upload_id)
        self._parts.activities.changed(upload_id)


def superseded() -> UploadProblem:
    """Return the problem of a request whose bytes come anew in another one."""
    return UploadProblem(
        ProblemType.SUPERSEDED, "A newer request for the same bytes came in."
    )


def _keep_on() -> None:
    """Let whoever publishes or removes an upload end, whoever else comes."""
