"""
A Gemini Files API to test against: the protocol of Google's clients, and faults.

Written from the protocol as python-genai, gax-php and gax-go's own test server have it;
python-genai itself uploads to it in `tests/unit/test_gemini_server.py`.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from upload_kit.bench.peers.gemini_session import Session
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

KEY: Final = "a-key-of-the-tests"
GRANULARITY: Final = 256 * KIB
# Which of the two versions a client asks for makes no difference here.
_FILES: Final = "/{version:v1|v1beta}/files"
# Fields come in the spelling of JSON or of protobuf; answers have that of JSON.
_SPELLINGS: Final = {
    "display_name": "displayName",
    "mime_type": "mimeType",
    "size_bytes": "sizeBytes",
}


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong; a count goes down each time, and 0 is never."""

    statuses: list[int] = field(default_factory=list)
    """Answers to the next requests with data, before any of it is read."""

    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next requests with data lose their connection."""

    stall_after: list[int] = field(default_factory=list)
    """Bytes after which the next requests with data are read no further."""

    lost_answers: int = 0
    """Requests with data that are obeyed, but not answered."""

    answer_delay: float = 0.0
    """Seconds until a request with data is answered."""

    not_final: int = 0
    """Final requests whose bytes are taken, but not as the last ones."""

    lie: int = 0
    """Added to what is said to have been received."""

    suspended: bool = False
    """The key's project was suspended; the service says so and quotes the key."""

    forgetful: bool = False
    """The service forgets every upload."""

    mute_query: bool = False
    """A query for a whole file is answered without the file."""

    corrupt: bool = False
    """One byte of every file is stored wrong."""


class GeminiServer:
    """
    The service, on a free port of loopback, in the running event loop.

    Args:
        granularity: Of chunks; None leaves the header out.

        commit: Bytes; of a request that broke off, multiples of it are kept.

        processing: Looks at a file until it is active.

        failure: Why files cannot be processed; None: they can.

        keep: Whether the bytes are kept for comparing, besides their digest.

        raw_digest: Write digests as the digest in base64, not in hexadecimal in base64.
    """

    def __init__(
        self,
        *,
        granularity: int | None = GRANULARITY,
        commit: int = 64 * KIB,
        processing: int = 0,
        failure: str | None = None,
        keep: bool = True,
        raw_digest: bool = False,
    ) -> None:
        self.granularity = granularity
        self.commit = commit
        self.processing = processing
        self.failure = failure
        self.keep = keep
        self.raw_digest = raw_digest
        self.faults = Faults()
        self.sessions: dict[str, Session] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.commands: list[str] = []
        self.keys_on_upload_urls: list[str] = []
        self.bytes_in = 0
        self.most_at_once = 0
        self.stalled = asyncio.Event()
        self._at_once = 0
        self._looks: dict[str, int] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=0)
        app.router.add_post(f"/upload{_FILES}", self._command)
        app.router.add_get(f"{_FILES}/{{id}}", self._get)
        app.router.add_delete(f"{_FILES}/{{id}}", self._delete)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,
            read_bufsize=MIB,
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def destination(self) -> str:
        """The URL by which upload_kit finds this server."""
        return f"gemini://?base_url={self.url}"

    def count(self, command: str) -> int:
        """Return how many requests had this command."""
        return self.commands.count(command)

    async def _command(self, request: web.Request) -> web.StreamResponse:
        words = request.headers.get("X-Goog-Upload-Command", "")
        commands = [word.strip().lower() for word in words.split(",")]
        self.commands.append(", ".join(commands))
        if commands == ["start"]:
            return await self._start(request)
        self.keys_on_upload_urls += request.headers.getall("x-goog-api-key", [])
        session = self.sessions.get(request.query.get("upload_id", ""))
        if session is None or self.faults.forgetful:
            return _problem(404, "NOT_FOUND", "There is no such upload.")
        handlers: dict[str, Callable[[Session], web.StreamResponse]] = {
            "query": self._query,
            "cancel": self._cancel,
        }
        if commands[0] in handlers:
            return handlers[commands[0]](session)
        return await self._data(request, session, commands)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-goog-api-key") != KEY:
            return _bad_key()
        if self.faults.suspended:
            words = f"Permission denied: Consumer 'api_key:{KEY}' has been suspended."
            return _problem(403, "PERMISSION_DENIED", words)
        size = request.headers.get("X-Goog-Upload-Header-Content-Length", "")
        named = (await request.json()).get("file", {})
        facts = {_SPELLINGS.get(name, name): value for name, value in named.items()}
        if request.headers.get("X-Goog-Upload-Protocol") != "resumable":
            return _problem(400, "INVALID_ARGUMENT", "Not a resumable upload.")
        session = Session(
            id=secrets.token_hex(16),
            facts=facts,
            size=int(size),
            step=self.commit,
            keep=self.keep,
            corrupt=self.faults.corrupt,
        )
        self.sessions[session.id] = session
        query = f"upload_id={session.id}&upload_protocol=resumable"
        headers = {
            "X-Goog-Upload-URL": f"{request.url.origin()}{request.path}?{query}",
            "X-Goog-Upload-Status": "active",
        }
        if self.granularity is not None:
            headers["X-Goog-Upload-Chunk-Granularity"] = str(self.granularity)
        return web.Response(headers=headers)

    def _query(self, session: Session) -> web.StreamResponse:
        if session.status == "final" and not self.faults.mute_query:
            return self._final(session)
        headers = {"X-Goog-Upload-Status": session.status}
        if session.status == "active":
            received = session.received + self.faults.lie
            headers["X-Goog-Upload-Size-Received"] = str(received)
        return web.Response(headers=headers)

    def _cancel(self, session: Session) -> web.StreamResponse:
        if session.status == "final":
            return _problem(400, "FAILED_PRECONDITION", "It is final.", session)
        session.status = "cancelled"
        return web.Response(headers={"X-Goog-Upload-Status": "cancelled"})

    async def _data(
        self, request: web.Request, session: Session, commands: list[str]
    ) -> web.StreamResponse:
        if self.faults.statuses:
            return _problem(self.faults.statuses.pop(0), "UNAVAILABLE", "Not now.")
        if refusal := self._refusal(request, session, commands):
            return refusal
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if "upload" in commands:
                await self._take(request, session)
        finally:
            self._at_once -= 1
        if "finalize" in commands and self.faults.not_final:
            self.faults.not_final -= 1
        elif "finalize" in commands:
            await self._publish(session)
        await asyncio.sleep(self.faults.answer_delay)
        if self.faults.lost_answers:
            self.faults.lost_answers -= 1
            _cut(request)
        if session.status == "final":
            return self._final(session)
        return web.Response(headers={"X-Goog-Upload-Status": "active"})

    def _refusal(
        self, request: web.Request, session: Session, commands: list[str]
    ) -> web.StreamResponse | None:
        """Return why these bytes are not taken."""
        offset = int(request.headers["X-Goog-Upload-Offset"])
        end = offset + (request.content_length or 0)
        if session.status != "active":
            why = f"The upload is {session.status}."
        elif offset != session.received:
            why = f"The offset is {session.received}, not {offset}."
        elif "finalize" in commands and end != session.size:
            why = f"The size is {session.size}, not {end}."
        elif "finalize" not in commands and (
            # What goes on with half a chunk can only end where the chunk would have.
            end > session.size or end % (self.granularity or 1)
        ):
            why = f"{end} is no multiple of {self.granularity}."
        else:
            return None
        return _problem(400, "INVALID_ARGUMENT", why, session)

    async def _take(self, request: web.Request, session: Session) -> None:
        """Take the bytes as they come; what is kept of a broken request is rounded."""
        session.writer = request
        session.drop()
        taken = 0
        cut = self.faults.cut_after.pop(0) if self.faults.cut_after else None
        stall = self.faults.stall_after.pop(0) if self.faults.stall_after else None
        async for piece in request.content.iter_any():
            if session.writer is not request:
                return
            if cut is not None and taken + len(piece) >= cut:
                self._count(session, piece[: cut - taken])
                _cut(request)
            self._count(session, piece)
            taken += len(piece)
            if stall is not None and taken >= stall:
                self.stalled.set()
                # Ends when the test's client, or the test, ends.
                await asyncio.Event().wait()
        session.settle(whole=True)

    def _count(self, session: Session, piece: bytes) -> None:
        self.bytes_in += len(piece)
        session.take(piece)

    async def _publish(self, session: Session) -> None:
        digest = await session.sha256()
        session.status = "final"
        written = digest if self.raw_digest else digest.hex().encode()
        name = session.facts.get("name") or f"files/{secrets.token_hex(6)}"
        state = "PROCESSING" if self.processing or self.failure else "ACTIVE"
        session.facts["name"] = name
        self.contents[name] = session.content()
        self._looks[name] = self.processing
        self.files[name] = session.final = {
            **session.facts,
            "sizeBytes": str(session.received),
            "sha256Hash": base64.b64encode(written).decode(),
            "uri": f"{self.url}/v1beta/{name}",
            "state": state,
            "source": "UPLOADED",
        }

    def _final(self, session: Session) -> web.StreamResponse:
        """Answer with the file as it was then, even if it was deleted since."""
        headers = {"X-Goog-Upload-Status": "final"}
        return web.json_response({"file": session.final}, headers=headers)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        name = f"files/{request.match_info['id']}"
        if request.headers.get("x-goog-api-key") != KEY:
            return _bad_key()
        file = self.files.get(name)
        if file is None:
            return _no_file(name)
        if file["state"] == "PROCESSING":
            self._look(name, file)
        return web.json_response(file)

    def _look(self, name: str, file: dict[str, Any]) -> None:
        self._looks[name] -= 1
        if self._looks[name] > 0:
            return
        file["state"] = "ACTIVE" if self.failure is None else "FAILED"
        if self.failure is not None:
            file["error"] = {"code": 3, "message": self.failure}

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        name = f"files/{request.match_info['id']}"
        if request.headers.get("x-goog-api-key") != KEY:
            return _bad_key()
        if self.files.pop(name, None) is None:
            return _no_file(name)
        del self.contents[name]
        return web.json_response({})


def _cut(request: web.Request) -> None:
    """Break the connection off."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


def _problem(
    code: int, status: str, message: str, session: Session | None = None
) -> web.Response:
    headers = {} if session is None else {"X-Goog-Upload-Status": session.status}
    error = {"code": code, "status": status, "message": message}
    return web.json_response({"error": error}, status=code, headers=headers)


def _bad_key() -> web.Response:
    info = "type.googleapis.com/google.rpc.ErrorInfo"
    error = {
        "code": 400,
        "status": "INVALID_ARGUMENT",
        "message": "API key not valid. Please pass a valid API key.",
        "details": [{"@type": info, "reason": "API_KEY_INVALID"}],
    }
    return web.json_response({"error": error}, status=400)


def _no_file(name: str) -> web.Response:
    message = (
        f"You do not have permission to access the File {name} or it may not exist."
    )
    return _problem(403, "PERMISSION_DENIED", message)
