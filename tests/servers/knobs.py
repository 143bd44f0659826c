"""
A server that speaks our own protocol and misbehaves as it is told to.

It is written from `docs/dev/native-protocol.md` alone and shares no code with
`upload_kit.server`, so that the client is tried against the page and not against its
own other half. It keeps everything in memory.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import zstandard
from aiohttp import web

from tests.servers.app import AppServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

# Little, so that a client notices soon that nobody reads.
_RECEIVE_BUFFER: Final = 64 * 1024
_STEP: Final = 64 * 1024


class Step(StrEnum):
    """The requests of the protocol."""

    OPTIONS = "options"
    BEGIN = "begin"
    STATUS = "status"
    CHUNK = "chunk"
    COMPLETE = "complete"
    ABORT = "abort"
    ONCE = "once"
    BATCH = "batch"


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with a request; what is left out goes right."""

    refuse: int | None = None
    """Answer with this status, after the body was read, and do nothing."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the answer, such as Retry-After."""

    cut_after: int | None = None
    """Cut the connection after so many bytes of the body; keep nothing of it."""

    stall_after: int | None = None
    """Read no more after so many bytes of the body, and never answer."""

    act_and_cut: bool = False
    """Do what was asked, then cut the connection instead of answering."""

    act_and_stall: bool = False
    """Do what was asked, and never answer."""

    forget: bool = False
    """Lose the upload first, as if it had expired."""

    drop_chunk: int | None = None
    """Lose this chunk first, though it was acknowledged."""

    gate: asyncio.Event | None = None
    """Wait for it before the body is read."""

    rate: float | None = None
    """Read the body at this many bytes a second."""

    change: Mapping[str, Any] = field(default_factory=dict)
    """Lie: put these into the JSON of the answer."""

    body: bytes | None = None
    """Answer with these bytes instead, under the same status."""

    times: int | None = 1
    """How many requests it befalls; None for ever."""

    chunk: int | None = None
    """Only requests for this chunk; None for any."""

    after: int = 0
    """Only after so many requests of the step were spared."""

    above: int = -1
    """Only requests that announce more bytes."""


@dataclass(kw_only=True)
class Seen:
    """A request as it came."""

    step: Step
    chunk: int | None
    headers: Mapping[str, str]
    received: int = 0

    @property
    def announced(self) -> int:
        """Bytes of its body, as it says."""
        return int(self.headers.get("Content-Length", "0"))


@dataclass(kw_only=True)
class Upload:
    """A half-done upload."""

    name: str
    size: int | None
    chunk_size: int
    content_type: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)
    done: bool = False


class KnobServer(AppServer):
    """
    Runs on a free port of loopback while the context lasts.

    Args:
        facts: What it says of itself, besides what every server says.
    """

    def __init__(self, **facts: Any) -> None:
        super().__init__(receive_buffer=_RECEIVE_BUFFER)
        self.uploads: dict[str, Upload] = {}
        self.published: dict[str, bytes] = {}
        self.stored = 0
        self.seen: list[Seen] = []
        self.open_chunks = 0
        self.peak_chunks = 0
        self._facts = facts
        self._faults: dict[Step, list[Fault]] = {step: [] for step in Step}
        self._changed = asyncio.Condition()
        self._never = asyncio.Event()
        self._once: dict[str, dict[str, Any]] = {}
        self._numbers = iter(range(1, 1_000_000))

    @property
    def url(self) -> str:
        """Where it is, with a slash at the end."""
        return f"{self.origin}/"

    def make_app(self) -> web.Application:
        """Return what speaks the protocol."""
        app = web.Application(client_max_size=2**40)
        for method, path, step, handler in (
            ("OPTIONS", "/", Step.OPTIONS, self._options),
            ("POST", "/upload/resumable", Step.BEGIN, self._begin),
            ("GET", "/upload/status/{id}", Step.STATUS, self._status),
            ("PUT", "/upload/resumable/{id}/chunks/{n}", Step.CHUNK, self._chunk),
            ("POST", "/upload/resumable/{id}/complete", Step.COMPLETE, self._complete),
            ("DELETE", "/upload/resumable/{id}", Step.ABORT, self._abort),
            ("POST", "/upload/foundation", Step.ONCE, self._foundation),
            ("POST", "/upload/batch", Step.BATCH, self._batch),
        ):
            app.router.add_route(method, path, self._route(step, handler))
        return app

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._never.set()
        await super().__aexit__(kind, error, trace)

    def fault(self, step: Step, fault: Fault) -> None:
        """Let the next requests of this step go wrong; earlier faults come first."""
        self._faults[step].append(fault)

    def clear_faults(self) -> None:
        """Let everything go right from now on."""
        for faults in self._faults.values():
            faults.clear()

    def count(self, step: Step, chunk: int | None = None) -> int:
        """Return how many such requests came."""
        return len(self.requests(step, chunk))

    def requests(self, step: Step, chunk: int | None = None) -> list[Seen]:
        """Return such requests, in the order in which they came."""
        return [
            seen
            for seen in self.seen
            if seen.step is step and chunk in {None, seen.chunk}
        ]

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something holds; looked at whenever a request comes or goes."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(happened)

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _route(self, step: Step, act: Any) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            number = request.match_info.get("n")
            chunk = int(number) if number is not None else None
            seen = Seen(step=step, chunk=chunk, headers=request.headers.copy())
            self.seen.append(seen)
            async with self._counted(is_chunk=step is Step.CHUNK):
                return await self._answer(request, seen, act)

        return handle

    @asynccontextmanager
    async def _counted(self, *, is_chunk: bool) -> AsyncIterator[None]:
        self.open_chunks += is_chunk
        self.peak_chunks = max(self.peak_chunks, self.open_chunks)
        await self._note()
        try:
            yield
        finally:
            self.open_chunks -= is_chunk
            await self._note()

    async def _answer(
        self, request: web.Request, seen: Seen, act: Any
    ) -> web.StreamResponse:
        fault = self._next_fault(seen)
        if fault.gate is not None:
            await fault.gate.wait()
        body = await self._receive(request, seen, fault)
        if body is None:
            return _cut(request)
        upload_id = request.match_info.get("id", "")
        if fault.forget:
            self.uploads.pop(upload_id, None)
        if fault.drop_chunk is not None:
            self.uploads[upload_id].parts.pop(fault.drop_chunk, None)
        if fault.refuse is not None:
            return _problem(fault.refuse, "refused", headers=fault.headers)
        answer: web.Response = act(request, body)
        if fault.act_and_stall:
            await self._never.wait()
        if fault.act_and_cut:
            return _cut(request)
        return _falsified(answer, fault)

    def _next_fault(self, seen: Seen) -> Fault:
        for fault in self._faults[seen.step]:
            if fault.times == 0 or fault.chunk not in {None, seen.chunk}:
                continue
            if seen.announced <= fault.above:
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return Fault()

    async def _receive(
        self, request: web.Request, seen: Seen, fault: Fault
    ) -> bytes | None:
        """Read the body; None if the connection is to be cut."""
        body = bytearray()
        limit = fault.cut_after if fault.cut_after is not None else fault.stall_after
        while limit is None or len(body) < limit:
            room = _STEP if limit is None else min(_STEP, limit - len(body))
            piece = await request.content.read(room)
            if not piece:
                break
            body += piece
            seen.received = len(body)
            if fault.rate is not None:
                await asyncio.sleep(len(piece) / fault.rate)
        if fault.stall_after is not None:
            await self._note()
            await self._never.wait()
        return None if limit is not None else bytes(body)

    def _options(self, request: web.Request, body: bytes) -> web.Response:
        facts = {
            "protocol": "upload-kit/1",
            "min_chunk": 1,
            "max_chunk": 64 * 1024 * 1024,
            "max_chunks": 100_000,
            "max_size": None,
            "default_chunk": 5 * 1024 * 1024,
            "checksums": ["sha-256"],
            "encodings": ["gzip", "zstd"],
            "expires_after": 172_800.0,
            "durability": "page-cache",
        }
        return _json(facts | self._facts, headers={"Upload-Kit-Version": "1"})

    def _begin(self, request: web.Request, body: bytes) -> web.Response:
        asked = json.loads(body)
        if asked.get("session_id") is not None:
            upload = self.uploads.get(asked["session_id"])
            if upload is None:
                return _problem(410, "expired")
            return _json(self._document(asked["session_id"], upload))
        upload_id = f"{next(self._numbers):032x}"
        self.uploads[upload_id] = upload = Upload(
            name=asked["name"],
            size=asked["size"],
            chunk_size=asked["chunk_size"],
            content_type=asked["content_type"],
            metadata=asked["metadata"],
        )
        return _json(self._document(upload_id, upload), status=201)

    def _status(self, request: web.Request, body: bytes) -> web.Response:
        upload = self.uploads.get(request.match_info["id"])
        if upload is None:
            return _problem(410, "expired")
        return _json(self._document(request.match_info["id"], upload))

    def _document(self, upload_id: str, upload: Upload) -> dict[str, Any]:
        whole = b"".join(upload.parts[index] for index in sorted(upload.parts))
        return {
            "session_id": upload_id,
            "name": upload.name,
            "size": len(whole) if upload.done else upload.size,
            "state": "complete" if upload.done else "uploading",
            "chunk_size": upload.chunk_size,
            "sha256": hashlib.sha256(whole).hexdigest() if upload.done else None,
            "location": f"upload/status/{upload_id}",
            "missing": _ranges(upload),
            "chunks": [
                {
                    "index": index,
                    "start": index * upload.chunk_size,
                    "size": len(part),
                    "sha256": hashlib.sha256(part).hexdigest(),
                }
                for index, part in sorted(upload.parts.items())
            ],
        }

    def _chunk(self, request: web.Request, body: bytes) -> web.Response:
        upload = self.uploads.get(request.match_info["id"])
        if upload is None:
            return _problem(410, "expired")
        part = _decoded(request, body)
        if part is None:
            return _problem(422, "digest-mismatch")
        index = int(request.match_info["n"])
        held = upload.parts.get(index)
        if held not in {None, part}:
            return _problem(409, "chunk-conflict")
        upload.parts[index] = part
        return _json(
            {
                "index": index,
                "size": len(part),
                "sha256": hashlib.sha256(part).hexdigest(),
                "duplicate": held is not None,
            }
        )

    def _complete(self, request: web.Request, body: bytes) -> web.Response:
        upload_id = request.match_info["id"]
        upload = self.uploads.get(upload_id)
        if upload is None:
            return _problem(410, "expired")
        asked = json.loads(body)
        upload.size = asked["size"] if upload.size is None else upload.size
        if missing := _ranges(upload):
            return _problem(409, "incomplete", missing=missing)
        whole = b"".join(upload.parts[index] for index in sorted(upload.parts))
        if asked["size"] != len(whole):
            return _problem(422, "size-mismatch")
        if asked["sha256"] not in {None, hashlib.sha256(whole).hexdigest()}:
            return _problem(422, "digest-mismatch")
        self.published[upload.name] = whole
        upload.done = True
        return _json(self._document(upload_id, upload))

    def _abort(self, request: web.Request, body: bytes) -> web.Response:
        self.uploads.pop(request.match_info["id"], None)
        return web.Response(status=204)

    def _foundation(self, request: web.Request, body: bytes) -> web.Response:
        if _decoded(request, body) is None:
            return _problem(422, "digest-mismatch")
        key, name = request.headers["Idempotency-Key"], request.query["name"]
        return _json(self._store_once(key, name, body), status=201)

    def _store_once(self, key: str, name: str, body: bytes) -> dict[str, Any]:
        if key not in self._once:
            self.published[name] = body
            self.stored += 1
            once = Upload(
                name=name,
                size=len(body),
                chunk_size=max(1, len(body)),
                content_type="application/octet-stream",
                metadata={},
                parts={0: body},
                done=True,
            )
            self._once[key] = self._document(f"{next(self._numbers):032x}", once)
        return self._once[key]

    def _batch(self, request: web.Request, body: bytes) -> web.Response:
        listed, _, rest = body.partition(b"\n")
        outcomes = []
        for file in json.loads(listed)["files"]:
            data, rest = rest[: file["size"]], rest[file["size"] :]
            outcome: dict[str, Any] = {"upload": None, "problem": {"status": 422}}
            if hashlib.sha256(data).hexdigest() == file["sha256"]:
                upload = self._store_once(file["key"], file["name"], data)
                outcome = {"upload": upload, "problem": None}
            outcomes.append(outcome)
        return _json({"files": outcomes})


def _ranges(upload: Upload) -> list[list[int]]:
    if upload.size is None:
        return []
    total = max(1, -(-upload.size // upload.chunk_size))
    return [[index, index + 1] for index in range(total) if index not in upload.parts]


def _decoded(request: web.Request, body: bytes) -> bytes | None:
    """Return the bytes before any coding; None if their digest is another one."""
    coding = request.headers.get("Content-Encoding")
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "zstd":
        body = zstandard.ZstdDecompressor().decompress(body)
    name = "Content-Digest" if coding is None else "Unencoded-Digest"
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return body if request.headers.get(name) == f"sha-256=:{sha256}:" else None


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _json(
    document: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    return web.json_response(document, status=status, headers=headers)


def _problem(
    status: int, kind: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> web.Response:
    document = {
        "type": f"urn:upload-kit:problem:{kind}",
        "title": kind,
        "status": status,
        "detail": f"It was {kind}",
        "next_step": "Try something else.",
        **more,
    }
    return web.json_response(
        document,
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )


def _falsified(answer: web.Response, fault: Fault) -> web.Response:
    answer.headers.update(fault.headers)
    if fault.body is not None:
        answer.body = fault.body
    elif fault.change:
        document = json.loads(answer.text or "{}")
        answer.body = json.dumps(document | dict(fault.change)).encode()
    return answer
