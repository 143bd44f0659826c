"""
The three ways of a file to a tus server.

    TusUpload   one resource, chunk after chunk
    TusParts    a partial upload for every chunk, in any order, joined by the server
    TusAtOnce   a small file together with the request that begins its upload
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Final

from upload_kit.destinations.tus_fields import BYTES, format_checksum
from upload_kit.errors import (
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
)
from upload_kit.models import Receipt, RemoteObject
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.tus_collection import TusCollection
    from upload_kit.destinations.tus_resource import TusResource
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

# Joining parts means that the server copies them: at this rate at least.
_JOIN_RATE: Final = 50 * MIB


class TusUpload:
    """
    One resource that takes a whole file.

    Args:
        resource: Where it goes.

        spec: What is sent.

        plan: Its chunks.

        removable: Whether the server lets go of uploads when asked.
    """

    def __init__(
        self, resource: TusResource, spec: UploadSpec, plan: Plan, *, removable: bool
    ) -> None:
        self._resource = resource
        self._spec = spec
        self._plan = plan
        self._removable = removable
        self.token = resource.url

    async def held(self) -> Sequence[Receipt]:
        """Return the chunks below the offset; see `RemoteUpload.held`."""
        offset = await self._resource.offset()
        receipts = []
        for chunk in self._plan.chunks():
            if chunk.end > offset:
                break
            receipts.append(Receipt(index=chunk.index, size=chunk.size))
        return receipts

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Append a chunk; see `RemoteUpload.put`."""
        # A short chunk is the last one: it tells the length that was not known before.
        is_last = self._spec.size is None and chunk.size < self._plan.chunk_size
        length = chunk.end if is_last else None
        await self._resource.put(chunk, body, length=length)
        return Receipt(index=chunk.index, size=chunk.size)

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Make sure that everything is there; see `RemoteUpload.complete`."""
        size = sum(receipt.size for receipt in receipts)
        if self._spec.size is None:
            await self._resource.declare(size)
        return await _finished(self._resource, size)

    async def abort(self) -> None:
        """Have the upload thrown away; see `RemoteUpload.abort`."""
        if self._removable:
            await self._resource.remove()


class TusAtOnce:
    """
    A small file, sent with the request that begins its upload.

    If the server takes less than all of it, the rest is appended.

    Args:
        collection: Where uploads begin.

        spec: What is sent; its size is known.

        checksum: Digest that each request carries; None for none.

        removable: Whether the server lets go of uploads when asked.
    """

    def __init__(
        self,
        collection: TusCollection,
        spec: UploadSpec,
        *,
        checksum: str | None,
        removable: bool,
    ) -> None:
        self._collection = collection
        self._spec = spec
        self._checksum = checksum
        self._removable = removable
        self._resource: TusResource | None = None
        # It leads nowhere: what a session remembers does not go in this way.
        self.token = secrets.token_hex(16)

    async def held(self) -> Sequence[Receipt]:
        """Return nothing: the address of what was begun before is not known."""
        return []

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Begin and send; see `RemoteUpload.put`."""
        if self._resource is None:
            self._resource = await self._create(body)
        await self._resource.put(chunk, body)
        return Receipt(index=chunk.index, size=chunk.size)

    async def _create(self, body: ChunkBody) -> TusResource:
        fields = {"Upload-Length": str(self._spec.size), "Content-Type": BYTES}
        if self._checksum is not None:
            digest = await body.digest(self._checksum)
            fields["Upload-Checksum"] = format_checksum(self._checksum, digest)
        return await self._collection.create(
            self._spec,
            fields,
            size=self._spec.size,
            checksum=self._checksum,
            body=body,
        )

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Make sure that everything is there; see `RemoteUpload.complete`."""
        assert self._resource is not None
        return await _finished(self._resource, sum(one.size for one in receipts))

    async def abort(self) -> None:
        """Have the upload thrown away; see `RemoteUpload.abort`."""
        if self._removable and self._resource is not None:
            await self._resource.remove()


class TusParts:
    """
    A partial upload for every chunk; the server joins them in the end.

    Args:
        collection: Where uploads begin.

        resources: One for every chunk, in order.

        spec: What is sent.

        removable: Whether the server lets go of uploads when asked.
    """

    def __init__(
        self,
        collection: TusCollection,
        resources: Sequence[TusResource],
        spec: UploadSpec,
        *,
        removable: bool,
    ) -> None:
        self._collection = collection
        self._resources = resources
        self._spec = spec
        self._removable = removable
        self._joined: TusResource | None = None
        self.token = json.dumps([resource.url for resource in resources])

    async def held(self) -> Sequence[Receipt]:
        """Return the parts that are whole; see `RemoteUpload.held`."""
        return [
            Receipt(index=index, size=resource.size)
            for index, resource in enumerate(self._resources)
            if resource.size is not None and await resource.offset() == resource.size
        ]

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Send a part, or the rest of it; see `RemoteUpload.put`."""
        await self._resources[chunk.index].put(chunk, body)
        return Receipt(index=chunk.index, size=chunk.size)

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Have the parts joined; see `RemoteUpload.complete`."""
        size = sum(receipt.size for receipt in receipts)
        if self._joined is None:
            await self._require_whole()
            self._joined = await self._join(size)
        offset = await self._joined.ask()
        if offset is None:
            raise RemoteUnavailable(f"{self._joined.shown} is not joined yet.")
        if offset != size:
            raise IntegrityError(
                f"{self._joined.shown} has {offset} bytes; its parts had {size}."
            )
        return RemoteObject(
            location=self._joined.shown, size=size, sha256=self._joined.sha256
        )

    async def _require_whole(self) -> None:
        """Make sure that nothing is missing: a server may wait for it for ever."""
        if len(await self.held()) < len(self._resources):
            raise OffsetConflict(f"Not all parts of {self._spec.name} are there.")

    async def _join(self, size: int) -> TusResource:
        urls = " ".join(resource.url for resource in self._resources)
        try:
            return await self._collection.create(
                self._spec,
                {"Upload-Concat": f"final;{urls}"},
                response_timeout=self._collection.wire.response_timeout
                + size / _JOIN_RATE,
            )
        except RemoteRejected as error:
            if error.status in {404, 410}:
                raise RemoteGone("The server lost parts that it had.") from error
            raise

    async def abort(self) -> None:
        """Have all parts thrown away; see `RemoteUpload.abort`."""
        if self._removable:
            await asyncio.gather(*(one.remove() for one in self._resources))


async def _finished(resource: TusResource, size: int) -> RemoteObject:
    """
    Return what stands at a resource.

    Raises:
        OffsetConflict: It holds another amount.
    """
    offset = await resource.offset()
    if offset != size:
        resource.doubt()
        raise OffsetConflict(f"{resource.shown} holds {offset} bytes, not {size}.")
    return RemoteObject(location=resource.shown, size=size, sha256=resource.sha256)
