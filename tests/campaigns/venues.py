"""Servers that are only there for tests, as venues for the campaigns."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.campaigns.tus_venues import tus_peer_venues
from tests.servers.nginx import NginxServer, nginx_obstacle
from upload_kit.bench.campaigns.venues import ALL_KINDS, Venue, Way, linked_way
from upload_kit.bench.faults import FaultKind
from upload_kit.bench.peers.gemini_server import KEY, GeminiServer
from upload_kit.bench.peers.s3_server import BUCKET, S3Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from upload_kit.bench.campaigns.venues import VenueKind
    from upload_kit.bench.faults import FaultPlan


def peer_venues() -> list[VenueKind]:
    """Return every venue that needs more than this package."""
    return [
        NginxVenue(),
        *tus_peer_venues(),
        S3Venue("rclone"),
        S3Venue("moto"),
        GeminiVenue(),
    ]


class NginxVenue:
    """`put+http://`: nginx with WebDAV."""

    name: Final = "put-nginx"
    # It compares no digest, so that nobody could notice a byte that arrives wrong.
    kinds: Final = tuple(kind for kind in FaultKind if kind is not FaultKind.CORRUPT)

    def obstacle(self) -> str | None:
        """Return why there is no nginx here, or None."""
        return nginx_obstacle()

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Start nginx."""
        self._server = NginxServer(place)
        self._bodies = place / "body"
        async with _in_thread(self._server):
            yield self

    def way(self, plan: FaultPlan) -> AbstractAsyncContextManager[Way]:
        """Put a link before nginx."""
        return linked_way(self._server.port, plan, scheme="put+http")

    async def finals(self, name: str) -> list[str]:
        """Return the digest of the file."""
        return await asyncio.to_thread(_digest, self._server.root / name)

    async def remove(self, name: str) -> None:
        """Remove the file."""
        await asyncio.to_thread((self._server.root / name).unlink, missing_ok=True)

    async def leftovers(self) -> list[str]:
        """Return the bodies that nginx keeps though nobody sends them any more."""
        return await asyncio.to_thread(
            lambda: [f"{path.name} is left" for path in self._bodies.iterdir()]
        )


class S3Venue:
    """
    `s3://`: a service of somebody else's, in parts as small as it takes them.

    Args:
        kind: Which one; see `S3Server`.
    """

    kinds: Final = ALL_KINDS

    def __init__(self, kind: str) -> None:
        self.name = f"s3-{kind}"
        self._kind = kind

    def obstacle(self) -> str | None:
        """Return why it cannot run here, or None."""
        return S3Server.missing(self._kind)

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Start the service, and keep all other settings of AWS tools away."""
        self._server = S3Server(self._kind, place / "store", min_part=1)
        self._looking = asyncio.Lock()
        async with _in_thread(self._server):
            with _environment(self._server.environment):
                yield self

    @asynccontextmanager
    async def way(self, plan: FaultPlan) -> AsyncIterator[Way]:
        """Put a link before the service."""
        port = urlsplit(self._server.url).port
        assert port is not None
        async with linked_way(port, plan) as way:
            endpoint = way.url.rstrip("/")
            url = f"s3://{BUCKET}/?endpoint_url={endpoint}&min_part=1"
            yield Way(url=url, faults=way.faults)

    async def finals(self, name: str) -> list[str]:
        """Return the digest of the object."""
        async with self._looking:
            found = await asyncio.to_thread(self._server.objects, name)
        return [hashlib.sha256(data).hexdigest() for _, data in found]

    async def remove(self, name: str) -> None:
        """Delete the object."""
        async with self._looking:
            await asyncio.to_thread(
                self._server.client().delete_object, Bucket=BUCKET, Key=name
            )

    async def leftovers(self) -> list[str]:
        """Return nothing: unfinished parts are for a rule of the bucket to remove."""
        return []


class GeminiVenue:
    """`gemini://`: the scripted Files API, on this loop."""

    name: Final = "gemini"
    kinds: Final = ALL_KINDS

    def obstacle(self) -> str | None:
        """Return None: it needs nothing."""
        return None

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Start the service."""
        async with GeminiServer(granularity=None) as self._server:
            with _environment({"GEMINI_API_KEY": KEY}):
                yield self

    @asynccontextmanager
    async def way(self, plan: FaultPlan) -> AsyncIterator[Way]:
        """Put a link before the service."""
        port = urlsplit(self._server.url).port
        assert port is not None
        async with linked_way(port, plan) as way:
            base = way.url.rstrip("/")
            yield Way(url=f"gemini://?base_url={base}", faults=way.faults)

    async def finals(self, name: str) -> list[str]:
        """Return the digests of all files of this name."""
        return [
            hashlib.sha256(self._server.contents[id_]).hexdigest()
            for id_ in self._ids(name)
        ]

    async def remove(self, name: str) -> None:
        """Forget all files of this name, and what was begun of them."""
        for id_ in self._ids(name):
            del self._server.files[id_], self._server.contents[id_]
        for session in list(self._server.sessions.values()):
            if session.facts.get("displayName") == name:
                del self._server.sessions[session.id]

    def _ids(self, name: str) -> list[str]:
        files = self._server.files
        return [id_ for id_ in files if files[id_].get("displayName") == name]

    async def leftovers(self) -> list[str]:
        """Return nothing: what expires when is the service's to say."""
        return []


@asynccontextmanager
async def _in_thread(server: NginxServer | S3Server) -> AsyncIterator[None]:
    """Start and end a server that blocks while it does."""
    await asyncio.to_thread(server.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, as long as the context lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _digest(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return [hashlib.file_digest(file, "sha256").hexdigest()]
    except FileNotFoundError:
        return []
