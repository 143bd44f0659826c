"""
A tus 1.0 server to test clients against: what the text says, and what may go wrong.

Written from the text of the protocol only; it shares nothing with upload_kit's own
server. Everything is kept in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tests.servers.app import AppServer
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EVERYTHING: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "concatenation",
    "expiration",
    "termination",
)
_EXPIRES: Final = "Wed, 25 Jun 2098 16:00:00 GMT"


@dataclass(slots=True, kw_only=True)
class Stored:
    """One upload resource."""

    length: int | None
    metadata: str | None = None
    concat: str | None = None
    data: bytearray = field(default_factory=bytearray)
    writer: object = None
    """Whichever request may write; a later one takes over from a dead one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request, instead of or besides what should."""

    status: int | None = None
    """Answer with this, and do nothing."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Fields of that answer, or added to the right one."""

    cut_after: int | None = None
    """Break the connection off after so many bytes of the body; those are kept."""

    lose_answer: bool = False
    """Do everything, and break the connection off instead of answering."""

    take: int | None = None
    """Take so many bytes of the body only, and say so."""

    stall_after: int | None = None
    """Read no further after so many bytes, for ever; those are kept."""

    meet: int = 1
    """Read on only when so many bodies are read at once."""

    forget: bool = False
    """Lose the upload first."""

    lose: int = 0
    """Lose so many bytes of its end first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]


class ScriptedTus(AppServer):
    """
    The server, on a free port of loopback, in the running event loop.

    Args:
        extensions: What it offers.

        checksums: Digests that it checks.

        max_size: Bytes of a file at most.

        location: How the address of an upload is written: `absolute`, `relative` to
            the request, or `path`.

        headers: Fields added to every answer; an empty one is left out of it.

        options_status: Status of the answer to OPTIONS.

        metadata: Whether metadata is wanted in the answer to HEAD.
    """

    def __init__(
        self,
        *,
        extensions: Iterable[str] = EVERYTHING,
        checksums: Iterable[str] = ("sha1", "sha256"),
        max_size: int | None = None,
        location: str = "absolute",
        headers: Mapping[str, str] | None = None,
        options_status: int = 204,
    ) -> None:
        super().__init__(read_bufsize=MIB)
        self.extensions = tuple(extensions)
        self.checksums = tuple(checksums)
        self.max_size = max_size
        self.location = location
        self.headers = dict(headers or {})
        self.options_status = options_status
        self.uploads: dict[str, Stored] = {}
        self.seen: list[Seen] = []
        self.stalled = asyncio.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._change = asyncio.Condition()
        self._faults: dict[str, list[Fault | None]] = {}

    def on(self, method: str, *faults: Fault | None) -> None:
        """Have the next requests of a method go wrong, or not (None), one by one."""
        self._faults.setdefault(method, []).extend(faults)

    @property
    def url(self) -> str:
        """Where new uploads go."""
        return f"{self.origin}/files/"

    def count(self, method: str) -> int:
        """Return how many requests of a method came in."""
        return sum(one.method == method for one in self.seen)

    def only(self) -> Stored:
        """Return the one upload there is."""
        (stored,) = self.uploads.values()
        return stored

    def make_app(self) -> web.Application:
        """Return what answers as it is told to."""
        app = web.Application(client_max_size=0)
        app.router.add_route("OPTIONS", "/files/", self._handle)
        app.router.add_route("POST", "/files/", self._handle)
        app.router.add_route("*", "/files/{id}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.seen.append(
            Seen(method=request.method, path=path, headers=request.headers)
        )
        queue = self._faults.get(request.method)
        fault = (queue.pop(0) if queue else None) or Fault()
        response = await self._respond(request, fault)
        if fault.lose_answer:
            _cut(request)
        response.headers.setdefault("Tus-Resumable", "1.0.0")
        for name, value in {**self.headers, **fault.headers}.items():
            response.headers[name] = value
            if not value:
                del response.headers[name]
        return response

    async def _respond(self, request: web.Request, fault: Fault) -> web.Response:
        if fault.status is not None:
            return web.Response(status=fault.status)
        if request.method == "OPTIONS":
            return self._options()
        if request.headers.get("Tus-Resumable") != "1.0.0":
            return web.Response(status=412, headers={"Tus-Version": "1.0.0"})
        if request.method == "POST":
            return await self._create(request, fault)
        return await self._use(request, request.match_info["id"], fault)

    async def _use(
        self, request: web.Request, upload_id: str, fault: Fault
    ) -> web.Response:
        if fault.forget:
            self.uploads.pop(upload_id, None)
        stored = self.uploads.get(upload_id)
        if stored is None:
            return web.Response(status=404)
        if fault.lose:
            del stored.data[-fault.lose :]
        if request.method == "HEAD":
            return self._head(stored)
        if request.method == "DELETE":
            del self.uploads[upload_id]
            return web.Response(status=204)
        return await self._append(request, stored, fault)

    def _options(self) -> web.Response:
        headers = {"Tus-Version": "1.0.0,0.2.2"}
        if self.extensions:
            headers["Tus-Extension"] = ",".join(self.extensions)
        if "checksum" in self.extensions:
            headers["Tus-Checksum-Algorithm"] = ",".join(self.checksums)
        if self.max_size is not None:
            headers["Tus-Max-Size"] = str(self.max_size)
        return web.Response(status=self.options_status, headers=headers)

    async def _create(self, request: web.Request, fault: Fault) -> web.Response:
        headers = request.headers
        concat = headers.get("Upload-Concat", "")
        length = headers.get("Upload-Length")
        if concat.startswith("final;"):
            return self._join(request, concat)
        if (length is None) == (headers.get("Upload-Defer-Length") is None):
            return web.Response(status=400)
        if length is not None and int(length) > (self.max_size or int(length)):
            return web.Response(status=413)
        stored = Stored(
            length=None if length is None else int(length),
            metadata=headers.get("Upload-Metadata"),
            concat=concat or None,
        )
        response = self._made(request, stored)
        if headers.get("Content-Type") == "application/offset+octet-stream":
            refusal = await self._take(request, stored, fault)
            if refusal is not None:
                return refusal
            response.headers["Upload-Offset"] = str(len(stored.data))
        return response

    def _join(self, request: web.Request, concat: str) -> web.Response:
        parts = [url.rpartition("/")[2] for url in concat[6:].split(" ")]
        if any(part not in self.uploads for part in parts):
            return web.Response(status=404)
        data = bytearray().join(self.uploads[part].data for part in parts)
        metadata = request.headers.get("Upload-Metadata")
        stored = Stored(length=len(data), metadata=metadata, concat=concat, data=data)
        return self._made(request, stored)

    def _made(self, request: web.Request, stored: Stored) -> web.Response:
        upload_id = secrets.token_hex(8)
        self.uploads[upload_id] = stored
        location = {
            "absolute": f"{self.origin}/files/{upload_id}",
            "relative": upload_id,
            "path": f"/files/{upload_id}",
        }[self.location]
        headers = {"Location": location, "Upload-Expires": _EXPIRES}
        return web.Response(status=201, headers=headers)

    @staticmethod
    def _head(stored: Stored) -> web.Response:
        headers = {"Upload-Offset": str(len(stored.data)), "Cache-Control": "no-store"}
        if stored.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(stored.length)
        if stored.metadata is not None:
            headers["Upload-Metadata"] = stored.metadata
        if stored.concat is not None:
            headers["Upload-Concat"] = stored.concat
        return web.Response(headers=headers)

    async def _append(
        self, request: web.Request, stored: Stored, fault: Fault
    ) -> web.Response:
        headers = request.headers
        if headers.get("Content-Type") != "application/offset+octet-stream":
            return web.Response(status=415)
        if int(headers["Upload-Offset"]) != len(stored.data):
            return web.Response(status=409)
        if "Upload-Length" in headers:
            if stored.length is not None:
                return web.Response(status=400)
            stored.length = int(headers["Upload-Length"])
        refusal = await self._take(request, stored, fault)
        if refusal is not None:
            return refusal
        answer = {"Upload-Offset": str(len(stored.data)), "Upload-Expires": _EXPIRES}
        return web.Response(status=204, headers=answer)

    async def _take(
        self, request: web.Request, stored: Stored, fault: Fault
    ) -> web.Response | None:
        """Take a body; return why it was refused."""
        before = len(stored.data)
        async with self._change:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._change.notify_all()
            await self._change.wait_for(lambda: self.most_at_once >= fault.meet)
        try:
            await self._read(request, stored, fault)
        finally:
            self._at_once -= 1
        checksum = request.headers.get("Upload-Checksum")
        if checksum is None:
            return None
        algorithm, _, encoded = checksum.partition(" ")
        if algorithm not in self.checksums:
            return web.Response(status=400)
        digest = hashlib.new(algorithm, stored.data[before:]).digest()
        if digest != base64.b64decode(encoded):
            del stored.data[before:]
            return web.Response(status=460)
        return None

    async def _read(self, request: web.Request, stored: Stored, fault: Fault) -> None:
        stored.writer = request
        room = MIB**3
        for limit in (fault.cut_after, fault.take, fault.stall_after):
            room = room if limit is None else limit
        async for piece in request.content.iter_any():
            if stored.writer is not request:
                raise ConnectionResetError
            stored.data += piece[:room]
            room -= min(room, len(piece))
            if room == 0 and fault.cut_after is not None:
                _cut(request)
            if room == 0 and fault.stall_after is not None:
                self.stalled.set()
                # Ends when the test's client, or the test, ends.
                await asyncio.Event().wait()


def _cut(request: web.Request) -> None:
    """Break the connection off."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError
