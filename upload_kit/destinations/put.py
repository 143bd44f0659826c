"""
Plain HTTP `PUT`: WebDAV servers such as nginx, and whatever else stores a body.

The file goes in one piece. Nothing can be resumed, and what the server stored can be
compared by its size only, so the result says `verified: size`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

from yarl import URL

from upload_kit.destinations.wire import Wire
from upload_kit.errors import IntegrityError, RemoteGone, RemoteRejected
from upload_kit.locations import require_unicode, safe_relative_name
from upload_kit.models import Receipt, RemoteObject
from upload_kit.planning import Capabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan


class PutDestination:
    """The folder at a URL."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        url = location.url.reveal().removeprefix("put+")
        folder, separator, query = str(URL(url)).partition("?")
        self._folder = folder.rstrip("/") + "/"
        self._query = separator + query
        self._shown = str(location).removeprefix("put+").partition("?")[0].rstrip("/")
        self._wire = Wire(options)

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Take a file in one piece."""
        safe_relative_name(require_unicode(spec.name))
        return Capabilities(max_chunks=1, lanes=1, resumable=False)

    async def open(self, spec: UploadSpec, plan: Plan) -> PutUpload:
        """Begin without a request."""
        name = quote(spec.name)
        return PutUpload(
            self._wire,
            self._folder + name + self._query,
            f"{self._shown}/{name}",
            spec,
        )

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> PutUpload:
        """Refuse: there is nothing to go on with."""
        raise RemoteGone(f"{self._shown} keeps no half-done uploads.")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()


class PutUpload:
    """One file by one request."""

    def __init__(self, wire: Wire, url: str, shown: str, spec: UploadSpec) -> None:
        self._wire = wire
        self._url = url
        self._shown = shown
        self._spec = spec
        self.token = uuid.uuid4().hex

    async def held(self) -> Sequence[Receipt]:
        """Return nothing: a half-done file is not kept."""
        return []

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Send the file; see `RemoteUpload.put`."""
        headers = {"Content-Type": self._spec.content_type}
        if not self._spec.overwrite:
            await self._refuse_to_overwrite()
            headers["If-None-Match"] = "*"
        reply = await self._wire.request("PUT", self._url, headers=headers, body=body)
        if reply.status == 412:
            raise self._exists()
        if reply.status in {404, 405, 409}:
            raise RemoteRejected(
                f"{self._shown} cannot be written: {reply.status}.",
                status=reply.status,
                hint="Check the URL, and that the server allows PUT there.",
            )
        if not 200 <= reply.status < 300:
            raise reply.error()
        return Receipt(index=chunk.index, size=chunk.size)

    async def _refuse_to_overwrite(self) -> None:
        """Look first: some servers do not know `If-None-Match`."""
        reply = await self._wire.request("HEAD", self._url)
        if 200 <= reply.status < 300:
            raise self._exists()

    def _exists(self) -> RemoteRejected:
        return RemoteRejected(
            f"{self._shown} exists already.", hint="Allow to overwrite it."
        )

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Compare the size, where the server tells it; see `RemoteUpload.complete`."""
        reply = await self._wire.request("HEAD", self._url)
        length = reply.headers.get("Content-Length", "")
        known = 200 <= reply.status < 300 and length.isascii() and length.isdigit()
        size = int(length) if known else None
        sent = sum(receipt.size for receipt in receipts)
        if size is not None and size != sent:
            raise IntegrityError(
                f"{self._shown} has {size} bytes, but {sent} were sent."
            )
        return RemoteObject(location=self._shown, size=size)

    async def abort(self) -> None:
        """Do nothing: the server drops a body that broke off."""
