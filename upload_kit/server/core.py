"""
The life of an incoming upload: from its first byte to its final name. Knows no HTTP.

Every protocol of the server ends here; protocols never meet one another.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from upload_kit.models import ChunkMetadata
from upload_kit.server import rules
from upload_kit.server.documents import Snapshot
from upload_kit.server.intake import ChunkSink, CompareSink, FileSink
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.receive import pump, run
from upload_kit.server.storage import UploadMissing, UploadMoved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager

    from upload_kit.server.config import ServerConfig
    from upload_kit.server.digests import WholeDigests
    from upload_kit.server.intake import Expected
    from upload_kit.server.locks import Locker
    from upload_kit.server.opened import OpenUploads
    from upload_kit.server.receive import Body
    from upload_kit.server.rules import NewUpload
    from upload_kit.server.storage import Storage, StoredUpload, UploadInfo


class UploadCore:
    """
    What may happen to uploads, and when.

    Args:
        config: Limits.

        storage: Where uploads are.

        locker: Keeps requests from working on the same chunk.

        uploads: Those that are open in this process.

        digests: Computes digests of whole files.

        pool: Threads for files and hashes.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        storage: Storage,
        locker: Locker,
        uploads: OpenUploads,
        digests: WholeDigests,
        pool: Executor,
    ) -> None:
        self._config = config
        self._storage = storage
        self._locker = locker
        self._digests = digests
        self._pool = pool
        self._open = uploads

    async def create(self, owner: str, new: NewUpload) -> Snapshot:
        """
        Begin an upload whose chunks come one by one.

        Raises:
            UploadProblem: It is larger, or in more chunks, than may be.
        """
        chunk_size = rules.choose_chunk_size(self._config, new)
        info = rules.begin(self._config, owner, new, chunk_size)
        upload = await run(self._pool, self._storage.create, info)
        self._open.add(upload)
        return _snapshot(upload)

    async def status(self, owner: str, upload_id: str) -> Snapshot:
        """
        Return how far an upload is.

        Raises:
            UploadProblem: There is none for this owner, or it expired.
        """
        async with self._use(owner, upload_id) as upload:
            return _snapshot(upload)

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
        try:
            async with (
                self._use(owner, upload_id, fresh=False) as upload,
                self._hold(upload_id, index, body),
            ):
                await self._refresh(upload, owner)
                rules.refuse_if_complete(upload.info)
                chunk = rules.place(self._config, upload, index, size)
                known = upload.chunks.get(index)
                if known is not None:
                    compare = CompareSink(known, expected, coding)
                    return await pump(body, compare, self._pool), True
                sink = ChunkSink(upload, chunk, expected, coding)
                stored = await pump(body, sink, self._pool)
                self._digests.advance(upload)
                return stored, False
        except UploadMoved:
            # Published or removed by another process; nothing of the body was read.
            return await self.put_chunk(
                owner,
                upload_id,
                index,
                body=body,
                size=size,
                expected=expected,
                coding=coding,
            )

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
        async with self._use(owner, upload_id) as upload:
            if upload.info.completed_at is not None:
                rules.check_published(upload.info, sha256, size)
                return _snapshot(upload)
            info = rules.settle(upload, size)
            digest = await self._whole_digest(upload, info, wanted=sha256 is not None)
            rules.check_whole_digest(sha256, digest)
            published = await self._publish(upload, replace(info, sha256=digest))
        self._forget(upload_id)
        if published is None:
            return await self.complete(owner, upload_id, sha256=sha256, size=size)
        return published

    async def delete(self, owner: str, upload_id: str) -> None:
        """
        Throw an unfinished upload away; nothing happens when it is not there.

        Raises:
            UploadProblem: It is published already.
        """
        try:
            async with self._use(owner, upload_id, expired=True) as upload:
                rules.refuse_if_complete(upload.info)
                async with self._hold(upload_id, None):
                    await run(self._pool, upload.refresh)
                    await run(self._pool, upload.discard)
        except UploadMoved:
            await self.delete(owner, upload_id)
        except UploadMissing:
            return
        self._forget(upload_id)

    async def store(
        self,
        owner: str,
        new: NewUpload,
        *,
        body: Body,
        expected: Expected,
        key: str | None = None,
    ) -> Snapshot:
        """
        Store a file that comes in one request.

        Args:
            owner: Whose file it is.

            new: What is said of it.

            body: Its bytes.

            expected: Digests that it has to have.

            key: The same key again returns the first file instead of a second one.

        Raises:
            UploadProblem: It was refused; nothing is left of it then.
        """
        if key is None:
            return await self._store(owner, new, body=body, expected=expected, key=None)
        async with self._hold(f"key-{key}", 0, body):
            first = await run(self._pool, self._storage.find, key)
            if first is not None:
                return await self.status(owner, first)
            return await self._store(owner, new, body=body, expected=expected, key=key)

    async def sessions(self, owner: str) -> list[Snapshot]:
        """Return all unfinished uploads of an owner that have not expired."""
        found: list[Snapshot] = []
        for upload_id in await run(self._pool, lambda: list(self._storage.scan())):
            try:
                found.append(await self.status(owner, upload_id))
            except UploadProblem:
                continue
        return sorted(found, key=lambda snapshot: snapshot.info.created_at)

    def close(self) -> None:
        """Let go of all open uploads."""
        self._open.close()

    async def _store(
        self,
        owner: str,
        new: NewUpload,
        *,
        body: Body,
        expected: Expected,
        key: str | None,
    ) -> Snapshot:
        info = rules.begin(self._config, owner, new, max(1, new.size or 0))
        sink = FileSink(self._storage, info, expected, key)
        try:
            info = await pump(body, sink, self._pool)
        except BaseException:
            await run(self._pool, sink.abort)
            raise
        chunk = ChunkMetadata(index=0, start=0, size=info.size or 0, sha256=info.sha256)
        return Snapshot(
            info=info, chunks={0: chunk}, touched_at=info.completed_at or 0.0
        )

    async def _publish(self, upload: StoredUpload, info: UploadInfo) -> Snapshot | None:
        """Publish; None if another process did so, or removed it, meanwhile."""
        async with self._hold(info.upload_id, None):
            try:
                await run(self._pool, upload.refresh)
            except UploadMoved:
                return None
            info = replace(info, completed_at=time.time())
            await run(self._pool, upload.finish, info)
            return _snapshot(upload)

    async def _whole_digest(
        self, upload: StoredUpload, info: UploadInfo, *, wanted: bool
    ) -> str | None:
        if len(upload.chunks) == 1:
            return next(iter(upload.chunks.values())).sha256
        if wanted or info.whole_digest:
            assert info.size is not None
            return await self._digests.finish(upload, info.size)
        return None

    @asynccontextmanager
    async def _use(
        self, owner: str, upload_id: str, *, fresh: bool = True, expired: bool = False
    ) -> AsyncIterator[StoredUpload]:
        """
        Open an upload of this owner; say nothing of those of others.

        Args:
            owner: Whose it has to be.

            upload_id: Which upload.

            fresh: See what other processes did to it; if not, `_refresh` has to.

            expired: Whether one that expired will do.
        """
        moved = False
        async with self._open.use(upload_id) as upload:
            try:
                if fresh:
                    await run(self._pool, upload.refresh)
            except UploadMoved:
                moved = True
            else:
                self._check(upload, owner, expired=expired or not fresh)
                try:
                    yield upload
                except UploadMoved:
                    self._open.forget(upload_id, upload)
                    raise
        if moved:
            self._open.forget(upload_id, upload)
            async with self._open.use(upload_id) as upload:
                self._check(upload, owner, expired=expired)
                yield upload

    async def _refresh(self, upload: StoredUpload, owner: str) -> None:
        await run(self._pool, upload.refresh)
        self._check(upload, owner, expired=False)

    def _check(self, upload: StoredUpload, owner: str, *, expired: bool) -> None:
        if upload.info.owner != owner:
            raise UploadMissing
        if not expired:
            rules.refuse_if_expired(upload, self._config.expires_after)

    def _hold(
        self, name: str, index: int | None, body: Body | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold a chunk, or all of them; a newer request ends the body of this one."""
        evict = _keep_on if body is None else partial(body.stop, _superseded())
        return self._locker.hold(name, index, evict)

    def _forget(self, upload_id: str) -> None:
        self._digests.forget(upload_id)
        self._open.forget(upload_id)


def _snapshot(upload: StoredUpload) -> Snapshot:
    return Snapshot(
        info=upload.info, chunks=upload.chunks, touched_at=upload.touched_at
    )


def _superseded() -> UploadProblem:
    return UploadProblem(
        ProblemType.SUPERSEDED, "A newer request for the same bytes came in."
    )


def _keep_on() -> None:
    """Whoever publishes or removes an upload is not stopped by a newer request."""
