"""The protocol's requests about uploads in chunks: docs/dev/native-protocol.md."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from upload_kit.server.documents import status_document
from upload_kit.server.fields import (
    DEFAULT_MEDIA_TYPE,
    digest_field,
    malformed,
    parse_coding,
    parse_media_type,
    parse_uint,
)
from upload_kit.server.intake import Expected
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.replies import CAME_THROUGH, OWNER, json_response
from upload_kit.server.rules import NewUpload
from upload_kit.server.streams import LineStream
from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.server.body import Bodies
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.core import UploadCore
    from upload_kit.server.documents import Snapshot
    from upload_kit.server.housekeeping import Housekeeper
    from upload_kit.server.reporting import Reporter
    from upload_kit.server.watching import Watcher

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_JSON_ROOM: Final = 64 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begin:
    name: str = ""
    size: int | None = None
    chunk_size: int | None = None
    content_type: str = DEFAULT_MEDIA_TYPE
    metadata: dict[str, str] = field(default_factory=dict)
    session_id: str | None = None
    whole_digest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Complete:
    sha256: str | None = None
    size: int | None = None


class NativeRoutes:
    """
    Requests turned into calls of the core, and back.

    Args:
        config: Limits.

        core: What happens to uploads.

        bodies: Opens the bodies of requests.

        watcher: Tells what moves.

        housekeeper: Removes what expired.

        reporter: Answers how far an upload is.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        core: UploadCore,
        bodies: Bodies,
        watcher: Watcher,
        housekeeper: Housekeeper,
        reporter: Reporter,
    ) -> None:
        self._config = config
        self._reporter = reporter
        self._core = core
        self._bodies = bodies
        self._watcher = watcher
        self._housekeeper = housekeeper

    def routes(self) -> list[web.RouteDef]:
        """Return every route, without the server's prefix."""
        session = "/upload/resumable/{id}"
        return [
            web.post("/upload/resumable", self.begin),
            web.put(session + "/chunks/{index}", self.put_chunk),
            web.post(session + "/complete", self.complete),
            web.delete(session, self.delete),
            web.get("/upload/status/{id}", self.status),
            web.get("/upload/status/{id}/events", self.events),
            web.get("/upload/sessions", self.sessions),
            web.post("/upload/cleanup", self.cleanup),
        ]

    async def begin(self, request: web.Request) -> web.Response:
        """Begin an upload in chunks, or find one."""
        limit = _JSON_ROOM + 2 * self._config.max_metadata_bytes
        asked = await self._bodies.read_json(request, _Begin, limit)
        owner = request[OWNER]
        if asked.session_id is not None:
            found = await self._core.status(owner, asked.session_id)
            return await self._reporter.answer(found)
        _require_range("size", asked.size, least=0)
        _require_range("chunk_size", asked.chunk_size, least=1)
        new = NewUpload(
            name=asked.name,
            size=asked.size,
            chunk_size=asked.chunk_size,
            content_type=parse_media_type(asked.content_type),
            metadata=asked.metadata,
            whole_digest=asked.whole_digest,
            via=request[CAME_THROUGH],
        )
        made = await self._core.create(owner, new)
        return await self._reporter.answer(made, status=201)

    async def put_chunk(self, request: web.Request) -> web.Response:
        """Store one chunk."""
        index = parse_uint(request.match_info["index"], "A chunk index")
        headers = request.headers
        coding = parse_coding(headers.get("Content-Encoding"))
        expected = Expected(
            content=digest_field(headers, "Content-Digest"),
            unencoded=digest_field(headers, "Unencoded-Digest"),
        )
        if request.content_length is None:
            raise UploadProblem(
                ProblemType.LENGTH_REQUIRED, "A chunk needs a Content-Length."
            )
        if coding is not None and expected.unencoded is None:
            raise malformed("A coded chunk needs an Unencoded-Digest.")
        with self._bodies.open(request, self._config.max_chunk) as body:
            chunk, duplicate = await self._core.put_chunk(
                request[OWNER],
                request.match_info["id"],
                index,
                body=body,
                size=body.size if coding is None else None,
                expected=expected,
                coding=coding,
            )
        receipt = {
            "index": chunk.index,
            "size": chunk.size,
            "sha256": chunk.sha256,
            "duplicate": duplicate,
        }
        return json_response(receipt)

    async def complete(self, request: web.Request) -> web.Response:
        """Publish an upload."""
        asked = await self._bodies.read_json(request, _Complete, _JSON_ROOM)
        _require_range("size", asked.size, least=0)
        if asked.sha256 is not None and _SHA256.fullmatch(asked.sha256) is None:
            raise malformed("sha256 must be 64 lower-case hexadecimal digits, or null.")
        snapshot = await self._core.complete(
            request[OWNER],
            request.match_info["id"],
            sha256=asked.sha256,
            size=asked.size,
        )
        return await self._reporter.answer(snapshot)

    async def delete(self, request: web.Request) -> web.Response:
        """Throw an upload away."""
        await self._core.delete(request[OWNER], request.match_info["id"])
        return web.Response(status=204)

    async def status(self, request: web.Request) -> web.Response:
        """Say how far an upload is."""
        snapshot = await self._core.status(request[OWNER], request.match_info["id"])
        with_chunks = request.query.get("chunks", "0") not in ("", "0")
        return await self._reporter.answer(snapshot, with_chunks=with_chunks)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Say how far an upload is, again and again."""
        owner = request[OWNER]
        first = await self._core.status(owner, request.match_info["id"])
        stream = LineStream(request, self._config.idle_timeout)
        await stream.open()
        async with aclosing(self._watcher.watch(owner, first)) as lines:
            async for line in lines:
                await stream.send(line)
                if stream.is_deaf:
                    break
        return await stream.close()

    async def sessions(self, request: web.Request) -> web.Response:
        """List the unfinished uploads of whoever asks."""
        found = await self._core.sessions(request[OWNER])
        # Of ten thousand uploads, the documents take too long to be made in the loop.
        return await asyncio.to_thread(self._list, found)

    def _list(self, found: Sequence[Snapshot]) -> web.Response:
        documents = [status_document(one, self._config) for one in found]
        return json_response({"sessions": documents})

    async def cleanup(self, _request: web.Request) -> web.Response:
        """Remove what expired."""
        done = await self._housekeeper.cleanup()
        return json_response({"removed": done.removed, "bytes": done.bytes})


def _require_range(name: str, value: int | None, *, least: int) -> None:
    if value is not None and not least <= value < 2**63:
        raise malformed(f"{name} must be {least} to 2**63 - 1, or null, not {value}.")
