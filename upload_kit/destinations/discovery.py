"""`http(s)://`: find out by asking which protocol the server at a URL speaks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from yarl import URL

from upload_kit.destinations.base import Introduced
from upload_kit.destinations.registry import make_destination
from upload_kit.destinations.wire import Wire
from upload_kit.errors import AuthenticationFailed, RemoteUnavailable

if TYPE_CHECKING:
    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.base import Destination, RemoteUpload
    from upload_kit.destinations.reply import Reply
    from upload_kit.locations import Location
    from upload_kit.models import UploadSpec
    from upload_kit.planning import Capabilities, Plan

# Which answer to OPTIONS tells of which protocol; the first that is there counts.
_TELLTALES: Final = (
    ("Upload-Kit-Version", "native"),
    ("Tus-Version", "tus"),
    ("Tus-Resumable", "tus"),
)
_OTHERWISE: Final = "put"


class DiscoveredDestination:
    """Asks with one OPTIONS request, then hands everything to the right adapter."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        self._location = location
        self._options = options
        self._found: Destination | None = None
        self._asking = asyncio.Lock()

    async def _destination(self) -> Destination:
        if self._found is not None:
            return self._found
        async with self._asking:
            if self._found is None:
                wire = Wire(self._options)
                try:
                    self._found = await self._find(wire)
                finally:
                    if not isinstance(self._found, Introduced):
                        await wire.aclose()
        return self._found

    async def _find(self, wire: Wire) -> Destination:
        url = self._location.url.reveal()
        reply = await wire.request("OPTIONS", str(URL(url)))
        found = make_destination(f"{self._protocol(reply)}+{url}", self._options)
        if isinstance(found, Introduced):
            found.introduce(wire, reply)
        return found

    @staticmethod
    def _protocol(reply: Reply) -> str:
        """Return what the server speaks, unless nothing can be said of it now."""
        if reply.status in {401, 407}:
            raise AuthenticationFailed(str(reply.error()), status=reply.status)
        error = reply.error()
        # It may speak any protocol once it is well again, or where it has moved to.
        if isinstance(error, RemoteUnavailable) or reply.is_redirect:
            raise error
        return _telltale(reply)

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Find out, then ask; see `Destination.negotiate`."""
        return await (await self._destination()).negotiate(spec)

    async def open(self, spec: UploadSpec, plan: Plan) -> RemoteUpload:
        """Begin with the adapter that was found."""
        return await (await self._destination()).open(spec, plan)

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> RemoteUpload:
        """Go on with the adapter that was found."""
        return await (await self._destination()).reopen(spec, plan, token)

    async def aclose(self) -> None:
        """Close the adapter that was found."""
        if self._found is not None:
            await self._found.aclose()


def _telltale(reply: Reply) -> str:
    for header, protocol in _TELLTALES:
        if header in reply.headers:
            return protocol
    return _OTHERWISE
