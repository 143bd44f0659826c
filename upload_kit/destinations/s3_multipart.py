"""One file on its way to S3 in parts, in any order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.destinations.s3_proof import composite, has_parts
from upload_kit.destinations.s3_uploads import S3Upload
from upload_kit.errors import (
    IntegrityError,
    OffsetConflict,
    RemoteError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
)
from upload_kit.models import Receipt, RemoteObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.s3_bucket import Part, S3Bucket, Stored
    from upload_kit.destinations.s3_uploads import Token
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

MAX_PARTS: Final = 10_000

# Parts that were on their way may arrive after an abort, so it is done again.
_ABORTS: Final = 4
_SETTLE: Final = 1.0
_NOT_IMPLEMENTED: Final = 501


class MultipartUpload(S3Upload):
    """
    A file in parts.

    Args:
        bucket: Where it goes.

        spec: What it is.

        plan: Its chunks; the part of chunk 0 has the number 1.

        token: With the upload's ID.

        parts: Those that have arrived, where that is known.

        tried: Whether another process may have tried to complete it.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        spec: UploadSpec,
        plan: Plan,
        token: Token,
        *,
        parts: list[Part] | None,
        tried: bool = False,
    ) -> None:
        assert token.upload_id is not None
        super().__init__(bucket, spec, token)
        self._tried = tried
        self._plan = plan
        self._id = token.upload_id
        self._listed = parts
        self._stored: RemoteObject | None = None
        self._aborted = False
        # Requests with a part that ended without an answer.
        self._loose = 0
        # Numbers of the parts that the service has, or may have.
        self._sent: set[int] = set()

    async def held(self) -> Sequence[Receipt]:
        """List the parts; see `RemoteUpload.held`."""
        self._require_alive()
        parts, self._listed = self._listed, None
        if parts is None:
            parts = await self._bucket.parts(self._key, self._id)
        self._sent.update(part.number for part in parts)
        receipts = (self._receipt(part) for part in parts)
        return [receipt for receipt in receipts if receipt is not None]

    def _receipt(self, part: Part) -> Receipt | None:
        """Return a receipt for a part that the plan knows in this size."""
        index = part.number - 1
        total = self._plan.total_chunks
        if total is not None and not 0 <= index < total:
            return None
        if part.size != self._plan.chunk(index).size:
            return None
        return Receipt(
            index=index, size=part.size, sha256=_decoded(part.sha256), tag=part.etag
        )

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Store one part; see `RemoteUpload.put`."""
        self._require_alive()
        if chunk.index >= MAX_PARTS:
            raise RemoteRejected(
                f"{self._location} has more than {MAX_PARTS} parts.",
                hint="Give the size beforehand, or a larger chunk_size.",
            )
        digest = await body.digest("sha256")
        self._listed = None
        self._loose += 1
        etag = await self._put_part(chunk.index + 1, body)
        self._loose -= 1
        return Receipt(
            index=chunk.index, size=chunk.size, sha256=digest.hex(), tag=etag
        )

    async def _put_part(self, number: int, body: ChunkBody) -> str:
        """
        Store a part, and return its ETag.

        Raises:
            RemoteGone: The service has other bytes for it and keeps those, as rclone
                does; so nothing can be made of the upload any more.
        """
        again = number in self._sent
        self._sent.add(number)
        try:
            return await self._bucket.put_part(self._key, self._id, number, body)
        except RemoteRejected as error:
            if error.status != _NOT_IMPLEMENTED or not again:
                raise
            await self._bucket.abort(self._key, self._id)
            raise RemoteGone(
                f"Part {number} of {self._location} cannot be replaced, so that the"
                " upload has to begin anew.",
                status=error.status,
            ) from error

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """
        Have the parts put together, and compare the whole.

        The service computes a digest of all parts' digests, in their order, so that the
        whole object is proved without reading it again.
        """
        if self._stored is not None:
            return self._stored
        self._require_alive()
        if any(receipt.tag is None for receipt in receipts):
            raise OffsetConflict(f"Not all parts of {self._location} are known.")
        tried, self._tried = self._tried, True
        try:
            stored: Stored | None = await self._bucket.complete(
                self._key, self._id, receipts, overwrite=self._spec.overwrite
            )
        except RemoteGone:
            stored = await self._done_before(receipts, tried=tried)
            if stored is None:
                raise
        except RemoteError as error:
            if error.status != 412:
                raise
            stored = await self._done_before(receipts, tried=tried)
            if stored is None:
                raise self._exists() from error
        assert stored is not None
        self._stored = await self._compared(stored, receipts)
        return self._stored

    def _require_alive(self) -> None:
        if self._aborted:
            raise RemoteGone(f"The upload to {self._location} was aborted.")

    async def _done_before(
        self, receipts: Sequence[Receipt], *, tried: bool
    ) -> Stored | None:
        """
        Return the object if an earlier try made it and its answer was lost.

        Args:
            receipts: Of its parts.

            tried: Whether there was one; then an object that says nothing of its parts
                is ours if it has as many bytes.
        """
        found = await self._found()
        if found is None or found.size != sum(receipt.size for receipt in receipts):
            return None
        same = has_parts(found, receipts)
        return found if same or (same is None and tried) else None

    async def _compared(
        self, stored: Stored, receipts: Sequence[Receipt]
    ) -> RemoteObject:
        """Compare the object with its parts; look at it only if the answer was mute."""
        if not (same := self._require_same(stored, receipts)):
            stored = await self._found() or stored
            same = self._require_same(stored, receipts)
        size = sum(receipt.size for receipt in receipts) if same else stored.size
        return RemoteObject(location=self._location, size=size)

    def _require_same(self, stored: Stored, receipts: Sequence[Receipt]) -> bool:
        """Return whether it is proved; an ETag may be made otherwise, a digest not."""
        same = has_parts(stored, receipts)
        if same is False and stored.sha256:
            raise IntegrityError(
                f"{self._location} was put together as {stored.sha256}, not as"
                f" {composite(receipts)}."
            )
        return same is True

    async def abort(self) -> None:
        """Throw the parts away until none is left; see `RemoteUpload.abort`."""
        self._aborted = True
        for _ in range(_ABORTS):
            await self._bucket.abort(self._key, self._id)
            if self._loose:
                # What broke off may still be stored, and brings the upload back.
                self._loose = 0
                await asyncio.sleep(_SETTLE)
                continue
            try:
                if not await self._bucket.parts(self._key, self._id):
                    return
            except RemoteGone:
                return
        raise RemoteUnavailable(f"Parts of {self._location} are still there.")


def _decoded(digest: str | None) -> str | None:
    if digest is None:
        return None
    try:
        return msgspec.convert(digest, bytes).hex()
    except msgspec.ValidationError:
        return None
