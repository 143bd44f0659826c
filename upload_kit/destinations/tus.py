"""
tus 1.0 servers, at `tus+http://host/files/` or found out by asking.

    ?parts=8        send up to 8 parts at a time, and have the server join them
    ?checksum=off   send no digests; `sha1` or `sha256` for this one only

One upload is one stream: chunks go strictly in order, one request each, and a chunk
that broke off goes on where it broke. Parts are worth it where one connection is slow;
most servers copy every byte again to join them.

Source: https://tus.io/protocols/resumable-upload (1.0.0).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.destinations.tus_collection import TusCollection, with_credentials
from upload_kit.destinations.tus_fields import (
    format_metadata,
    is_address,
    read_options,
    read_server,
)
from upload_kit.destinations.tus_uploads import TusAtOnce, TusParts, TusUpload
from upload_kit.errors import ConfigurationError, RemoteGone
from upload_kit.planning import Capabilities
from upload_kit.units import MIB
from upload_kit.via import format_via

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.base import RemoteUpload
    from upload_kit.destinations.tus_fields import TusServer
    from upload_kit.destinations.tus_resource import TusResource
    from upload_kit.locations import Location
    from upload_kit.models import UploadSpec
    from upload_kit.planning import Plan

logger = logging.getLogger("upload_kit.destinations.tus")

# Saves a round trip; an upload so small need not be found again when it breaks off.
_AT_ONCE: Final = MIB


class TusDestination:
    """The tus server at a URL."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        scheme = location.scheme.removeprefix("tus+")
        rest = location.url.reveal().partition("://")[2].partition("#")[0]
        address, _, query = rest.partition("?")
        self._options = read_options(query, dict(options.options))
        url = f"{scheme}://{address.rpartition('@')[2]}"
        if self._options.query:
            url = f"{url}?{self._options.query}"
        self._collection = TusCollection(url, with_credentials(options, location))
        self._server: TusServer | None = None
        self._asking = asyncio.Lock()

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Ask the server once; see `Destination.negotiate`."""
        format_metadata(spec)
        server = await self._ask()
        splits = self._can_split(server, spec)
        checksum = self._checksum(server)
        return Capabilities(
            lanes=None if splits else 1,
            max_chunks=self._options.parts if splits else None,
            max_size=server.max_size,
            unknown_length="creation-defer-length" in server.extensions,
            checksums=frozenset({checksum} if checksum else ()),
        )

    async def _ask(self) -> TusServer:
        async with self._asking:
            if self._server is None:
                url = self._collection.url
                reply = await self._collection.wire.request("OPTIONS", url)
                self._server = read_server(reply)
                if self._options.parts > 1 and not self._joins(self._server):
                    logger.warning("%s joins no parts; it gets one stream", reply.url)
        return self._server

    def _can_split(self, server: TusServer, spec: UploadSpec) -> bool:
        return self._options.parts > 1 and spec.size is not None and self._joins(server)

    @staticmethod
    def _joins(server: TusServer) -> bool:
        return "concatenation" in server.extensions

    def _checksum(self, server: TusServer) -> str | None:
        """Return the digest that requests carry; None for none."""
        wanted = self._options.checksum
        if wanted == "off":
            return None
        if wanted is None:
            return next(iter(server.checksums), None)
        if wanted not in server.checksums:
            raise ConfigurationError(
                f"The server does not check {wanted}.",
                hint=f"It checks: {', '.join(server.checksums) or 'nothing'}.",
            )
        return wanted

    async def open(self, spec: UploadSpec, plan: Plan) -> RemoteUpload:
        """Begin an upload; a small file needs no request for that."""
        server = await self._ask()
        if self._can_split(server, spec) and plan.total_chunks != 1:
            return self._parts(
                server, spec, await self._create_parts(server, spec, plan)
            )
        if not spec.has_session and self._fits_one_request(server, spec, plan):
            return TusAtOnce(
                self._collection,
                spec,
                checksum=self._checksum(server),
                removable=_removes(server),
            )
        length = (
            {"Upload-Defer-Length": "1"}
            if spec.size is None
            else {"Upload-Length": str(spec.size)}
        )
        resource = await self._collection.create(
            spec, length, size=spec.size, checksum=self._checksum(server)
        )
        return TusUpload(resource, spec, plan, removable=_removes(server))

    @staticmethod
    def _fits_one_request(server: TusServer, spec: UploadSpec, plan: Plan) -> bool:
        return (
            "creation-with-upload" in server.extensions
            and plan.total_chunks == 1
            and 0 < (spec.size or 0) <= _AT_ONCE
        )

    async def _create_parts(
        self, server: TusServer, spec: UploadSpec, plan: Plan
    ) -> Sequence[TusResource]:
        """Begin a partial upload for every chunk, all at once; or none of them."""
        checksum = self._checksum(server)
        made = await asyncio.gather(
            *(
                self._collection.create(
                    None,
                    {
                        "Upload-Concat": "partial",
                        "Upload-Length": str(chunk.size),
                        **format_via(spec.via),
                    },
                    start=chunk.start,
                    size=chunk.size,
                    checksum=checksum,
                )
                for chunk in plan.chunks()
            ),
            return_exceptions=True,
        )
        resources = [one for one in made if not isinstance(one, BaseException)]
        errors = [one for one in made if isinstance(one, BaseException)]
        if not errors:
            return resources
        if _removes(server):
            removals = (one.remove() for one in resources)
            await asyncio.gather(*removals, return_exceptions=True)
        raise errors[0]

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> RemoteUpload:
        """Go on with an upload, if the server still has it."""
        server = await self._ask()
        urls = _urls(token)
        if isinstance(urls, str):
            if self._can_split(server, spec) and plan.total_chunks != 1:
                raise RemoteGone("The upload was begun as one stream.")
            resource = self._collection.find(
                urls, size=spec.size, checksum=self._checksum(server)
            )
            await resource.ask()
            return TusUpload(resource, spec, plan, removable=_removes(server))
        if len(urls) != plan.total_chunks:
            raise RemoteGone("The upload was begun in other parts.")
        resources = [
            self._collection.find(
                url, start=chunk.start, size=chunk.size, checksum=self._checksum(server)
            )
            for chunk, url in zip(plan.chunks(), urls, strict=True)
        ]
        await asyncio.gather(*(resource.ask() for resource in resources))
        return self._parts(server, spec, resources)

    def _parts(
        self, server: TusServer, spec: UploadSpec, resources: Sequence[TusResource]
    ) -> TusParts:
        return TusParts(self._collection, resources, spec, removable=_removes(server))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._collection.aclose()


def _removes(server: TusServer) -> bool:
    return "termination" in server.extensions


def _urls(token: str) -> str | list[str]:
    """
    Return the address in a token, or those of all parts.

    Raises:
        RemoteGone: It is no token of ours.
    """
    in_parts = token.startswith("[")
    try:
        urls = msgspec.json.decode(token, type=list[str]) if in_parts else [token]
    except msgspec.DecodeError:
        urls = []
    if not urls or not all(map(is_address, urls)):
        raise RemoteGone("Not a half-done upload to a tus server.")
    return urls if in_parts else token
