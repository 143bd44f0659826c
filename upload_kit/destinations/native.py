"""
Our own server, found at an `http(s)://` URL.

A file of up to 1 MiB goes in one request; any other one in chunks, in any order.
Source: `docs/dev/native-protocol.md`.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
from yarl import URL

from upload_kit.checksums import format_digest
from upload_kit.destinations.native_batch import MOST, Batcher
from upload_kit.destinations.native_records import Facts, Status
from upload_kit.destinations.wire import Wire
from upload_kit.errors import (
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
)
from upload_kit.locations import redact, require_unicode
from upload_kit.models import Receipt, RemoteObject
from upload_kit.planning import Capabilities
from upload_kit.units import KIB, MIB
from upload_kit.via import format_via

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.reply import Reply
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

PROTOCOL: Final = "upload-kit/1"
# One request saves two round trips; above this the trips no longer matter.
_ONE_REQUEST: Final = MIB
_ONCE: Final = "once-"
# Servers and proxies take a line of 8 KiB; some is left for the rest of it.
_MOST_IN_HEAD: Final = 6 * KIB
# Source: tus 1.0.0, creation, Upload-Metadata: no space, no comma, not empty.
_METADATA_KEY: Final = re.compile(r"[!-+\--~]+")
# A server may hash the whole file before it answers: at this rate at least.
_COMPLETE_RATE: Final = 50 * MIB
_JSON: Final = {"Content-Type": "application/json"}


class NativeDestination:
    """The server at a base URL."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        url = location.url.reveal().removeprefix("native+").partition("?")[0]
        self._base = str(URL(url)).rstrip("/") + "/"
        self._wire = Wire(options)
        self._capabilities: Capabilities | None = None
        self._batcher: Batcher | None = None
        self._asking = asyncio.Lock()

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Ask the server once; see `Destination.negotiate`."""
        require_unicode(spec.name)
        if self._capabilities is None:
            async with self._asking:
                self._capabilities = self._capabilities or await self._ask()
        if not _fits_one_request(spec):
            return self._capabilities
        # One request says how many bytes it has; a coded one could not.
        return replace(self._capabilities, encodings=frozenset())

    def introduce(self, wire: Wire, reply: Reply) -> None:
        """Take what the server has told; see `Introduced`."""
        self._wire = wire
        self._capabilities = self._read(reply)

    async def _ask(self) -> Capabilities:
        return self._read(await self._wire.request("OPTIONS", self._base))

    def _read(self, reply: Reply) -> Capabilities:
        """Return what the server says of itself in its answer to OPTIONS."""
        if reply.status != 200:
            raise reply.error()
        facts = reply.read_as(Facts)
        if facts.protocol != PROTOCOL:
            raise RemoteRejected(
                f"{reply.url} does not speak {PROTOCOL}.",
                hint="Check that the URL is that of an upload_kit server.",
            )
        if facts.batch is not None and min(facts.batch.files, facts.batch.bytes) > 0:
            self._batcher = Batcher(self._wire, self._base, facts.batch)
        return _capabilities(facts)

    async def open(self, spec: UploadSpec, plan: Plan) -> NativeUpload | OneRequest:
        """Begin an upload; a small file needs no request for that."""
        if plan.total_chunks == 1 and _fits_one_request(spec):
            return self._one_request(spec, _ONCE + secrets.token_hex(16))
        facts = {
            "name": spec.name,
            "size": spec.size,
            "chunk_size": plan.chunk_size,
            "content_type": spec.content_type,
            "metadata": spec.metadata,
            "whole_digest": spec.whole_digest,
        }
        status, is_new = await self._begin(facts, spec.via)
        if status.chunk_size != plan.chunk_size:
            raise RemoteRejected(
                f"{redact(self._base)} wants chunks of {status.chunk_size} bytes, not"
                f" {plan.chunk_size}."
            )
        return NativeUpload(
            self._wire, self._base, status.session_id, spec, is_new=is_new
        )

    async def reopen(
        self, spec: UploadSpec, plan: Plan, token: str
    ) -> NativeUpload | OneRequest:
        """Go on with an upload, if the server still knows it."""
        if token.startswith(_ONCE):
            return self._one_request(spec, token)
        await self._begin({"name": spec.name, "session_id": token})
        return NativeUpload(self._wire, self._base, token, spec, is_new=False)

    def _one_request(self, spec: UploadSpec, token: str) -> OneRequest:
        return OneRequest(self._wire, self._base, self._batcher, spec=spec, token=token)

    async def _begin(
        self, facts: dict[str, Any], via: Sequence[str] = ()
    ) -> tuple[Status, bool]:
        """Begin or find an upload; return how it stands, and whether it is new."""
        reply = await self._wire.request(
            "POST",
            f"{self._base}upload/resumable",
            headers={**_JSON, **format_via(via)},
            body=msgspec.json.encode(facts),
        )
        if reply.status not in {200, 201}:
            raise reply.error()
        return reply.read_as(Status), reply.status == 201

    async def aclose(self) -> None:
        """Close the connections."""
        if self._batcher is not None:
            await self._batcher.aclose()
        await self._wire.aclose()


def _fits_one_request(spec: UploadSpec) -> bool:
    """Whether the file is small, and what goes with it can stand in the head."""
    return (
        spec.size is not None
        and spec.size <= _ONE_REQUEST
        and all(_METADATA_KEY.fullmatch(key) for key in spec.metadata)
        and len(_format_metadata(spec.metadata)) <= _MOST_IN_HEAD
        and len(quote(spec.name, safe="")) <= _MOST_IN_HEAD
    )


def _capabilities(facts: Facts) -> Capabilities:
    known = {"sha-256": "sha256"}
    return Capabilities(
        min_chunk=facts.min_chunk,
        max_chunk=facts.max_chunk,
        max_chunks=facts.max_chunks,
        max_size=facts.max_size,
        unknown_length=True,
        checksums=frozenset(known[name] for name in facts.checksums if name in known),
        whole_checksums=frozenset({"sha256"}),
        encodings=facts.encodings,
        expires_after=facts.expires_after,
    )


def _check_digest(sha256: str | None, ours: bytes, what: str) -> None:
    if sha256 != ours.hex():
        raise IntegrityError(
            f"{what}: the server stored {sha256}, we sent {ours.hex()}."
        )


class OneRequest:
    """
    A small file, sent and published by one request, alone or with others.

    Args:
        wire: Carries its request.

        base: URL of the server.

        batcher: Takes small files along; None where the server knows no batches.

        spec: What is sent.

        token: The key that makes a second time harmless.
    """

    def __init__(
        self,
        wire: Wire,
        base: str,
        batcher: Batcher | None,
        *,
        spec: UploadSpec,
        token: str,
    ) -> None:
        self._wire = wire
        self._base = base
        self._batcher = batcher
        self._spec = spec
        self._stored: RemoteObject | None = None
        self.token = token

    async def held(self) -> Sequence[Receipt]:
        """Return nothing: the same request again is how to find out."""
        return []

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Send the file; see `RemoteUpload.put`."""
        digest = await body.digest("sha256")
        status = await self._along(body, digest) or await self._alone(body, digest)
        _check_digest(status.sha256, digest, self._spec.name)
        self._stored = _stored(self._base, status)
        return Receipt(index=0, size=chunk.size, sha256=digest.hex())

    async def _along(self, body: ChunkBody, digest: bytes) -> Status | None:
        """Send the file with others that are ready; None if it has to go alone."""
        # Once: whatever is in the way of batches, another try is spared it.
        batcher, self._batcher = self._batcher, None
        if batcher is None or body.size > MOST:
            return None
        spec = self._spec
        listed = {
            "name": spec.name,
            "size": body.size,
            "sha256": digest.hex(),
            "key": self.token,
            "content_type": spec.content_type,
            "metadata": spec.metadata,
        }
        content = await body.read()
        # Others may go first, and the batch has a limit of its own.
        body.hold()
        return await batcher.deliver(listed, content, via=spec.via)

    async def _alone(self, body: ChunkBody, digest: bytes) -> Status:
        """Send the file by itself."""
        spec = self._spec
        headers = {
            "Content-Type": spec.content_type,
            "Content-Digest": format_digest("sha256", digest),
            "Idempotency-Key": self.token,
            **format_via(spec.via),
        }
        if spec.metadata:
            headers["Upload-Metadata"] = _format_metadata(spec.metadata)
        url = f"{self._base}upload/foundation?name={quote(spec.name, safe='')}"
        reply = await self._wire.request("POST", url, headers=headers, body=body)
        if reply.status not in {200, 201}:
            raise reply.error()
        return reply.read_as(Status)

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Return what `put` has published."""
        assert self._stored is not None
        return self._stored

    async def abort(self) -> None:
        """Do nothing: it is either published or not there."""


def _format_metadata(metadata: dict[str, str]) -> str:
    """Write metadata as tus has it. Source: tus 1.0.0, creation, Upload-Metadata."""
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode('ascii')}"
        for key, value in metadata.items()
    )


def _stored(base: str, status: Status) -> RemoteObject:
    return RemoteObject(
        location=redact(base + status.location.lstrip("/")),
        size=status.size,
        sha256=status.sha256,
    )


class NativeUpload:
    """
    One upload in chunks.

    Args:
        wire: Carries its requests.

        base: URL of the server.

        token: The upload's ID there.

        spec: What is sent.

        is_new: Whether it was begun just now, so that the server has none of it.
    """

    def __init__(
        self, wire: Wire, base: str, token: str, spec: UploadSpec, *, is_new: bool
    ) -> None:
        self._is_new = is_new
        self._wire = wire
        self._base = base
        self._url = f"{base}upload/resumable/{token}"
        self._spec = spec
        self.token = token

    async def held(self) -> Sequence[Receipt]:
        """Ask for the chunks; see `RemoteUpload.held`."""
        if self._is_new:
            # Nothing was sent yet: a round trip saved.
            return []
        reply = await self._wire.request(
            "GET", f"{self._base}upload/status/{self.token}?chunks=1"
        )
        if reply.status != 200:
            raise reply.error()
        return reply.read_as(Status).chunks or []

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Send one chunk; see `RemoteUpload.put`."""
        digest = await body.digest("sha256")
        self._is_new = False
        # An encoded chunk is checked by its own bytes, once the server decoded them.
        field = "Content-Digest" if body.encoding is None else "Unencoded-Digest"
        reply = await self._wire.request(
            "PUT",
            f"{self._url}/chunks/{chunk.index}",
            headers={
                "Content-Type": "application/octet-stream",
                field: format_digest("sha256", digest),
            },
            body=body,
        )
        if reply.status != 200:
            raise reply.error()
        stored = reply.read_as(Receipt)
        _check_digest(stored.sha256, digest, f"{self._spec.name}, {chunk.index}")
        return Receipt(index=chunk.index, size=stored.size, sha256=stored.sha256)

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Have the file checked and published; see `RemoteUpload.complete`."""
        size = sum(receipt.size for receipt in receipts)
        self._is_new = False
        reply = await self._wire.request(
            "POST",
            f"{self._url}/complete",
            headers=_JSON,
            body=msgspec.json.encode({"sha256": sha256, "size": size}),
            response_timeout=self._wire.response_timeout + size / _COMPLETE_RATE,
        )
        if reply.status == 200:
            return _stored(self._base, reply.read_as(Status))
        raise self._refusal(reply)

    def _refusal(self, reply: Reply) -> Exception:
        if reply.status == 409 and "missing" in reply.problem:
            return OffsetConflict(
                f"{self._spec.name}: the server misses chunks that it acknowledged.",
                status=reply.status,
            )
        return reply.error()

    async def abort(self) -> None:
        """Have the upload thrown away; see `RemoteUpload.abort`."""
        self._is_new = False
        reply = await self._wire.request("DELETE", self._url)
        if reply.status not in {200, 204} and not isinstance(reply.error(), RemoteGone):
            raise reply.error()
