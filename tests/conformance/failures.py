"""What may fail, where it can, and the destinations that it is tried at."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from tests.conformance.places import Place, published, visible
from tests.servers.nginx import NginxServer
from tests.servers.process import ServerProcess
from tests.servers.tus_peers import tus_node_server
from upload_kit.bench.peers.gemini_server import GeminiServer
from upload_kit.bench.peers.s3_server import BUCKET, S3Server
from upload_kit.destinations.memory import memory_folder
from upload_kit.server import Durability, ServerConfig, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from aiohttp import web

    from tests.servers.tus_peers import PeerServer

CHUNK: Final = 300_000
# Above what any adapter sends in one request, and not a multiple of the chunk.
DATA: Final = random.Random(10).randbytes(5 * CHUNK + 17)


class Failure(StrEnum):
    """What goes wrong, as docs/testing.md names it."""

    CUT = "cut in mid-chunk"
    BUSY = "503 with Retry-After"
    STALL = "stall"
    LOST = "lost answer"
    WRONG = "wrong bytes"
    LIE = "lying offset"
    EXPIRED = "expired upload"
    SERVER = "server killed"
    CLIENT = "client killed"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A destination, reached straight."""

    place: Place
    """What it has."""

    expire: Callable[[], object]
    """Loses what is half done, as if its time were over; may block."""

    port: int | None = None
    """Of its server; None if it has none."""

    kill: Callable[[], object] | None = None
    """Ends its server with kill -9; blocks. None where that is not tried."""

    restart: Callable[[], object] | None = None
    """Starts it again, at the same port and over the same folder; blocks."""

    @property
    def contents(self) -> list[bytes]:
        """What stands there."""
        return [data for _, data in self.place.files()]

    def through(self, port: int) -> str:
        """Return the URL that leads through a proxy at another port."""
        return self.place.url.replace(f":{self.port}", f":{port}")


class Start(Protocol):
    """Starts a destination over an empty folder; in a process if it is to be killed."""

    def __call__(
        self, folder: Path, *, killable: bool
    ) -> AbstractAsyncContextManager[Running]: ...


class Lie(Protocol):
    """Has an answer tell of more or fewer bytes; False if it tells of none."""

    def __call__(self, request: web.Request, answer: web.Response, by: int) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Venue:
    """A destination, and which failures it cannot have."""

    name: str
    start: Start
    lie: Lie | None = None
    cannot: Mapping[Failure, str] = field(default_factory=dict)
    """Those that are not tried, with the reason."""


@asynccontextmanager
async def _memory(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
    # Each test has one of its own: the last part of the path is the same for all.
    store = memory_folder(f"failures-{folder.parent.name}")
    yield Running(
        place=Place(
            url=f"memory://{store.name}/",
            files=lambda: sorted(store.objects.items()),
            litter=lambda: list(store.parts),
        ),
        expire=store.parts.clear,
    )


@asynccontextmanager
async def _folder(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
    place = Place(
        url=folder.as_uri(),
        files=lambda: visible(folder),
        litter=lambda: [str(path) for path in folder.rglob(".upload_kit-*")],
    )
    yield Running(
        place=place,
        expire=lambda: _remove(Path(path) for path in place.litter()),
    )


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _own(scheme: str, path: str) -> Start:
    """Return our own server, spoken to in one of its protocols."""

    @asynccontextmanager
    async def start(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
        root = folder / "store"
        incoming = root / "incoming"

        def describe(url: str) -> Place:
            return Place(
                url=scheme + url + path,
                files=published(root),
                litter=lambda: [str(path) for path in incoming.iterdir()],
            )

        def expire() -> None:
            for upload in incoming.iterdir():
                shutil.rmtree(upload)

        if killable:
            process = ServerProcess(root, "--durability", "page-cache")
            await asyncio.to_thread(process.start)
            try:
                yield Running(
                    place=describe(process.url),
                    expire=expire,
                    port=process.port,
                    kill=process.kill,
                    restart=process.restart,
                )
            finally:
                await asyncio.to_thread(process.stop)
            return
        config = ServerConfig(
            directory=root, port=0, durability=Durability.PAGE_CACHE, grace=0.1
        )
        async with running_server(config) as server:
            port = urlsplit(server.url).port
            yield Running(place=describe(server.url), expire=expire, port=port)

    return start


@asynccontextmanager
async def _nginx(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
    server = NginxServer(folder)
    await asyncio.to_thread(server.__enter__)
    try:
        yield Running(
            place=Place(
                url=f"put+{server.url}",
                files=lambda: visible(server.root),
                litter=lambda: [str(p) for p in (folder / "body").rglob("*")],
            ),
            expire=lambda: None,
            port=server.port,
            kill=server.kill,
            restart=server.restart,
        )
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@asynccontextmanager
async def _tus_node(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
    with tus_node_server(folder / "peer") as peer:
        yield Running(
            place=tus_node_place(peer),
            expire=lambda: _remove(peer.folder.iterdir()),
            port=urlsplit(peer.url).port,
            kill=peer.end,
            restart=peer.begin,
        )


def tus_node_place(peer: PeerServer) -> Place:
    """Return where `@tus/server` has its files: each beside a note of what it is."""

    def notes() -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted(peer.folder.glob("*.json")):
            yield path.with_suffix(""), json.loads(path.read_text())

    def uploads(*, whole: bool) -> list[tuple[str, bytes]]:
        return sorted(
            (note["metadata"]["filename"], path.read_bytes())
            for path, note in notes()
            if (path.stat().st_size == note.get("size")) is whole
        )

    return Place(
        url=f"tus+{peer.url}",
        files=lambda: uploads(whole=True),
        litter=lambda: [name for name, _ in uploads(whole=False)],
        one_name_one_file=False,
    )


def _s3_place(server: S3Server, prefix: str) -> Place:
    return Place(
        url=f"s3://{BUCKET}/{prefix}?min_part=1&endpoint_url={server.url}",
        files=lambda: server.objects(prefix),
        litter=lambda: server.unfinished(prefix),
    )


@asynccontextmanager
async def _rclone(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
    server, prefix = S3Server("rclone", folder / "store"), "files/"
    await asyncio.to_thread(server.__enter__)
    try:
        yield Running(
            place=_s3_place(server, prefix),
            expire=lambda: server.abort(prefix),
            port=urlsplit(server.url).port,
            kill=server.kill,
            restart=server.start,
        )
    finally:
        await asyncio.to_thread(server.kill)


class Moto:
    """One moto for many tests, each below a prefix of its own: it starts slowly."""

    def __init__(self) -> None:
        self._server: S3Server | None = None

    @asynccontextmanager
    async def start(self, folder: Path, *, killable: bool) -> AsyncIterator[Running]:
        """Start it the first time."""
        if self._server is None:
            server = S3Server("moto", folder / "store", min_part=1)
            self._server = await asyncio.to_thread(server.__enter__)
        server, prefix = self._server, f"{folder.parent.name}/"
        yield Running(
            place=_s3_place(server, prefix),
            expire=lambda: server.abort(prefix),
            port=urlsplit(server.url).port,
        )

    def close(self) -> None:
        """End it, if it was started."""
        server, self._server = self._server, None
        if server is not None:
            server.kill()


MOTO: Final = Moto()


@asynccontextmanager
async def _gemini(folder: Path, *, killable: bool) -> AsyncIterator[Running]:
    async with GeminiServer(granularity=None, commit=1) as server:
        yield Running(
            place=gemini_place(server),
            expire=server.sessions.clear,
            port=urlsplit(server.url).port,
        )


def gemini_place(server: GeminiServer) -> Place:
    """Return where the scripted Gemini service has its files."""
    return Place(
        url=server.destination,
        files=lambda: sorted(
            (file["displayName"], server.contents[name])
            for name, file in server.files.items()
        ),
        litter=lambda: [
            session.id
            for session in server.sessions.values()
            if session.status == "active"
        ],
        one_name_one_file=False,
    )


def _lie_of_chunks(request: web.Request, answer: web.Response, by: int) -> bool:
    """Let our own server tell of one chunk more, with the right digest, or less."""
    if "chunks" not in request.query:
        return False
    assert isinstance(answer.body, bytes)
    document = json.loads(answer.body)
    if by < 0:
        document["chunks"].pop()
    else:
        index = len(document["chunks"])
        sha256 = hashlib.sha256(_chunk(index)).hexdigest()
        document["chunks"].append({"index": index, "size": CHUNK, "sha256": sha256})
    answer.body = json.dumps(document).encode()
    return True


def _lie_of_parts(request: web.Request, answer: web.Response, by: int) -> bool:
    """Let S3 list a part more, with the right ETag, or one less."""
    if request.method != "GET" or "uploadId" not in request.query:
        return False
    assert isinstance(answer.body, bytes)
    text = answer.body.decode()
    parts = re.findall("<Part>.*?</Part>", text, re.DOTALL)
    number = len(parts) + 1
    etag = hashlib.md5(_chunk(number - 1), usedforsecurity=False).hexdigest()
    more = f"<Part><PartNumber>{number}</PartNumber><Size>{CHUNK}</Size>"
    more += f"<ETag>&quot;{etag}&quot;</ETag></Part>"
    text = text.replace(parts[-1], "" if by < 0 else parts[-1] + more)
    answer.body = text.encode()
    return True


def _chunk(index: int) -> bytes:
    return DATA[index * CHUNK : (index + 1) * CHUNK]


def _lie_of_field(name: str) -> Lie:
    """Return a lie about the offset that an answer to a question has in a field."""

    def lie(request: web.Request, answer: web.Response, by: int) -> bool:
        asked = request.headers.get("X-Goog-Upload-Command", request.method)
        if asked not in {"query", "HEAD"} or name not in answer.headers:
            return False
        answer.headers[name] = str(max(0, int(answer.headers[name]) + by))
        return True

    return lie


_NO_SERVER: Final = {
    Failure.BUSY: "there is no HTTP",
    Failure.LIE: "nobody else tells what is held: it is looked up",
    Failure.SERVER: "there is no server",
}
_TUS_LIE: Final = _lie_of_field("Upload-Offset")

VENUES: Final = (
    Venue(
        name="memory",
        start=_memory,
        cannot=_NO_SERVER | {Failure.CLIENT: "it ends with the process"},
    ),
    Venue(name="file", start=_folder, cannot=_NO_SERVER),
    Venue(name="own", start=_own("native+", ""), lie=_lie_of_chunks),
    Venue(
        name="put",
        start=_nginx,
        cannot={
            Failure.WRONG: "plain HTTP has no digest",
            Failure.LIE: "it keeps nothing half done, so it tells no offset",
            Failure.EXPIRED: "it keeps nothing half done",
        },
    ),
    Venue(name="tus", start=_own("tus+", "files/"), lie=_TUS_LIE),
    Venue(name="tus-parts", start=_own("tus+", "files/?parts=6"), lie=_TUS_LIE),
    Venue(
        name="tus-node",
        start=_tus_node,
        lie=_TUS_LIE,
        cannot={Failure.WRONG: "@tus/server offers no checksum"},
    ),
    Venue(
        name="s3-moto",
        start=MOTO.start,
        lie=_lie_of_parts,
        cannot={Failure.SERVER: "moto keeps nothing on a disk"},
    ),
    Venue(
        name="s3-rclone",
        start=_rclone,
        lie=_lie_of_parts,
    ),
    Venue(
        name="gemini",
        start=_gemini,
        lie=_lie_of_field("X-Goog-Upload-Size-Received"),
        cannot={Failure.SERVER: "one of Google's front ends that dies is a cut"},
    ),
)
