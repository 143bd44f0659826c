"""The OpenAPI description of the server, made from the same tables as its answers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from upload_kit.server.openapi_schemas import SCHEMAS
from upload_kit.server.problems import ProblemType, status_of
from upload_kit.via import VIA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.server.config import ServerConfig

_Json = dict[str, Any]

_ALWAYS: Final = (
    ProblemType.UNAUTHORIZED,
    ProblemType.FORBIDDEN,
    ProblemType.RATE_LIMITED,
    ProblemType.INTERNAL,
    ProblemType.SHUTTING_DOWN,
)
_BODY: Final = (
    ProblemType.MALFORMED,
    ProblemType.TOO_SLOW,
    ProblemType.TOO_LARGE,
    ProblemType.DISK_FULL,
)
_FILE: Final = (
    *_BODY,
    ProblemType.UNSUPPORTED_MEDIA,
    ProblemType.DIGEST_MISMATCH,
    ProblemType.SUPERSEDED,
    ProblemType.BUSY,
)
_GONE: Final = (ProblemType.NOT_FOUND, ProblemType.EXPIRED)


def openapi_document(config: ServerConfig) -> _Json:
    """
    Return the OpenAPI 3.1 document.

    Args:
        config: Whether tokens are wanted, and where the server is.
    """
    document: _Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "upload_kit server",
            "version": _version(),
            "description": "Resumable uploads that are proved to have arrived.",
        },
        "servers": [{"url": config.prefix or "/"}],
        "paths": {**_public_paths(), **_file_paths(), **_chunk_paths()},
        "components": {"schemas": SCHEMAS},
    }
    if not config.is_open:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"token": scheme}
        document["security"] = [{"token": []}]
    return document


def _public_paths() -> _Json:
    discovery = _operation("What the server can do.", {200: "Discovery"}, public=True)
    health = _operation("Whether the process answers.", {200: "Health"}, public=True)
    ready = _operation(
        "Whether uploads can be taken now.",
        {200: "Health"},
        problems=(ProblemType.SHUTTING_DOWN,),
        public=True,
    )
    openapi = _operation("This document.", {200: "Any"}, public=True)
    return {
        "/": {"options": discovery},
        "/upload": {"options": discovery},
        "/healthz": {"get": health},
        "/readyz": {"get": ready},
        "/openapi.json": {"get": openapi},
    }


def _file_paths() -> _Json:
    foundation = _operation(
        "Store a file that is the body of this request.",
        {201: "Status"},
        problems=(*_FILE, ProblemType.LOOP),
        parameters=_FILE_PARAMETERS,
        body=_FILE_BODY,
    )
    streaming = _operation(
        "Store a file, and answer with its progress while it arrives.",
        {200: "StreamingProgress"},
        problems=(*_FILE, ProblemType.LOOP),
        parameters=_FILE_PARAMETERS,
        body=_FILE_BODY,
        media=_STREAMS,
    )
    batch = _operation(
        "Store many small files: a line of JSON that lists them, then their bytes.",
        {200: "Batch"},
        problems=(
            *_BODY,
            ProblemType.UNSUPPORTED_MEDIA,
            ProblemType.DIGEST_MISMATCH,
            ProblemType.LOOP,
        ),
        parameters=[_VIA, _parameter("List-Digest", "header", {"type": "string"})],
        body={"required": True, "content": {"application/octet-stream": {}}},
    )
    return {
        "/upload/foundation": {"post": foundation},
        "/upload/streaming": {"post": streaming},
        "/upload/batch": {"post": batch},
    }


def _chunk_paths() -> _Json:
    begin = _operation(
        "Begin an upload in chunks, or find one.",
        {201: "Status", 200: "Status"},
        problems=(
            *_BODY,
            *_GONE,
            ProblemType.TOO_MANY_SESSIONS,
            ProblemType.LOOP,
        ),
        parameters=[_VIA],
        body=_json_body("Begin"),
    )
    put = _operation(
        "Store one chunk, in any order, as often as needed.",
        {200: "Receipt"},
        problems=(
            *_FILE,
            *_GONE,
            ProblemType.CHUNK_CONFLICT,
            ProblemType.ALREADY_COMPLETE,
            ProblemType.LENGTH_REQUIRED,
            ProblemType.SIZE_MISMATCH,
        ),
        parameters=[
            _ID,
            _parameter("index", "path", {"type": "integer", "minimum": 0}),
            _parameter("Content-Digest", "header", {"type": "string"}),
            _parameter("Unencoded-Digest", "header", {"type": "string"}),
            _parameter("Content-Encoding", "header", {"enum": ["gzip", "zstd"]}),
        ],
        body={"required": True, "content": {"application/octet-stream": {}}},
    )
    complete = _operation(
        "Publish the file in one atomic step.",
        {200: "Status"},
        problems=(
            *_BODY,
            *_GONE,
            ProblemType.INCOMPLETE,
            ProblemType.DIGEST_MISMATCH,
            ProblemType.SIZE_MISMATCH,
            ProblemType.BUSY,
        ),
        parameters=[_ID],
        body=_json_body("Complete"),
    )
    delete = _operation(
        "Throw the upload away; also when it is not there.",
        {204: None},
        problems=(ProblemType.ALREADY_COMPLETE, ProblemType.BUSY),
        parameters=[_ID],
    )
    status = _operation(
        "How far the upload is.",
        {200: "Status"},
        problems=_GONE,
        parameters=[_ID, _parameter("chunks", "query", {"enum": ["0", "1"]})],
    )
    events = _operation(
        "How far the upload is, until it ends.",
        {200: "StreamingProgress"},
        problems=_GONE,
        parameters=[_ID],
        media=_STREAMS,
    )
    cleanup = _operation("Remove expired uploads.", {200: "Cleanup"})
    sessions = _operation("All unfinished uploads.", {200: "Sessions"})
    return {
        "/upload/resumable": {"post": begin},
        "/upload/resumable/{id}": {"delete": delete},
        "/upload/resumable/{id}/chunks/{index}": {"put": put},
        "/upload/resumable/{id}/complete": {"post": complete},
        "/upload/status/{id}": {"get": status},
        "/upload/status/{id}/events": {"get": events},
        "/upload/sessions": {"get": sessions},
        "/upload/cleanup": {"post": cleanup},
    }


def _operation(
    summary: str,
    answers: dict[int, str | None],
    *,
    problems: Sequence[ProblemType] = (),
    parameters: Sequence[_Json] = (),
    body: _Json | None = None,
    media: Sequence[str] = ("application/json",),
    public: bool = False,
) -> _Json:
    responses = {
        str(status): _answer(schema, media) for status, schema in answers.items()
    }
    kinds = problems if public else (*problems, *_ALWAYS)
    for status in sorted({status_of(kind) for kind in kinds}):
        responses[str(status)] = _problem([k for k in kinds if status_of(k) == status])
    operation: _Json = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    if public:
        operation["security"] = []
    return operation


def _answer(schema: str | None, media: Sequence[str]) -> _Json:
    if schema is None:
        return {"description": "Done."}
    content = {
        name: {"schema": _event(schema) if name == _SSE else _ref(schema)}
        for name in media
    }
    return {"description": f"{schema}.", "content": content}


def _event(schema: str) -> _Json:
    """Return the schema of a server-sent event, of which the answer has many."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": _ref(schema),
    }
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _problem(kinds: Sequence[ProblemType]) -> _Json:
    return {
        "description": ", ".join(f"`{kind}`" for kind in dict.fromkeys(kinds)),
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }


def _parameter(name: str, place: str, schema: _Json) -> _Json:
    required = place == "path"
    return {"name": name, "in": place, "required": required, "schema": schema}


def _json_body(schema: str) -> _Json:
    content = {"application/json": {"schema": _ref(schema)}}
    return {"required": True, "content": content}


def _ref(schema: str) -> _Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _version() -> str:
    try:
        return version("upload_kit")
    except PackageNotFoundError:
        # Run from a source tree that is not installed.
        return "0"


_ID: Final = _parameter("id", "path", {"type": "string", "pattern": "^[0-9a-f]{32}$"})
_SSE: Final = "text/event-stream"
_STREAMS: Final = (_SSE, "application/x-ndjson")
_VIA: Final = _parameter(VIA, "header", {"type": "string"})
_FILE_PARAMETERS: Final = (
    _VIA,
    _parameter("name", "query", {"type": "string"}),
    _parameter("Content-Disposition", "header", {"type": "string"}),
    _parameter("Content-Digest", "header", {"type": "string"}),
    _parameter("Upload-Metadata", "header", {"type": "string"}),
    _parameter(
        "Idempotency-Key",
        "header",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
    ),
)
_FILE_BODY: Final = {
    "required": True,
    "content": {
        "application/octet-stream": {},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    },
}
