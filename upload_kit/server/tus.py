"""
tus 1.0 at `/files/`: the core and every extension but checksums in trailers.

aiohttp reads trailers and drops them, so `checksum-trailer` is not offered.

Source: https://tus.io/protocols/resumable-upload (1.0.0).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from upload_kit.checksums import format_digest
from upload_kit.server.append import CHECKSUMS
from upload_kit.server.cors import Cors
from upload_kit.server.fields import malformed
from upload_kit.server.intake import Expected
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.replies import CAME_THROUGH, OWNER
from upload_kit.server.tus_fields import (
    CONCAT,
    METADATA,
    VERSION,
    check_bytes,
    check_version,
    format_time,
    read_checksum,
    read_creation,
    read_new_length,
    read_offset,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from upload_kit.server.append import Checksum
    from upload_kit.server.body import Bodies, HttpBody
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.documents import Snapshot
    from upload_kit.server.files import FileCore
    from upload_kit.server.guard import Guard
    from upload_kit.server.joining import JoiningCore
    from upload_kit.server.rules import NewUpload

    _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATH: Final = "/files"

_EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
    "concatenation-unfinished",
)
_METHODS: Final = "POST, HEAD, PATCH, DELETE, OPTIONS"
_EXPOSED: Final = (
    "Location, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata,"
    " Upload-Expires, Upload-Concat, Tus-Version, Tus-Resumable, Tus-Max-Size,"
    " Tus-Extension, Tus-Checksum-Algorithm, Repr-Digest, Retry-After, X-Request-Id"
)


class TusRoutes:
    """
    The protocol's requests, turned into calls of the core and back.

    Args:
        config: Limits.

        core: What happens to uploads.

        files: Stores files that come in one request.

        bodies: Opens the bodies of requests.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        core: JoiningCore,
        files: FileCore,
        bodies: Bodies,
    ) -> None:
        self._config = config
        self._core = core
        self._files = files
        self._bodies = bodies
        self._open: set[HttpBody] = set()
        self._cors = Cors(config.allowed_origins, methods=_METHODS, exposed=_EXPOSED)

    def routes(self, guard: Guard) -> list[web.RouteDef]:
        """Return every route, without the server's prefix."""
        guard.open_to_all(self.options)
        found = []
        for path, handler in (
            (PATH, self.collection),
            (f"{PATH}/", self.collection),
            (f"{PATH}/{{id}}", self.upload),
        ):
            found += [web.options(path, self.options), web.route("*", path, handler)]
        return found

    def attach(self, app: web.Application) -> None:
        """Have the application tell when it answers, stops and ends."""

        async def prepare(request: web.Request, response: web.StreamResponse) -> None:
            self._prepare(request, response)

        async def drain(_app: web.Application) -> None:
            stopping = UploadProblem(
                ProblemType.SHUTTING_DOWN, "The server stops; what came is kept."
            )
            for body in self._open:
                body.stop(stopping)

        async def close(_app: web.Application) -> AsyncIterator[None]:
            yield
            await self._core.aclose()

        app.on_response_prepare.append(prepare)
        app.on_shutdown.append(drain)
        app.cleanup_ctx.append(close)

    async def options(self, _request: web.Request) -> web.Response:
        """Say what the server can do."""
        headers = {
            "Tus-Version": VERSION,
            "Tus-Extension": ",".join(_EXTENSIONS),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        }
        if self._config.max_size is not None:
            headers["Tus-Max-Size"] = str(self._config.max_size)
        return web.Response(status=204, headers=headers)

    async def collection(self, request: web.Request) -> web.StreamResponse:
        """Begin an upload: whatever the method, if the override says so."""
        return await self._dispatch(request, {"POST": self.create})

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Do something to an upload: what the method says, or the override."""
        handlers = {"HEAD": self.head, "PATCH": self.patch, "DELETE": self.delete}
        return await self._dispatch(request, handlers)

    async def _dispatch(
        self, request: web.Request, handlers: Mapping[str, _Handler]
    ) -> web.StreamResponse:
        # The text wants the override to count, whatever the request itself is.
        method = request.headers.get("X-HTTP-Method-Override", request.method).upper()
        if method == "OPTIONS":
            return await self.options(request)
        if method not in handlers:
            raise web.HTTPMethodNotAllowed(method, ["OPTIONS", *handlers])
        check_version(request.headers)
        try:
            return await handlers[method](request)
        except UploadProblem as problem:
            if problem.type is not ProblemType.BUSY:
                raise
            # Clients of tus know what this status means.
            raise UploadProblem(ProblemType.LOCKED, problem.message) from problem

    async def create(self, request: web.Request) -> web.Response:
        """Begin an upload, perhaps with its first bytes, or join one."""
        new = replace(
            read_creation(request.headers, self._config), via=request[CAME_THROUGH]
        )
        has_body = request.can_read_body
        if has_body:
            check_bytes(request.headers)
        owner = request[OWNER]
        if new.joins:
            if has_body:
                raise malformed("A final upload comes without bytes.")
            return self._created(request, await self._core.join(owner, new))
        if not has_body:
            return self._created(request, await self._core.begin(owner, new))
        checksum = read_checksum(request.headers)
        with self._body(request) as body:
            if _is_whole_file(new, body, checksum):
                made = await self._store(owner, new, body, checksum)
            else:
                made = await self._begin_with(owner, new, body, checksum)
        response = self._created(request, made)
        response.headers["Upload-Offset"] = str(made.received_bytes)
        return response

    async def head(self, request: web.Request) -> web.Response:
        """Say how far an upload is."""
        snapshot = await self._core.look(request[OWNER], request.match_info["id"])
        info = snapshot.info
        headers = {"Cache-Control": "no-store", **self._state(snapshot)}
        if snapshot.is_complete or not info.joins:
            headers["Upload-Offset"] = str(snapshot.received_bytes)
        if info.size is not None:
            headers["Upload-Length"] = str(info.size)
        elif not info.joins:
            headers["Upload-Defer-Length"] = "1"
        for name in (METADATA, CONCAT):
            if name in info.traits:
                headers[name] = info.traits[name]
        return web.Response(headers=headers)

    async def patch(self, request: web.Request) -> web.Response:
        """Add bytes to an upload."""
        check_bytes(request.headers)
        offset = read_offset(request.headers)
        with self._body(request) as body:
            snapshot = await self._core.append(
                request[OWNER],
                request.match_info["id"],
                offset,
                body=body,
                length=read_new_length(request.headers),
                checksum=read_checksum(request.headers),
            )
        headers = {
            "Upload-Offset": str(snapshot.received_bytes),
            **self._state(snapshot),
        }
        return web.Response(status=204, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        """Throw an upload away."""
        await self._core.terminate(request[OWNER], request.match_info["id"])
        return web.Response(status=204)

    async def _store(
        self, owner: str, new: NewUpload, body: HttpBody, checksum: Checksum | None
    ) -> Snapshot:
        """Store a file that came whole; it costs less than one that may not."""
        digest = None if checksum is None else checksum.digest
        try:
            return await self._files.store(
                self._files.describe(owner, replace(new, grows=True)),
                body=body,
                expected=Expected(content=digest),
            )
        except UploadProblem as problem:
            if problem.type is not ProblemType.DIGEST_MISMATCH:
                raise
            raise UploadProblem(
                ProblemType.CHECKSUM_MISMATCH, problem.message
            ) from problem

    async def _begin_with(
        self, owner: str, new: NewUpload, body: HttpBody, checksum: Checksum | None
    ) -> Snapshot:
        """Begin an upload with its first bytes; it goes if they do not come."""
        begun = await self._core.begin(owner, new)
        upload_id = begun.info.upload_id
        try:
            return await self._core.append(
                owner, upload_id, 0, body=body, checksum=checksum
            )
        except BaseException:
            # Nobody was told where it is.
            with suppress(UploadProblem):
                await self._core.terminate(owner, upload_id)
            raise

    @contextmanager
    def _body(self, request: web.Request) -> Iterator[HttpBody]:
        """Open a body that ends early when the server stops."""
        with self._bodies.open(request, self._config.max_size) as body:
            self._open.add(body)
            try:
                yield body
            finally:
                self._open.discard(body)

    def _created(self, request: web.Request, made: Snapshot) -> web.Response:
        # Relative to the request, it stays right behind whatever proxy.
        upload_id = made.info.upload_id
        folder = "" if request.path.endswith("/") else f"{PATH[1:]}/"
        headers = {"Location": f"{folder}{upload_id}", **self._state(made)}
        return web.Response(status=201, headers=headers)

    def _state(self, snapshot: Snapshot) -> dict[str, str]:
        """Return until when an upload is kept; of a whole one its digest, if known."""
        info = snapshot.info
        if not snapshot.is_complete:
            expires = snapshot.touched_at + self._config.expires_after
            return {"Upload-Expires": format_time(expires)}
        if info.sha256 is None:
            return {}
        return {"Repr-Digest": format_digest("sha256", bytes.fromhex(info.sha256))}

    def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what every answer of this protocol has, also one that is a refusal."""
        path = request.path.removeprefix(self._config.prefix)
        if path != PATH and not path.startswith(f"{PATH}/"):
            return
        response.headers["Tus-Resumable"] = VERSION
        if response.status == 412:
            response.headers["Tus-Version"] = VERSION
        self._cors.add(request, response)


def _is_whole_file(new: NewUpload, body: HttpBody, checksum: Checksum | None) -> bool:
    return (
        not new.is_part
        and new.size is not None
        and body.size == new.size
        and (checksum is None or checksum.algorithm == "sha256")
    )
