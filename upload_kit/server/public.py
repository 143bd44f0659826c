"""What needs no token: what the server can do, and whether it is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from upload_kit.server.batch import MAX_BYTES, MAX_FILES
from upload_kit.server.decoding import DECODERS
from upload_kit.server.openapi import openapi_document
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.receive import run
from upload_kit.server.replies import json_response

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from upload_kit.server.config import ServerConfig
    from upload_kit.server.forward import Forwarder
    from upload_kit.server.guard import Guard
    from upload_kit.server.storage import Storage


class PublicRoutes:
    """
    Requests that anybody may send.

    Args:
        config: Limits.

        guard: Knows whether the server stops.

        storage: Knows whether it can store.

        pool: Threads for the storage.

        forwarder: Knows how many files are to go on; None if nothing is forwarded.
    """

    def __init__(
        self,
        config: ServerConfig,
        guard: Guard,
        storage: Storage,
        *,
        pool: Executor,
        forwarder: Forwarder | None,
    ) -> None:
        self._config = config
        self._forwarder = forwarder
        self._guard = guard
        self._storage = storage
        self._pool = pool
        self._openapi = openapi_document(config)

    def routes(self) -> list[web.RouteDef]:
        """Return every route, without the server's prefix."""
        found = [
            web.options("/", self.discover),
            web.options("/upload", self.discover),
            web.get("/healthz", self.health),
            web.get("/readyz", self.readiness),
            web.get("/openapi.json", self.openapi),
        ]
        for route in found:
            self._guard.open_to_all(route.handler)
        return found

    async def discover(self, _request: web.Request) -> web.Response:
        """Say what the server can do."""
        config = self._config
        document = {
            "protocol": "upload-kit/1",
            "min_chunk": 1,
            "max_chunk": config.max_chunk,
            "max_chunks": config.max_chunks,
            "max_size": config.max_size,
            "default_chunk": config.default_chunk,
            "batch": {"files": MAX_FILES, "bytes": MAX_BYTES},
            "checksums": ["sha-256"],
            "encodings": sorted(DECODERS),
            "expires_after": config.expires_after,
            "durability": config.durability,
        }
        return json_response(document, headers={"Upload-Kit-Version": "1"})

    async def health(self, _request: web.Request) -> web.Response:
        """Say that the process answers."""
        return json_response({"status": "ok"})

    async def readiness(self, _request: web.Request) -> web.Response:
        """
        Say whether uploads can be taken now.

        They can while the destination of forwards is down: they wait for it here.
        """
        if self._guard.is_draining:
            raise UploadProblem(
                ProblemType.SHUTTING_DOWN, "The server takes no more requests."
            )
        await run(self._pool, self._storage.check)
        document: dict[str, object] = {"status": "ready"}
        if self._forwarder is not None:
            document["forwarding"] = self._forwarder.counts()
        return json_response(document)

    async def openapi(self, _request: web.Request) -> web.Response:
        """Return the description of the interface."""
        return json_response(self._openapi)
