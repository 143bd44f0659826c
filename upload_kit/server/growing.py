"""
The life of an upload that grows at its end. Knows no HTTP.

What arrives is added where the upload ends, and counts from there on; whoever asks how
far it is ends a request that is still open, which keeps what it has.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from upload_kit.server import rules
from upload_kit.server.append import AppendSink
from upload_kit.server.body import too_large
from upload_kit.server.core import UploadCore
from upload_kit.server.documents import Snapshot
from upload_kit.server.fields import malformed
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.receive import pump, run
from upload_kit.server.storage import UploadMissing, UploadMoved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from upload_kit.server.activity import Counter
    from upload_kit.server.append import Checksum
    from upload_kit.server.receive import Body
    from upload_kit.server.rules import NewUpload
    from upload_kit.server.storage import StoredUpload, UploadInfo


class GrowingCore(UploadCore):
    """What may happen to uploads that grow, and when; see `UploadCore`."""

    async def begin(self, owner: str, new: NewUpload) -> Snapshot:
        """
        Begin an upload; an empty one is complete at once.

        Raises:
            UploadProblem: It is larger than may be, or there are too many.
        """
        chunk_size = max(1, new.size or self._config.default_chunk)
        info = rules.begin(
            self._config, owner, replace(new, grows=True), chunk_size=chunk_size
        )
        upload = await run(self._pool, self._create, info)
        self._parts.uploads.add(upload)
        if info.size == 0:
            return await self.look(owner, info.upload_id)
        return Snapshot.of(upload)

    async def look(self, owner: str, upload_id: str) -> Snapshot:
        """
        Return how far an upload is, once a request that adds to it has been ended.

        Raises:
            UploadProblem: There is none for this owner, it expired, or it is busy.
        """
        return await self._held(owner, upload_id, self._finish_if_whole)

    async def append(
        self,
        owner: str,
        upload_id: str,
        offset: int,
        *,
        body: Body,
        length: int | None = None,
        checksum: Checksum | None = None,
    ) -> Snapshot:
        """
        Add bytes to an upload; publish it when it is whole.

        Args:
            owner: Whose upload it is.

            upload_id: Which upload.

            offset: Where the client believes it ends.

            body: The bytes.

            length: Bytes of the whole, if the client knows them only now.

            checksum: What the bytes have to be; None for no comparison.

        Raises:
            UploadProblem: They were refused, or broke off; without a checksum, what
                arrived before counts.
        """
        with (
            self._parts.activities.of(upload_id) as activity,
            activity.receiving() as counter,
        ):
            take = partial(
                self._append,
                offset=offset,
                body=body,
                length=length,
                checksum=checksum,
                counter=counter,
            )
            return await self._held(owner, upload_id, take, body=body)

    async def terminate(self, owner: str, upload_id: str) -> None:
        """
        Throw an upload away, complete or not.

        Raises:
            UploadProblem: There is none for this owner.
        """
        await self._held(owner, upload_id, self._remove, expired=True)
        self._forget(upload_id)

    async def _held(
        self,
        owner: str,
        upload_id: str,
        act: Callable[[StoredUpload], Awaitable[None]],
        *,
        body: Body | None = None,
        expired: bool = False,
    ) -> Snapshot:
        """
        Do something to an upload while nobody else can.

        Args:
            owner: Whose it has to be.

            upload_id: Which upload.

            act: What to do; a published upload cannot be held, and need not be.

            body: What to end when somebody else wants the upload.

            expired: Whether one that expired will do.
        """
        for _ in range(2):
            try:
                using = self._use(owner, upload_id, fresh=False, expired=expired)
                async with using as upload:
                    if not upload.info.grows:
                        raise UploadMissing
                    if upload.info.completed_at is not None:
                        # Another process may have removed it.
                        await run(self._pool, upload.refresh)
                        await act(upload)
                        return Snapshot.of(upload)
                    async with self._hold(upload, None, body):
                        await run(self._pool, upload.refresh)
                        self._check(upload, owner, expired=expired)
                        await act(upload)
                        snapshot = Snapshot.of(upload)
                break
            except UploadMoved:
                # Published or removed meanwhile; see which, and what that means.
                continue
        else:
            raise UploadMissing
        if snapshot.is_complete:
            self._forget(upload_id)
        return snapshot

    async def _append(
        self,
        upload: StoredUpload,
        *,
        offset: int,
        body: Body,
        length: int | None,
        checksum: Checksum | None,
        counter: Counter,
    ) -> None:
        held = end_of(upload)
        if upload.info.joins:
            raise UploadProblem(
                ProblemType.FORBIDDEN, "What is joined from parts takes no bytes."
            )
        if offset != held:
            raise UploadProblem(
                ProblemType.OFFSET_MISMATCH,
                f"The upload ends at {held}, not at {offset}.",
                extra={"expected": held, "actual": offset},
            )
        if length is not None:
            await self._declare(upload, held, length)
        room = self._room(upload.info, held)
        if body.size is not None and room is not None and body.size > room:
            raise too_large(room)
        if upload.info.completed_at is None:
            sink = AppendSink(
                upload,
                held,
                room=room,
                checksum=checksum,
                ledger=self._parts.ledger if upload.info.size is None else None,
                pool=self._pool,
            )
            await self._take_all(upload, sink, body, counter)
            await self._finish_if_whole(upload)

    async def _take_all(
        self, upload: StoredUpload, sink: AppendSink, body: Body, counter: Counter
    ) -> None:
        """Take a body, or of one that breaks off what came before."""

        def arrived(size: int) -> None:
            counter(size)
            self._parts.digests.advance(upload)

        try:
            await pump(body, sink, self._pool, arrived)
        except BaseException:
            await run(self._pool, sink.keep)
            raise
        self._parts.digests.advance(upload)

    async def _declare(self, upload: StoredUpload, held: int, length: int) -> None:
        """Give an upload its length, once."""
        info = upload.info
        if info.size is not None:
            if info.size != length:
                raise malformed(f"The upload has {info.size} bytes, not {length}.")
            return
        if length < held:
            raise malformed(f"{held} bytes came already; {length} are too few.")
        rules.check_size(self._config, length)
        await run(self._pool, self._parts.ledger.reserve, length - held)
        settled = replace(info, size=length, chunk_size=max(1, length))
        try:
            await run(self._pool, upload.update, settled)
        except BaseException:
            await run(self._pool, self._parts.ledger.release, length - held)
            raise

    def _room(self, info: UploadInfo, held: int) -> int | None:
        """Return how many bytes may be added."""
        limit = self._config.max_size if info.size is None else info.size
        return None if limit is None else max(0, limit - held)

    async def _finish_if_whole(self, upload: StoredUpload) -> None:
        """
        Publish an upload when its last byte counts.

        It may have counted before a kill that came before it could be published.
        """
        info = upload.info
        if (
            info.completed_at is not None
            or info.is_part
            or info.joins
            or info.size != end_of(upload)
        ):
            return
        await self._publish_whole(upload)

    async def _publish_whole(self, upload: StoredUpload) -> None:
        info = upload.info
        digest = None
        if info.whole_digest and self._parts.storage.is_readable:
            digest = await self._parts.digests.finish(upload, info.size or 0)
        await run(self._pool, self._publish, upload, info, digest)

    async def _remove(self, upload: StoredUpload) -> None:
        if upload.info.completed_at is None:
            await run(self._pool, self._discard, upload)
        else:
            await run(self._pool, self._discard_published, upload)

    def _discard_published(self, upload: StoredUpload) -> None:
        """Remove a published file, in a thread."""
        upload.discard()
        if self._parts.outbox is not None:
            self._parts.outbox.drop(upload.info.upload_id)
        self._parts.ledger.release(upload.info.size or 0)


def end_of(upload: StoredUpload) -> int:
    """Return how many bytes of an upload that grows count."""
    chunk = upload.chunks.get(0)
    return 0 if chunk is None else chunk.size
