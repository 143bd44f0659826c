"""One file on its way to S3: in parts, in any order, or whole in one request."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec

from upload_kit.destinations.s3_xml import encode_digest
from upload_kit.errors import (
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    RemoteError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
)
from upload_kit.models import Receipt, RemoteObject
from upload_kit.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.s3_bucket import Part, S3Bucket, Stored
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

MAX_PARTS: Final = 10_000

_TAG: Final = re.compile(r'"?([0-9a-f]{32})"?')
# Parts that were on their way may arrive after an abort, so it is done again.
_ABORTS: Final = 4
_SETTLE: Final = 1.0
_NOT_IMPLEMENTED: Final = 501


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Record):
    """What is remembered of an upload."""

    key: str
    """The object's key."""

    upload_id: str | None = None
    """None: the object goes in one request."""


def read_token(token: str, key: str) -> Token:
    """
    Return what is remembered.

    Raises:
        RemoteGone: It is no token, or stands for another object.
    """
    try:
        read = Token.from_json(token)
    except ConfigurationError as error:
        raise RemoteGone("Not a half-done upload to S3.") from error
    if read.key != key:
        raise RemoteGone(f"The half-done upload was of {read.key}, not of {key}.")
    return read


class _Upload:
    """
    What both kinds of upload share.

    Args:
        bucket: Where it goes.

        spec: What it is.

        token: What is remembered of it.
    """

    def __init__(self, bucket: S3Bucket, spec: UploadSpec, token: Token) -> None:
        self._bucket = bucket
        self._spec = spec
        self._key = token.key
        self._location = f"s3://{bucket.name}/{token.key}"
        self.token = token.to_json()

    def _exists(self) -> RemoteRejected:
        return RemoteRejected(
            f"{self._location} exists already.",
            status=412,
            hint="Allow to overwrite it.",
        )

    async def _found(self) -> Stored | None:
        try:
            return await self._bucket.head(self._key)
        except RemoteGone:
            return None


class SinglePut(_Upload):
    """A file in one request."""

    def __init__(self, bucket: S3Bucket, spec: UploadSpec, token: Token) -> None:
        super().__init__(bucket, spec, token)
        self._stored: RemoteObject | None = None

    async def held(self) -> Sequence[Receipt]:
        """Return nothing: half an object is not kept."""
        return []

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Send the file; see `RemoteUpload.put`."""
        digest = await body.digest("sha256")
        try:
            sha256 = await self._bucket.put_object(
                self._key,
                body,
                content_type=self._spec.content_type,
                metadata=self._spec.metadata,
                overwrite=self._spec.overwrite,
            )
        except RemoteError as error:
            if error.status != 412:
                raise
            # An earlier try may have arrived, although its answer did not; aiohttp
            # sends a PUT again by itself when an idle connection breaks.
            found = await self._found()
            if found is None or not await _is_same(found, body):
                raise self._exists() from error
            sha256 = digest.hex() if found.sha256 else None
        self._stored = RemoteObject(
            location=self._location, size=chunk.size, sha256=sha256
        )
        return Receipt(index=chunk.index, size=chunk.size, sha256=digest.hex())

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Return what `put` has published."""
        assert self._stored is not None
        return self._stored

    async def abort(self) -> None:
        """Do nothing: it is either published or not there."""


class MultipartUpload(_Upload):
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
        same = _has_parts(found, receipts)
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
        same = _has_parts(stored, receipts)
        if same is False and stored.sha256:
            raise IntegrityError(
                f"{self._location} was put together as {stored.sha256}, not as"
                f" {_composite(receipts)}."
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


class PublishedUpload(_Upload):
    """
    What may have been put together before a kill, so that the service forgot its parts.

    Args:
        bucket: Where it went.

        spec: What it is.

        plan: Its chunks.

        token: With the upload's ID.
    """

    def __init__(
        self, bucket: S3Bucket, spec: UploadSpec, plan: Plan, token: Token
    ) -> None:
        super().__init__(bucket, spec, token)
        self._plan = plan

    async def find(self) -> Self:
        """
        Make sure that there is an object of its size.

        Raises:
            RemoteGone: There is none.
        """
        found = await self._found()
        if found is None or found.size != self._spec.size:
            raise self._gone()
        return self

    def _gone(self) -> RemoteGone:
        return RemoteGone(f"The half-done upload to {self._location} is gone.")

    async def held(self) -> Sequence[Receipt]:
        """Return all chunks; only those count whose digest a session remembers."""
        return [
            Receipt(index=chunk.index, size=chunk.size) for chunk in self._plan.chunks()
        ]

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Refuse: it takes no parts any more."""
        raise self._gone()

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Return the object, if it is made of these very parts."""
        found = await self._found()
        if found is None or _has_parts(found, receipts) is not True:
            raise self._gone()
        return RemoteObject(location=self._location, size=found.size)

    async def abort(self) -> None:
        """Do nothing: it is either published or not there."""


async def _is_same(found: Stored, body: ChunkBody) -> bool:
    """Whether an object has these bytes, as far as the service says what it has."""
    if found.sha256:
        return found.sha256 == encode_digest(await body.digest("sha256"))
    if found.md5 is None or found.size != body.size:
        return False
    return found.md5 == (await body.digest("md5")).hex()


def _decoded(digest: str | None) -> str | None:
    if digest is None:
        return None
    try:
        return msgspec.convert(digest, bytes).hex()
    except msgspec.ValidationError:
        return None


def _composite(receipts: Sequence[Receipt]) -> str | None:
    """Return the digest of the parts' digests in base64; None if one is not known."""
    digest = hashlib.sha256()
    for receipt in receipts:
        if receipt.sha256 is None:
            return None
        digest.update(bytes.fromhex(receipt.sha256))
    return encode_digest(digest.digest())


def _etag(receipts: Sequence[Receipt]) -> str | None:
    """Return what most services make of the parts' ETags; None if they cannot."""
    digest = hashlib.md5(usedforsecurity=False)
    for receipt in receipts:
        match = _TAG.fullmatch(receipt.tag or "")
        if match is None:
            return None
        digest.update(bytes.fromhex(match[1]))
    return f"{digest.hexdigest()}-{len(receipts)}"


def _has_parts(found: Stored, receipts: Sequence[Receipt]) -> bool | None:
    """Whether an object is what these parts make; None if it does not tell."""
    ours = _composite(receipts)
    if found.sha256 and ours is not None:
        # The number of parts follows the digest, though not everywhere.
        return found.sha256.partition("-")[0] == ours
    etag = _etag(receipts)
    if "-" not in found.etag or etag is None:
        return None
    return found.etag.strip('"') == etag
