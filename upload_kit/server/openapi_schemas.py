"""The JSON documents of the protocol, as JSON Schema."""

from __future__ import annotations

from typing import Any, Final

from upload_kit.models import Leg, Verification
from upload_kit.server.forward_record import ForwardState
from upload_kit.server.problems import ProblemType, status_of

_Json = dict[str, Any]

_COUNT: Final = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Final = {"type": ["integer", "null"], "minimum": 0}
_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_SECONDS: Final = {"type": "number"}
_SECONDS_OR_NULL: Final = {"type": ["number", "null"]}
_SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SHA256_OR_NULL: Final = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}
_DURABILITY: Final = {"enum": ["fsync", "page-cache"]}
_METADATA: Final = {"type": "object", "additionalProperties": _TEXT}
_TEXTS: Final = {"type": "array", "items": _TEXT}


def _object(optional: tuple[str, ...] = (), /, **properties: _Json) -> _Json:
    """Return the schema of an object whose members are all there but a few."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _or_null(schema: str) -> _Json:
    return {"oneOf": [{"$ref": f"#/components/schemas/{schema}"}, {"type": "null"}]}


def _list_of(schema: str) -> _Json:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{schema}"}}


_RANGES: Final = {
    "type": "array",
    "items": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
}

SCHEMAS: Final[dict[str, _Json]] = {
    "Any": {"type": "object"},
    "Health": _object(
        ("forwarding",),
        status=_TEXT,
        forwarding=_object(waiting=_COUNT, failed=_COUNT),
    ),
    "Discovery": _object(
        protocol={"const": "upload-kit/1"},
        min_chunk=_COUNT,
        max_chunk=_COUNT,
        max_chunks=_COUNT,
        max_size=_COUNT_OR_NULL,
        default_chunk=_COUNT,
        checksums=_TEXTS,
        encodings=_TEXTS,
        expires_after=_SECONDS,
        durability=_DURABILITY,
        batch=_object(files=_COUNT, bytes=_COUNT),
    ),
    "Begin": _object(
        (
            "name",
            "size",
            "chunk_size",
            "content_type",
            "metadata",
            "session_id",
            "whole_digest",
        ),
        name=_TEXT,
        size=_COUNT_OR_NULL,
        chunk_size={"type": ["integer", "null"], "minimum": 1},
        content_type=_TEXT,
        metadata=_METADATA,
        session_id=_TEXT_OR_NULL,
        whole_digest={"type": "boolean"},
    ),
    "Complete": _object(
        ("sha256", "size"), sha256=_SHA256_OR_NULL, size=_COUNT_OR_NULL
    ),
    "Chunk": _object(index=_COUNT, start=_COUNT, size=_COUNT, sha256=_SHA256),
    "Receipt": _object(
        index=_COUNT, size=_COUNT, sha256=_SHA256, duplicate={"type": "boolean"}
    ),
    "Status": _object(
        session_id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
        name=_TEXT,
        size=_COUNT_OR_NULL,
        content_type=_TEXT,
        metadata=_METADATA,
        state={"enum": ["uploading", "complete"]},
        chunk_size=_COUNT,
        total_chunks=_COUNT_OR_NULL,
        received_chunks=_COUNT,
        received_bytes=_COUNT,
        missing=_RANGES,
        created_at=_SECONDS,
        updated_at=_SECONDS,
        expires_at=_SECONDS_OR_NULL,
        durability=_DURABILITY,
        sha256=_SHA256_OR_NULL,
        stored_as=_TEXT_OR_NULL,
        location=_TEXT,
        chunks={
            "oneOf": [_list_of("Chunk"), {"type": "null"}],
        },
        forwarded=_or_null("Forwarded"),
    ),
    "Batch": _object(files=_list_of("Outcome")),
    "Outcome": _object(upload=_or_null("Status"), problem=_or_null("Problem")),
    "Forwarded": _object(
        state={"enum": [state.value for state in ForwardState]},
        destination=_TEXT_OR_NULL,
        location=_TEXT_OR_NULL,
        bytes=_COUNT,
        sha256=_SHA256_OR_NULL,
        verified={"enum": [level.value for level in Verification]},
        removed={"type": "boolean"},
        tries=_COUNT,
        retry_at=_SECONDS_OR_NULL,
        updated_at=_SECONDS,
        error=_TEXT_OR_NULL,
        error_type=_TEXT_OR_NULL,
    ),
    "Sessions": _object(sessions=_list_of("Status")),
    "Cleanup": _object(removed=_COUNT, bytes=_COUNT),
    "StreamingProgress": _object(
        ("chunk", "leg", "error", "result"),
        kind=_TEXT,
        progress={"type": "object"},
        at=_SECONDS,
        chunk=_COUNT_OR_NULL,
        leg={"enum": [*(leg.value for leg in Leg), None]},
        error=_TEXT_OR_NULL,
        result={"type": ["object", "null"]},
    ),
    "Problem": _object(
        type={"enum": [f"urn:upload-kit:problem:{kind}" for kind in ProblemType]},
        title=_TEXT,
        status={"enum": sorted({status_of(kind) for kind in ProblemType})},
        detail=_TEXT,
        next_step=_TEXT,
    ),
}
"""Every schema by its name."""
