"""One file on its way to S3, whole in one request; and what all uploads there share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from upload_kit.destinations.s3_proof import has_parts, is_same
from upload_kit.errors import (
    ConfigurationError,
    RemoteError,
    RemoteGone,
    RemoteRejected,
)
from upload_kit.models import Receipt, RemoteObject
from upload_kit.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.s3_bucket import S3Bucket, Stored
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan


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


class S3Upload:
    """
    What all kinds of upload share.

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


class SinglePut(S3Upload):
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
            if found is None or not await is_same(found, body):
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


class PublishedUpload(S3Upload):
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
        if found is None or has_parts(found, receipts) is not True:
            raise self._gone()
        return RemoteObject(location=self._location, size=found.size)

    async def abort(self) -> None:
        """Do nothing: it is either published or not there."""
