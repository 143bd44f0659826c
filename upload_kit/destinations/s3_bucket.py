"""
The requests to one S3 bucket, and how their answers are understood.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from upload_kit.destinations.s3_xml import encode_digest, part_list, read_xml
from upload_kit.errors import IntegrityError, RemoteGone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.reply import Reply
    from upload_kit.destinations.s3_wire import S3Wire
    from upload_kit.destinations.s3_xml import Node
    from upload_kit.models import Receipt

_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
_SHA256: Final = "x-amz-checksum-sha256"
# An ETag is no MD5 where the service encrypts with keys of its own or of the client.
_ENCRYPTED: Final = (
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
)
# Putting 10,000 parts together takes minutes, in which only blanks arrive: so many
# times as long as any other answer may (ten minutes, unless that is set).
_COMPLETE_PATIENCE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of an upload, as the service lists it."""

    number: int
    size: int
    etag: str
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object, as the service describes it."""

    size: int | None
    etag: str
    sha256: str | None
    """Digest in base64; of the parts' digests where it ends in their number."""

    md5: str | None = None
    """In hexadecimal, where the ETag is one and may be relied on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A multipart upload that somebody has begun."""

    key: str
    upload_id: str
    initiated: float
    """Seconds since the epoch."""


class S3Bucket:
    """
    One bucket.

    Args:
        wire: Signs what it carries.

        extra: Signed headers of every new object, such as `x-amz-storage-class`.

        md5: Compare the MD5 of a part where the service reports no SHA-256.
    """

    def __init__(
        self,
        wire: S3Wire,
        *,
        extra: Mapping[str, str],
        md5: bool,
    ) -> None:
        self.name = wire.bucket
        self._wire = wire
        self._extra = extra
        self._md5 = md5

    async def create(
        self, key: str, content_type: str, metadata: Mapping[str, str]
    ) -> str:
        """Begin a multipart upload, and return its ID."""
        access = await self._wire.access()
        headers = self._headers(content_type, metadata)
        if access.checksums:
            headers["x-amz-checksum-algorithm"] = "SHA256"
            headers["x-amz-checksum-type"] = "COMPOSITE"
        reply = await self._wire.send("POST", key, {"uploads": ""}, headers=headers)
        return read_xml(reply).text("UploadId")

    async def put_part(
        self, key: str, upload_id: str, number: int, body: ChunkBody
    ) -> str:
        """
        Store a part, and return its ETag.

        Raises:
            IntegrityError: The service has other bytes.
        """
        digest = await body.digest("sha256")
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = await self._checksum(digest)
        reply = await self._wire.send(
            "PUT", key, query, headers=headers, body=body, sha256=digest.hex()
        )
        await self._compare(reply, body, digest, f"part {number} of {key}")
        return reply.headers.get("ETag", "")

    async def put_object(
        self,
        key: str,
        body: ChunkBody,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        overwrite: bool,
    ) -> str | None:
        """
        Store a whole object.

        Returns:
            Its SHA-256 in hexadecimal, if the service reports it.

        Raises:
            IntegrityError: The service has other bytes.
        """
        digest = await body.digest("sha256")
        headers = self._headers(content_type, metadata) | await self._checksum(digest)
        if not overwrite:
            headers["If-None-Match"] = "*"
        reply = await self._wire.send(
            "PUT", key, {}, headers=headers, body=body, sha256=digest.hex()
        )
        await self._compare(reply, body, digest, key)
        return digest.hex() if _SHA256 in reply.headers else None

    def _headers(
        self, content_type: str, metadata: Mapping[str, str]
    ) -> dict[str, str]:
        headers = {"Content-Type": content_type, **self._extra}
        for name, value in metadata.items():
            headers[f"x-amz-meta-{name}"] = value
        return headers

    async def _checksum(self, digest: bytes) -> dict[str, str]:
        access = await self._wire.access()
        return {_SHA256: encode_digest(digest)} if access.checksums else {}

    async def _compare(
        self, reply: Reply, body: ChunkBody, digest: bytes, what: str
    ) -> None:
        """Compare what the service says it stored with what was sent."""
        theirs = reply.headers.get(_SHA256)
        ours = encode_digest(digest)
        md5 = self._md5_of(reply)
        if theirs is None and md5 is not None:
            theirs, ours = md5, (await body.digest("md5")).hex()
        if theirs not in {None, ours}:
            raise IntegrityError(f"S3 stored {what} as {theirs}, we sent {ours}.")

    def _md5_of(self, reply: Reply) -> str | None:
        """Return the MD5 that an ETag is, unless it is something else."""
        if not self._md5 or any(name in reply.headers for name in _ENCRYPTED):
            return None
        etag = _MD5.fullmatch(reply.headers.get("ETag", ""))
        return None if etag is None else etag[1]

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """
        Return every part that arrived.

        Raises:
            RemoteGone: There is no such upload.
        """
        parts: list[Part] = []
        marker = ""
        while True:
            query = {"uploadId": upload_id, "part-number-marker": marker}
            reply = await self._wire.send("GET", key, _without_empty(query))
            page = read_xml(reply)
            parts += [_part(node) for node in page.children("Part")]
            following = page.text("NextPartNumberMarker")
            if page.text("IsTruncated") != "true" or following in {"", marker}:
                return parts
            marker = following

    async def complete(
        self,
        key: str,
        upload_id: str,
        receipts: Sequence[Receipt],
        *,
        overwrite: bool,
    ) -> Stored:
        """
        Put the parts together.

        Raises:
            OffsetConflict: A part is missing, or is another one.
            RemoteGone: There is no such upload, or no longer.
        """
        access = await self._wire.access()
        size = sum(receipt.size for receipt in receipts)
        headers = {"Content-Type": "application/xml", "x-amz-mp-object-size": str(size)}
        if not overwrite:
            headers["If-None-Match"] = "*"
        reply = await self._wire.send(
            "POST",
            key,
            {"uploadId": upload_id},
            headers=headers,
            body=part_list(receipts, checksums=access.checksums),
            response_timeout=_COMPLETE_PATIENCE * self._wire.response_timeout,
        )
        node = read_xml(reply)
        return Stored(
            size=None, etag=node.text("ETag"), sha256=node.text("ChecksumSHA256")
        )

    async def abort(self, key: str, upload_id: str) -> None:
        """Throw the parts away that have arrived; nothing happens if it is gone."""
        try:
            await self._wire.send("DELETE", key, {"uploadId": upload_id})
        except RemoteGone:
            return

    async def head(self, key: str) -> Stored:
        """
        Describe an object.

        Raises:
            RemoteGone: There is none.
        """
        reply = await self._wire.send(
            "HEAD", key, {}, headers={"x-amz-checksum-mode": "ENABLED"}
        )
        length = reply.headers.get("Content-Length", "")
        return Stored(
            size=int(length) if length.isascii() and length.isdigit() else None,
            etag=reply.headers.get("ETag", ""),
            sha256=reply.headers.get(_SHA256),
            md5=self._md5_of(reply),
        )

    async def unfinished(self, prefix: str) -> list[Unfinished]:
        """Return the multipart uploads of keys that begin so."""
        found: list[Unfinished] = []
        markers = {"key-marker": "", "upload-id-marker": ""}
        while True:
            query = {"uploads": "", **_without_empty({"prefix": prefix, **markers})}
            try:
                page = read_xml(await self._wire.send("GET", "", query))
            except RemoteGone:
                # So rclone says that there are none.
                return found
            found += [_unfinished(node) for node in page.children("Upload")]
            following = {
                "key-marker": page.text("NextKeyMarker"),
                "upload-id-marker": page.text("NextUploadIdMarker"),
            }
            if page.text("IsTruncated") != "true" or following == markers:
                return found
            markers = following


def _without_empty(query: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}


def _part(node: Node) -> Part:
    return Part(
        number=int(node.text("PartNumber")),
        size=int(node.text("Size")),
        etag=node.text("ETag"),
        sha256=node.text("ChecksumSHA256") or None,
    )


def _unfinished(node: Node) -> Unfinished:
    return Unfinished(
        key=node.text("Key"),
        upload_id=node.text("UploadId"),
        initiated=datetime.fromisoformat(node.text("Initiated")).timestamp(),
    )
