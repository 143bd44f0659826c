"""
The requests of the Gemini Files API: start, send, query, cancel; get and delete a file.

Source: https://ai.google.dev/api/files, and the clients python-genai and gax-php, which
tell what the service answers.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upload_kit.errors import (
    AuthenticationFailed,
    OffsetConflict,
    RemoteError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
)
from upload_kit.records import Record

if TYPE_CHECKING:
    from upload_kit.bodies import ChunkBody
    from upload_kit.config import Secret
    from upload_kit.destinations.reply import Reply
    from upload_kit.destinations.wire import Wire
    from upload_kit.models import UploadSpec

_VERSION: Final = "v1beta"
_DISPLAY_NAME: Final = 512
# After these a client has to ask what arrived; gax-php adds 429 and 5xx, where the same
# request may be tried again, but asking first is never wrong.
_MISMATCH: Final = frozenset({308, 400, 409, 412, 416})
_DELAY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)s", re.ASCII)
_BAD_KEY: Final = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket(Record):
    """An upload that was started: all that is needed to go on with it."""

    url: str
    """Where the bytes go; whoever has it may write, so it is a secret."""

    name: str
    """The file's name at the service, `files/` and an ID that we chose."""

    granularity: int
    """Bytes; every request but the last carries a multiple of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the service says of an upload."""

    received: int
    """Bytes that it has; those of the whole file once that is there."""

    file: dict[str, Any] | None = None
    """The file, once it is whole."""


class GeminiApi:
    """
    Speaks for one API key.

    Args:
        wire: Carries no credentials of its own: the upload URL is one.

        base: URL of the service, without a slash at its end.

        key: Sent to the service itself, never to an upload URL.
    """

    def __init__(self, wire: Wire, base: str, key: Secret) -> None:
        self._wire = wire
        self._base = base
        self._key = key

    async def start(self, spec: UploadSpec) -> Ticket:
        """Start an upload, under a name by which its file can be found again."""
        name = f"files/upload-kit-{secrets.token_hex(12)}"
        facts = {
            "name": name,
            "displayName": _unicode(spec.name)[:_DISPLAY_NAME],
            "mimeType": spec.content_type,
            "sizeBytes": str(spec.size),
        }
        reply = await self._wire.request(
            "POST",
            f"{self._base}/upload/{_VERSION}/files",
            headers={
                **self._credentials,
                "Content-Type": "application/json",
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(spec.size),
                "X-Goog-Upload-Header-Content-Type": spec.content_type,
            },
            body=msgspec.json.encode({"file": facts}),
        )
        if reply.status != 200:
            raise self._error(reply)
        return self._ticket(reply, name)

    def _ticket(self, reply: Reply, name: str) -> Ticket:
        url = reply.headers.get("X-Goog-Upload-URL", "")
        scheme = url.partition("://")[0]
        if scheme not in {"http", "https"}:
            raise RemoteRejected(
                f"{reply.url} gave no URL to upload to.",
                status=reply.status,
                hint="Check that the base URL is that of the Gemini API.",
            )
        if scheme == "http" and self._base.startswith("https:"):
            raise RemoteRejected(f"{reply.url} wants the bytes sent without TLS.")
        # Without the header any number of bytes will do.
        granularity = reply.headers.get("X-Goog-Upload-Chunk-Granularity", "1")
        return Ticket(url=url, name=name, granularity=max(1, _count(granularity)))

    async def send(
        self,
        ticket: Ticket,
        body: ChunkBody,
        *,
        skip: int,
        offset: int,
        finalize: bool,
    ) -> Standing:
        """
        Send bytes, or only say that there are no more.

        Args:
            ticket: Which upload.

            body: The bytes.

            skip: Bytes of the body that the service has; where that is all of them,
                none are sent.

            offset: Bytes of the file that the service has.

            finalize: Whether the file ends here.

        Raises:
            OffsetConflict: The service has another amount; query, then go on.
            RemoteUnavailable: Query, then try again.
            RemoteGone: The upload was cancelled or has expired.
            RemoteRejected: The service does not take the file.
        """
        count = body.size - skip
        words = ["upload"] if count else []
        words += ["finalize"] if finalize else []
        headers = {
            "X-Goog-Upload-Command": ", ".join(words),
            "X-Goog-Upload-Offset": str(offset),
        }
        reply = await self._wire.request(
            "POST", ticket.url, headers=headers, body=body, skip=skip
        )
        if reply.status != 200:
            raise self._refusal(reply)
        if _is_active(reply):
            return Standing(received=offset + count)
        file = _member(reply, "file") or await self.file(ticket.name)
        return Standing(received=offset + count, file=file)

    async def query(self, ticket: Ticket) -> Standing:
        """
        Ask what arrived.

        Raises:
            RemoteGone: The upload was cancelled or has expired, or its file deleted.
            RemoteUnavailable: Worth another try.
        """
        reply = await self._wire.request(
            "POST", ticket.url, headers={"X-Goog-Upload-Command": "query"}
        )
        if reply.status != 200:
            error = self._error(reply)
            # An upload that the service has forgotten is a bad request to it.
            gone = reply.status == 400 or _status(reply) == "cancelled"
            raise RemoteGone(error.message, status=reply.status) if gone else error
        received = _count(reply.headers.get("X-Goog-Upload-Size-Received", ""))
        if not _is_active(reply):
            # The answer may hold the file, but only as it was when it became whole.
            name = _member(reply, "file").get("name") or ticket.name
            return Standing(received=received, file=await self.file(name))
        if received < 0:
            raise RemoteRejected(f"{reply.url} does not say how much it received.")
        return Standing(received=received)

    def _refusal(self, reply: Reply) -> RemoteError:
        """Return the error for bytes that were not taken."""
        error = self._error(reply)
        if _status(reply) == "final":
            return RemoteRejected(error.message, status=reply.status)
        if reply.status in _MISMATCH:
            return OffsetConflict(error.message, status=reply.status)
        return error

    async def cancel(self, ticket: Ticket) -> bool:
        """
        Cancel an upload; nothing happens if it is gone.

        Returns:
            Whether it was too late, so that there is a file to delete.
        """
        reply = await self._wire.request(
            "POST", ticket.url, headers={"X-Goog-Upload-Command": "cancel"}
        )
        if reply.status >= 500:
            raise self._error(reply)
        return _status(reply) == "final"

    async def file(self, name: str) -> dict[str, Any]:
        """
        Return what the service knows of a file.

        Raises:
            RemoteGone: There is no such file.
        """
        reply = await self._wire.request(
            "GET", f"{self._base}/{_VERSION}/{name}", headers=self._credentials
        )
        if reply.status != 200:
            raise self._missing(reply)
        found = reply.json()
        if not isinstance(found, dict):
            raise RemoteRejected(f"{reply.url} did not answer with a file.")
        return found

    async def delete(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        reply = await self._wire.request(
            "DELETE", f"{self._base}/{_VERSION}/{name}", headers=self._credentials
        )
        if reply.status not in {200, 204}:
            error = self._missing(reply)
            if not isinstance(error, RemoteGone):
                raise error

    def _missing(self, reply: Reply) -> RemoteError:
        """Return the error; the service says 403 of a file that is not there."""
        error = self._error(reply)
        if reply.status in {403, 404, 410}:
            return RemoteGone(error.message, status=reply.status)
        return error

    @property
    def _credentials(self) -> dict[str, str]:
        return {"x-goog-api-key": self._key.reveal()}

    def _error(self, reply: Reply) -> RemoteError:
        """Return the error that an answer stands for, in the service's own words."""
        problem = _member(reply, "error")
        by_status = reply.error()
        kind = type(by_status) if isinstance(by_status, RemoteError) else RemoteRejected
        hint = None
        if _BAD_KEY & {detail.get("reason") for detail in _details(problem)}:
            kind = AuthenticationFailed
        if kind is AuthenticationFailed:
            hint = "Check the API key: api_key=..., GOOGLE_API_KEY or GEMINI_API_KEY."
        words = str(problem.get("message") or by_status.message)
        # The service quotes the key of a suspended project.
        words = words.replace(self._key.reveal(), "***")
        return kind(
            f"The Gemini API answered {reply.status}: {words}",
            status=reply.status,
            retry_after=reply.retry_after or _retry_delay(problem),
            hint=hint,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()


def decode_sha256(field: str | None) -> str | None:
    """
    Return the digest of a file in hexadecimal, or None where the service gives none.

    The field is base64, of the digest in hexadecimal, although the reference does not
    say so; the digest itself in base64 is understood too.

    Source: https://github.com/googleapis/js-genai/issues/381, where
    `MTgzNjUwZTJkZWY2...` stands for `183650e2def6...`.

    Raises:
        RemoteRejected: It is neither.
    """
    if not field:
        return None
    try:
        decoded = base64.b64decode(field, validate=True)
        digest = decoded if len(decoded) == 32 else bytes.fromhex(decoded.decode())
    except (binascii.Error, ValueError) as error:
        raise RemoteRejected(f"Not the SHA-256 of a file: {field!r}.") from error
    return digest.hex()


def _unicode(name: str) -> str:
    """Return a file name without what is no Unicode in it."""
    return name.encode("utf-8", "replace").decode()


def _count(field: str) -> int:
    """Return a count of bytes, or -1: `int` alone takes signs and spaces."""
    return int(field) if field.isascii() and field.isdigit() else -1


def _status(reply: Reply) -> str:
    return reply.headers.get("X-Goog-Upload-Status", "").strip().lower()


def _is_active(reply: Reply) -> bool:
    """
    Return whether the service waits for more; otherwise the file is whole.

    Raises:
        RemoteGone: The upload was cancelled.
        RemoteUnavailable: The answer does not say how the upload stands.
    """
    status = _status(reply)
    if status == "cancelled":
        raise RemoteGone("The upload was cancelled.", status=reply.status)
    if status not in {"active", "final"}:
        raise RemoteUnavailable(f"{reply.url} does not say how the upload stands.")
    return status == "active"


def _member(reply: Reply, name: str) -> dict[str, Any]:
    """Return an object in the answer's JSON, or an empty one if there is none."""
    try:
        found = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    member = found.get(name) if isinstance(found, dict) else None
    return member if isinstance(member, dict) else {}


def _details(problem: dict[str, Any]) -> list[dict[str, Any]]:
    details = problem.get("details")
    if not isinstance(details, list):
        return []
    return [detail for detail in details if isinstance(detail, dict)]


def _retry_delay(problem: dict[str, Any]) -> float | None:
    """Return the seconds that google.rpc.RetryInfo asks for."""
    for detail in _details(problem):
        match = _DELAY.fullmatch(str(detail.get("retryDelay")))
        if match is not None:
            return float(match[1])
    return None
