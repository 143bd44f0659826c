"""The routes of docs/dev/native-protocol.md."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from upload_kit.server.decoding import DECODERS
from upload_kit.server.documents import Snapshot, status_document
from upload_kit.server.fields import (
    DEFAULT_MEDIA_TYPE,
    malformed,
    parse_digest,
    parse_disposition,
    parse_key,
    parse_media_type,
    parse_metadata,
    parse_uint,
)
from upload_kit.server.intake import Expected
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.replies import OWNER, json_response
from upload_kit.server.rules import NewUpload
from upload_kit.units import KIB

if TYPE_CHECKING:
    from upload_kit.server.body import Bodies, HttpBody
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.core import UploadCore

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
    The protocol's requests, turned into calls of the core and back.

    Args:
        config: Limits.

        core: What happens to uploads.

        bodies: Opens the bodies of requests.
    """

    def __init__(self, config: ServerConfig, core: UploadCore, bodies: Bodies) -> None:
        self._config = config
        self._core = core
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """Return every route, without the server's prefix."""
        session = "/upload/resumable/{id}"
        return [
            web.post("/upload/foundation", self.foundation),
            web.post("/upload/resumable", self.begin),
            web.put(session + "/chunks/{index}", self.put_chunk),
            web.post(session + "/complete", self.complete),
            web.delete(session, self.delete),
            web.get("/upload/status/{id}", self.status),
            web.get("/upload/sessions", self.sessions),
        ]

    def discovery(self) -> dict[str, object]:
        """Return what `OPTIONS` answers."""
        config = self._config
        return {
            "protocol": "upload-kit/1",
            "min_chunk": 1,
            "max_chunk": config.max_chunk,
            "max_chunks": config.max_chunks,
            "max_size": config.max_size,
            "default_chunk": config.default_chunk,
            "checksums": ["sha-256"],
            "encodings": sorted(DECODERS),
            "expires_after": config.expires_after,
            "durability": config.durability,
        }

    async def foundation(self, request: web.Request) -> web.Response:
        """Store a file that is the body of one request."""
        with self._bodies.open(request, self._config.max_size) as body:
            snapshot = await self._core.store(
                request[OWNER],
                self._described(request, body),
                body=body,
                expected=Expected(content=_digest_field(request, "Content-Digest")),
                key=_idempotency_key(request),
            )
        return self._answer(snapshot, status=201, with_chunks=True)

    async def begin(self, request: web.Request) -> web.Response:
        """Begin an upload in chunks, or find one."""
        limit = _JSON_ROOM + 2 * self._config.max_metadata_bytes
        asked = await self._bodies.read_json(request, _Begin, limit)
        owner = request[OWNER]
        if asked.session_id is not None:
            return self._answer(await self._core.status(owner, asked.session_id))
        _require_range("size", asked.size, least=0)
        _require_range("chunk_size", asked.chunk_size, least=1)
        new = NewUpload(
            name=asked.name,
            size=asked.size,
            chunk_size=asked.chunk_size,
            content_type=parse_media_type(asked.content_type),
            metadata=asked.metadata,
            whole_digest=asked.whole_digest,
        )
        return self._answer(await self._core.create(owner, new), status=201)

    async def put_chunk(self, request: web.Request) -> web.Response:
        """Store one chunk."""
        index = parse_uint(request.match_info["index"], "A chunk index")
        coding = _content_coding(request)
        unencoded = _digest_field(request, "Unencoded-Digest")
        if request.content_length is None:
            raise UploadProblem(
                ProblemType.LENGTH_REQUIRED, "A chunk needs a Content-Length."
            )
        if coding is not None and unencoded is None:
            raise malformed("A coded chunk needs an Unencoded-Digest.")
        with self._bodies.open(request, self._config.max_chunk) as body:
            chunk, duplicate = await self._core.put_chunk(
                request[OWNER],
                request.match_info["id"],
                index,
                body=body,
                size=body.size if coding is None else None,
                expected=Expected(
                    content=_digest_field(request, "Content-Digest"),
                    unencoded=unencoded,
                ),
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
        return self._answer(snapshot)

    async def delete(self, request: web.Request) -> web.Response:
        """Throw an upload away."""
        await self._core.delete(request[OWNER], request.match_info["id"])
        return web.Response(status=204)

    async def status(self, request: web.Request) -> web.Response:
        """Say how far an upload is."""
        snapshot = await self._core.status(request[OWNER], request.match_info["id"])
        with_chunks = request.query.get("chunks", "0") not in ("", "0")
        return self._answer(snapshot, with_chunks=with_chunks)

    async def sessions(self, request: web.Request) -> web.Response:
        """List the unfinished uploads of whoever asks."""
        found = await self._core.sessions(request[OWNER])
        return json_response({"sessions": [self._document(one) for one in found]})

    def _document(
        self, snapshot: Snapshot, *, with_chunks: bool = False
    ) -> dict[str, object]:
        return status_document(
            snapshot,
            durability=self._config.durability,
            expires_after=self._config.expires_after,
            with_chunks=with_chunks,
        )

    def _answer(
        self, snapshot: Snapshot, *, status: int = 200, with_chunks: bool = False
    ) -> web.Response:
        document = self._document(snapshot, with_chunks=with_chunks)
        return json_response(document, status=status)

    def _described(self, request: web.Request, body: HttpBody) -> NewUpload:
        """Return what the headers and the query say of a file in one request."""
        if _content_coding(request) is not None:
            raise UploadProblem(
                ProblemType.UNSUPPORTED_MEDIA,
                "Only chunks may have a Content-Encoding.",
            )
        headers = request.headers
        name = parse_disposition(headers.get("Content-Disposition"))
        return NewUpload(
            name=name or request.query.get("name", ""),
            size=body.size,
            content_type=parse_media_type(headers.get("Content-Type")),
            metadata=parse_metadata(
                headers.get("Upload-Metadata"),
                max_keys=self._config.max_metadata_keys,
                max_bytes=self._config.max_metadata_bytes,
            ),
        )


def _digest_field(request: web.Request, name: str) -> bytes | None:
    return parse_digest(request.headers.get(name), name)


def _content_coding(request: web.Request) -> str | None:
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity":
        return None
    if coding not in DECODERS:
        raise UploadProblem(
            ProblemType.UNSUPPORTED_MEDIA,
            f"Content-Encoding may be {', '.join(sorted(DECODERS))}.",
        )
    return coding


def _idempotency_key(request: web.Request) -> str | None:
    """Return a digest of the key and its owner: nobody meets another one's keys."""
    key = parse_key(request.headers.get("Idempotency-Key"))
    if key is None:
        return None
    return hashlib.sha256(f"{request[OWNER]}\0{key}".encode()).hexdigest()


def _require_range(name: str, value: int | None, *, least: int) -> None:
    if value is not None and not least <= value < 2**63:
        raise malformed(f"{name} must be {least} to 2**63 - 1, or null, not {value}.")
