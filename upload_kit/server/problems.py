"""What goes wrong, as RFC 9457 problem details that say what to do next."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from upload_kit.errors import UploadKitError

if TYPE_CHECKING:
    from collections.abc import Mapping

log: Final = logging.getLogger("upload_kit.server")

_PREFIX: Final = "urn:upload-kit:problem:"


class ProblemType(StrEnum):
    """The types of docs/dev/native-protocol.md, without their prefix."""

    MALFORMED = "malformed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD = "method"
    TOO_SLOW = "too-slow"
    CHUNK_CONFLICT = "chunk-conflict"
    ALREADY_COMPLETE = "already-complete"
    INCOMPLETE = "incomplete"
    SUPERSEDED = "superseded"
    OFFSET_MISMATCH = "offset-mismatch"
    EXPIRED = "expired"
    LENGTH_REQUIRED = "length-required"
    VERSION = "version"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA = "unsupported-media"
    EXPECTATION = "expectation"
    DIGEST_MISMATCH = "digest-mismatch"
    SIZE_MISMATCH = "size-mismatch"
    LOCKED = "locked"
    RATE_LIMITED = "rate-limited"
    CHECKSUM_MISMATCH = "checksum-mismatch"
    TOO_MANY_SESSIONS = "too-many-sessions"
    INTERNAL = "internal"
    SHUTTING_DOWN = "shutting-down"
    BUSY = "busy"
    DISK_FULL = "disk-full"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    title: str
    next_step: str
    retry_after: float | None = None


_KINDS: Final = {
    ProblemType.MALFORMED: _Kind(
        400, "The request is malformed", "Correct the request; it will not work as is."
    ),
    ProblemType.UNAUTHORIZED: _Kind(
        401, "No valid token", "Send 'Authorization: Bearer TOKEN' with a known token."
    ),
    ProblemType.FORBIDDEN: _Kind(
        403, "Not allowed", "Use a client that is allowed to do this."
    ),
    ProblemType.NOT_FOUND: _Kind(
        404, "Not found", "Check the address; an upload that is gone begins anew."
    ),
    ProblemType.METHOD: _Kind(
        405, "Method not allowed", "Use one of the methods in 'Allow'."
    ),
    ProblemType.TOO_SLOW: _Kind(
        408, "The body came too slowly", "Send it again over a better connection.", 1.0
    ),
    ProblemType.CHUNK_CONFLICT: _Kind(
        409,
        "Other bytes already count for this chunk",
        "Keep what is there, or delete the upload and begin anew.",
    ),
    ProblemType.ALREADY_COMPLETE: _Kind(
        409, "The upload is complete", "Nothing is left to do; begin a new upload."
    ),
    ProblemType.INCOMPLETE: _Kind(
        409, "Chunks are missing", "Send the chunks in 'missing', then complete again."
    ),
    ProblemType.SUPERSEDED: _Kind(
        409, "A newer request took over", "Wait for the answer to the newer request."
    ),
    ProblemType.OFFSET_MISMATCH: _Kind(
        409, "The offset is another one", "Ask for the offset with HEAD; go on there."
    ),
    ProblemType.EXPIRED: _Kind(
        410, "The upload expired", "Begin a new upload; this one is thrown away."
    ),
    ProblemType.LENGTH_REQUIRED: _Kind(
        411, "Content-Length is required", "Send the chunk with a Content-Length."
    ),
    ProblemType.VERSION: _Kind(
        412, "Another version is spoken here", "Send 'Tus-Resumable: 1.0.0'."
    ),
    ProblemType.TOO_LARGE: _Kind(
        413, "Too large", "Send less; OPTIONS tells the limits."
    ),
    ProblemType.UNSUPPORTED_MEDIA: _Kind(
        415, "Unsupported content coding or type", "OPTIONS tells what is understood."
    ),
    ProblemType.EXPECTATION: _Kind(
        417, "Unknown expectation", "Send 'Expect: 100-continue' or no Expect at all."
    ),
    ProblemType.DIGEST_MISMATCH: _Kind(
        422,
        "The bytes differ from their digest",
        "Read the bytes again, compute their digest again, and send both.",
    ),
    ProblemType.SIZE_MISMATCH: _Kind(
        422, "The size is another one", "Send as many bytes as were announced."
    ),
    ProblemType.LOCKED: _Kind(
        423, "Another request holds this", "Try again when that request has ended.", 1.0
    ),
    ProblemType.RATE_LIMITED: _Kind(
        429, "Too many requests", "Wait for the time in 'Retry-After'.", 1.0
    ),
    ProblemType.TOO_MANY_SESSIONS: _Kind(
        429,
        "Too many unfinished uploads",
        "Complete or delete some of those in 'upload/sessions'.",
        60.0,
    ),
    ProblemType.CHECKSUM_MISMATCH: _Kind(
        460,
        "The bytes differ from their checksum",
        "Send the same bytes again; none of them were kept.",
    ),
    ProblemType.INTERNAL: _Kind(
        500, "The server failed", "Try again; the server's log has the request's ID."
    ),
    ProblemType.SHUTTING_DOWN: _Kind(
        503, "The server is shutting down", "Try again soon; what counts is kept.", 2.0
    ),
    ProblemType.BUSY: _Kind(
        503, "Another request holds this", "Try again when that request has ended.", 1.0
    ),
    ProblemType.DISK_FULL: _Kind(
        507, "No space left", "Try again later, or ask for more space.", 60.0
    ),
    ProblemType.LOOP: _Kind(
        508,
        "The file came from here",
        "Forward to another server than one that forwards back to this one.",
    ),
}

_CLIENT_ERRORS: Final = {
    401: "AuthenticationFailed",
    403: "AuthenticationFailed",
    404: "RemoteGone",
    410: "RemoteGone",
    422: "IntegrityError",
    460: "IntegrityError",
    **dict.fromkeys((408, 423, 429, 500, 503, 507), "RemoteUnavailable"),
}

_OS_ERRORS: Final = {
    errno.ENOSPC: (ProblemType.DISK_FULL, "The server's disk is full."),
    errno.EDQUOT: (ProblemType.DISK_FULL, "The server's disk quota is used up."),
    errno.EFBIG: (ProblemType.TOO_LARGE, "The server's disk takes no file so large."),
}


class UploadProblem(UploadKitError):
    """
    A request that cannot be fulfilled, and what its sender should do.

    Args:
        type: Which of the protocol's problems.

        detail: What went wrong this time; holds no secret and no path of the server.

        next_step: What to do now, where the type's own advice does not fit.

        retry_after: Seconds; None takes the type's own, if it has one.

        extra: Further members of the document, such as `missing`.
    """

    def __init__(
        self,
        type: ProblemType,  # noqa: A002 (the member's name in RFC 9457)
        detail: str,
        *,
        next_step: str | None = None,
        retry_after: float | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        kind = _KINDS[type]
        super().__init__(detail, hint=next_step or kind.next_step)
        self.type = type
        self.status = kind.status
        self.retry_after = kind.retry_after if retry_after is None else retry_after
        self._title = kind.title
        self._extra = dict(extra or {})

    @property
    def client_error(self) -> str:
        """The class in `upload_kit.errors` that our own client makes of it."""
        return _CLIENT_ERRORS.get(self.status, "RemoteRejected")

    def document(self) -> dict[str, object]:
        """Return the JSON document of RFC 9457."""
        return {
            "type": _PREFIX + self.type,
            "title": self._title,
            "status": self.status,
            "detail": self.message,
            "next_step": self.hint,
            **self._extra,
        }


def status_of(type: ProblemType) -> int:  # noqa: A002 (as above)
    """Return the HTTP status that goes with a type of problem."""
    return _KINDS[type].status


def as_problem(error: Exception, doing: str) -> UploadProblem:
    """
    Return the problem that an error stands for.

    What nobody foresaw is logged here, with its traceback, and told without it.

    Args:
        error: What went wrong; to be called while it is handled.

        doing: What was being done, for the log; a request's ID, for example.
    """
    if isinstance(error, UploadProblem):
        return error
    if isinstance(error, OSError) and error.errno in _OS_ERRORS:
        type_, detail = _OS_ERRORS[error.errno]
        return UploadProblem(type_, detail)
    log.error("%s failed", doing, exc_info=error)
    return UploadProblem(ProblemType.INTERNAL, f"{doing} failed inside the server.")
