"""tus 1.0 over plain HTTP, a method a request: what a test wants to say."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from tests.servers.upload import (
    RawConnection,
    Reply,
    UploadApi,
    files_below,
    names_in,
    upload_server,
)
from upload_kit.server.file_locks import FileLocker
from upload_kit.server.folder import FolderStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BYTES: Final = "application/offset+octet-stream"


def checksum(algorithm: str, data: bytes) -> str:
    """Return `Upload-Checksum` for these bytes."""
    if algorithm == "crc32":
        digest = zlib.crc32(data).to_bytes(4, "big")
    else:
        digest = hashlib.new(algorithm, data).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"


def metadata(**values: str) -> str:
    """Return `Upload-Metadata` for these values."""
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}"
        for key, value in values.items()
    )


class TusApi:
    """
    Sends requests of tus.

    Args:
        api: Of the same server.
    """

    def __init__(self, api: UploadApi) -> None:
        self.api = api

    @property
    def url(self) -> str:
        """Where new uploads go."""
        return str(self.api.session._build_url("files/"))

    async def call(
        self, method: str, url: str, data: Any = None, **headers: str | None
    ) -> Reply:
        """Send a request; header names have `_` for `-`, and None leaves one out."""
        fields = {"Tus_Resumable": "1.0.0", **headers}
        sent = {
            name.replace("_", "-"): value
            for name, value in fields.items()
            if value is not None
        }
        return await self.api.call(method, url, data=data, headers=sent)

    async def create(self, data: Any = None, **headers: str | None) -> Reply:
        """Begin an upload."""
        if data is not None:
            headers = {"Content_Type": BYTES, **headers}
        return await self.call("POST", "files/", data, **headers)

    async def begun(self, size: int | None, **headers: str | None) -> str:
        """Begin an upload of so many bytes; return its address."""
        length = (
            {"Upload_Defer_Length": "1"}
            if size is None
            else {"Upload_Length": str(size)}
        )
        reply = await self.create(**{**length, **headers})
        assert reply.status == 201, reply.body
        return self.address(reply)

    def address(self, reply: Reply) -> str:
        """Return the address of what was made."""
        return urljoin(self.url, reply.headers["Location"])

    async def patch(
        self, url: str, offset: int | str | None, data: Any, **headers: str | None
    ) -> Reply:
        """Add bytes."""
        fields = {
            "Content_Type": BYTES,
            "Upload_Offset": None if offset is None else str(offset),
        }
        return await self.call("PATCH", url, data, **{**fields, **headers})

    async def head(self, url: str) -> Reply:
        """Ask how far an upload is."""
        return await self.call("HEAD", url)

    async def offset(self, url: str) -> int:
        """Return how far an upload is."""
        reply = await self.head(url)
        assert reply.status == 200
        return int(reply.headers["Upload-Offset"])

    async def delete(self, url: str) -> Reply:
        """Throw an upload away."""
        return await self.call("DELETE", url)

    async def joined(self, *urls: str, **headers: str | None) -> Reply:
        """Have parts joined."""
        return await self.create(Upload_Concat=f"final;{' '.join(urls)}", **headers)

    async def until_complete(self, url: str) -> Reply:
        """Ask until an upload is complete."""
        async with asyncio.timeout(30):
            while True:
                reply = await self.head(url)
                length = reply.headers.get("Upload-Length")
                if length and reply.headers.get("Upload-Offset") == length:
                    return reply
                await asyncio.sleep(0.01)


async def open_patch(
    raw: RawConnection, url: str, offset: int, length: int, *more: str
) -> None:
    """Send the head of a PATCH on a connection that the test controls."""
    await raw.head(
        "PATCH",
        url,
        "Tus-Resumable: 1.0.0",
        f"Content-Type: {BYTES}",
        f"Upload-Offset: {offset}",
        f"Content-Length: {length}",
        *more,
    )


@asynccontextmanager
async def tus_server(folder: Path, **options: Any) -> AsyncIterator[TusApi]:
    """Run our own server in this loop."""
    async with upload_server(folder, **options) as api:
        yield TusApi(api)


def published(folder: Path) -> list[bytes]:
    """Return the contents of every published file."""
    return [
        path.read_bytes()
        for path in files_below(folder / "s" / "files")
        if not path.name.startswith(".")
    ]


def unfinished(folder: Path) -> list[str]:
    """Return the names of what is not published."""
    return [n for n in names_in(folder / "s" / "incoming") if not n.startswith(".")]


async def until_counted(tus: TusApi, url: str, size: int) -> None:
    """Wait until so many bytes count, without ending whoever sends them."""
    async with asyncio.timeout(10):
        while True:
            status = await tus.api.status(url.rpartition("/")[2])
            if status.body["received_bytes"] >= size:
                return
            await asyncio.sleep(0.01)


def path_of(url: str) -> str:
    """Return the path of an upload's URL."""
    return url[url.index("/files/") :]


async def sent_parts(tus: TusApi, *pieces: bytes) -> list[str]:
    """Upload parts, whole."""
    urls = []
    for piece in pieces:
        url = await tus.begun(len(piece), Upload_Concat="partial")
        await tus.patch(url, 0, piece)
        urls.append(url)
    return urls


@asynccontextmanager
async def held_by_another_process(folder: Path, url: str) -> AsyncIterator[None]:
    """Hold an upload as another server over the same folder would, and not let go."""
    storage = await asyncio.to_thread(FolderStorage, folder)
    with ThreadPoolExecutor(1) as pool:
        locker = FileLocker(storage.lock_path, pool, timeout=5)
        async with locker.hold(url.rpartition("/")[2], None, lambda: None):
            yield


def write_behind_its_back(folder: Path, url: str) -> None:
    """Have five bytes count without anybody noticing, as a kill at the end does."""
    stored = FolderStorage(folder).open(url.rpartition("/")[2])
    stored.write(0, [b"hello"])
    stored.extend(5)
    stored.close()
