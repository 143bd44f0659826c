"""The protocol's requests that hold a whole file: docs/dev/native-protocol.md."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from upload_kit.server.activity import Activity
from upload_kit.server.batch import MAX_BYTES, MAX_LIST, BatchBody
from upload_kit.server.fields import (
    digest_field,
    malformed,
    parse_coding,
    parse_disposition,
    parse_key,
    parse_media_type,
    parse_metadata,
)
from upload_kit.server.files import owned_key
from upload_kit.server.intake import Expected
from upload_kit.server.multipart import PartBody, parse_boundary
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.replies import CAME_THROUGH, OWNER, json_response
from upload_kit.server.rules import NewUpload
from upload_kit.server.streams import LineStream
from upload_kit.server.watching import follow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.server.body import Bodies, HttpBody
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.documents import Snapshot
    from upload_kit.server.files import FileCore
    from upload_kit.server.forward_lines import ForwardWatcher
    from upload_kit.server.receive import Body
    from upload_kit.server.reporting import Reporter
    from upload_kit.server.storage import UploadInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incoming:
    """A file whose bytes are still to come."""

    info: UploadInfo
    body: Body
    expected: Expected
    key: str | None


class NativeFileRoutes:
    """
    Requests turned into calls of the core, and back.

    Args:
        config: Limits.

        core: Stores files.

        bodies: Opens the bodies of requests.

        reporter: Answers how far an upload is.

        onward: Knows how far forwards are; None if nothing is forwarded.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        core: FileCore,
        bodies: Bodies,
        reporter: Reporter,
        onward: ForwardWatcher | None,
    ) -> None:
        self._config = config
        self._core = core
        self._bodies = bodies
        self._reporter = reporter
        self._onward = onward

    def routes(self) -> list[web.RouteDef]:
        """Return every route, without the server's prefix."""
        return [
            web.post("/upload/foundation", self.foundation),
            web.post("/upload/streaming", self.streaming),
            web.post("/upload/batch", self.batch),
        ]

    async def foundation(self, request: web.Request) -> web.Response:
        """Store a file, and answer once it is stored."""
        with self._bodies.open(request, self._config.max_size) as body:
            file = await self._incoming(request, body)
            snapshot = await self._core.store(
                file.info, body=file.body, expected=file.expected, key=file.key
            )
        return await self._reporter.answer(snapshot, status=201, with_chunks=True)

    async def streaming(self, request: web.Request) -> web.StreamResponse:
        """Store a file, and tell all the while how far it is."""
        activity = Activity()
        stream = LineStream(request, self._config.idle_timeout)
        with (
            self._bodies.open(request, self._config.max_size) as body,
            activity.receiving() as counter,
        ):
            file = await self._incoming(request, body)
            await body.begin()
            await stream.open()
            storing = self._core.store(
                file.info,
                body=file.body,
                expected=file.expected,
                key=file.key,
                arrived=counter,
            )
            telling = follow(file.info, activity, storing, self._onward)
            async with aclosing(telling) as lines:
                async for line in lines:
                    await stream.send(line)
        return await stream.close()

    async def batch(self, request: web.Request) -> web.Response:
        """Store many small files, and answer with what became of each."""
        with self._bodies.open(request, MAX_LIST + 1 + MAX_BYTES) as outer:
            _require_plain(request)
            body = BatchBody(outer, digest_field(request.headers, "List-Digest"))
            files = await body.files()
            outcomes = await self._core.store_batch(
                request[OWNER], files, body, via=request[CAME_THROUGH]
            )
        return json_response({"files": [await self._tell(one) for one in outcomes]})

    async def _tell(self, outcome: Snapshot | UploadProblem) -> dict[str, object]:
        if isinstance(outcome, UploadProblem):
            return {"upload": None, "problem": outcome.document()}
        return {"upload": await self._reporter.document(outcome), "problem": None}

    async def _incoming(self, request: web.Request, body: HttpBody) -> _Incoming:
        """Read what is said of a file: in the headers, or in those of its part."""
        _require_plain(request)
        boundary = parse_boundary(request.headers.get("Content-Type", ""))
        if boundary is None:
            return self._describe(request, body, request.headers)
        if "Content-Digest" in request.headers:
            raise malformed("The digest of a multipart file belongs in its part.")
        part = PartBody(body, boundary)
        return self._describe(request, part, await part.headers())

    def _describe(
        self, request: web.Request, body: Body, headers: Mapping[str, str]
    ) -> _Incoming:
        name = parse_disposition(headers.get("content-disposition"))
        new = NewUpload(
            name=name or request.query.get("name", ""),
            size=body.size,
            content_type=parse_media_type(headers.get("content-type")),
            metadata=parse_metadata(
                request.headers.get("Upload-Metadata"),
                max_keys=self._config.max_metadata_keys,
                max_bytes=self._config.max_metadata_bytes,
            ),
            via=request[CAME_THROUGH],
        )
        return _Incoming(
            info=self._core.describe(request[OWNER], new),
            body=body,
            expected=Expected(content=digest_field(headers, "content-digest")),
            key=_idempotency_key(request),
        )


def _require_plain(request: web.Request) -> None:
    if parse_coding(request.headers.get("Content-Encoding")) is not None:
        raise UploadProblem(
            ProblemType.UNSUPPORTED_MEDIA, "Only chunks may have a Content-Encoding."
        )


def _idempotency_key(request: web.Request) -> str | None:
    """Return a digest of the key and its owner: nobody meets another one's keys."""
    key = parse_key(request.headers.get("Idempotency-Key"))
    return None if key is None else owned_key(request[OWNER], key)
