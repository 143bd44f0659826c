"""Our own server, spoken to over plain HTTP: by aiohttp, and byte by byte."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import aiohttp

from upload_kit.server import ServerConfig, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

_ROOT: Final = Path(__file__).parent.parent.parent
_SCRIPT: Final = """
import json, logging, sys
from pathlib import Path
from upload_kit.config import Secret
from upload_kit.server import ServerConfig, serve
logging.basicConfig(level=logging.INFO)
options = json.loads(sys.argv[1])
options["tokens"] = tuple(map(Secret, options.get("tokens", ())))
if "token_file" in options:
    options["token_file"] = Path(options["token_file"])
serve(ServerConfig(**options), ready=lambda url: print(url, flush=True))
"""
_PATIENCE: Final = 30.0


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_field(data: bytes) -> str:
    """Return the digest as `Content-Digest` has it."""
    encoded = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return f"sha-256=:{encoded}:"


def listed(data: bytes, number: int, **more: Any) -> dict[str, Any]:
    """Return what the list of a batch says of a file."""
    key = f"key-of-a-file-{number:04d}"
    facts = {"name": f"{number}.bin", "size": len(data), "sha256": sha256(data)}
    return {**facts, "key": key, **more}


def batch_of(files: Sequence[bytes], entries: Sequence[dict[str, Any]]) -> bytes:
    """Return the body of a batch: the list, and the files behind it."""
    line = json.dumps({"files": list(entries)}).encode()
    return b"\n".join((line, b"".join(files)))


def plain_batch(files: Sequence[bytes]) -> bytes:
    """Return the body of a batch of files that nothing is special about."""
    return batch_of(files, [listed(data, n) for n, data in enumerate(files)])


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def files_below(folder: Path) -> list[Path]:
    """Return every file in a folder and the folders in it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something shows that only can be looked at, such as a file."""
    async with asyncio.timeout(_PATIENCE):
        while not condition():  # noqa: ASYNC110 (nobody tells when a file appears)
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def problem(self) -> str:
        """The type of the problem, without its prefix; empty for none."""
        if not isinstance(self.body, dict):
            return ""
        return str(self.body.get("type", "")).rpartition(":")[2]


class UploadApi:
    """
    The protocol of docs/dev/native-protocol.md, a method a request.

    Args:
        session: With the server's URL as its base.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def call(self, method: str, path: str, **options: Any) -> Reply:
        """Send a request and read its answer."""
        if isinstance(options.get("data"), bytes):
            # aiohttp warns of large bytes, which are fine on loopback.
            options["data"] = io.BytesIO(options["data"])
        async with self.session.request(method, path, **options) as response:
            data = await response.read()
            body = _decoded(response.content_type, data)
            return Reply(response.status, response.headers, body)

    async def foundation(self, data: Any, name: str = "a.bin", **headers: str) -> Reply:
        """Store a file in one request; header names have `_` for `-`."""
        return await self.call(
            "POST",
            "upload/foundation",
            params={"name": name},
            data=data,
            headers=_headers(headers),
        )

    async def begin(self, size: int | None, **more: Any) -> Reply:
        """Begin an upload in chunks."""
        body = {"name": "a.bin", "size": size, **more}
        return await self.call("POST", "upload/resumable", json=body)

    async def put(
        self, session_id: str, index: int | str, data: Any, **headers: str
    ) -> Reply:
        """Store a chunk; its digest is sent along unless another one is given."""
        if isinstance(data, bytes):
            headers.setdefault("Content_Digest", digest_field(data))
        return await self.call(
            "PUT",
            f"upload/resumable/{session_id}/chunks/{index}",
            data=data,
            headers=_headers(headers),
        )

    async def complete(self, session_id: str, **body: Any) -> Reply:
        """Publish an upload."""
        path = f"upload/resumable/{session_id}/complete"
        return await self.call("POST", path, json=body)

    async def delete(self, session_id: str) -> Reply:
        """Throw an upload away."""
        return await self.call("DELETE", f"upload/resumable/{session_id}")

    async def status(self, session_id: str, query: str = "") -> Reply:
        """Ask how far an upload is."""
        return await self.call("GET", f"upload/status/{session_id}{query}")

    async def sessions(self) -> list[str]:
        """Return the IDs of all unfinished uploads."""
        reply = await self.call("GET", "upload/sessions")
        return [one["session_id"] for one in reply.body["sessions"]]

    async def begun(self, data: bytes, chunk_size: int, **more: Any) -> str:
        """Begin an upload of these bytes and return its ID."""
        reply = await self.begin(len(data), chunk_size=chunk_size, **more)
        assert reply.status == 201, reply.body
        return str(reply.body["session_id"])

    async def send(
        self, session_id: str, data: bytes, chunk_size: int, *, parallel: int = 3
    ) -> None:
        """Send all chunks of an upload, some at once."""
        gate = asyncio.Semaphore(parallel)

        async def put(index: int) -> None:
            start = index * chunk_size
            async with gate:
                piece = data[start : start + chunk_size]
                reply = await self.put(session_id, index, piece)
                assert reply.status == 200, reply.body

        async with asyncio.TaskGroup() as group:
            for index in range(-(-len(data) // chunk_size)):
                group.create_task(put(index))


@asynccontextmanager
async def open_api(url: str, token: str | None = None) -> AsyncIterator[UploadApi]:
    """Talk to a server that runs already."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    async with aiohttp.ClientSession(url, headers=headers, timeout=timeout) as session:
        yield UploadApi(session)


@asynccontextmanager
async def upload_server(folder: Path, **options: Any) -> AsyncIterator[UploadApi]:
    """Run a server in this loop, page-cache durable unless told otherwise."""
    options = {"durability": "page-cache", "port": 0, "directory": folder, **options}
    async with (
        running_server(ServerConfig(**options)) as server,
        open_api(server.url) as api,
    ):
        yield api


class RawConnection:
    """
    A connection on which a test says what goes over the wire, byte by byte.

    Args:
        url: Of the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 0

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes | str) -> None:
        """Send bytes as they are."""
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def head(self, method: str, path: str, *lines: str) -> None:
        """Send a request's head."""
        await self.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines]))
        await self.send("\r\n\r\n")

    async def reply(self, *, bodiless: bool = False) -> Reply:
        """Read an answer that has a `Content-Length`, or none at all."""
        async with asyncio.timeout(_PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            size = 0 if bodiless else int(headers.get("content-length", 0))
            data = await self.reader.readexactly(size)
        status = int(first.split()[1])
        return Reply(status, headers, _decoded(headers.get("content-type"), data))

    async def closed(self) -> bool:
        """Wait until the server ends the connection."""
        async with asyncio.timeout(_PATIENCE):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    continue
        return True

    async def asked(self, method: str, path: str, *lines: str) -> Reply:
        """Send a request without a body and read the answer."""
        await self.head(method, path, *lines)
        return await self.reply(bodiless=method == "HEAD")

    def abort(self) -> None:
        """Break the connection off without a farewell."""
        self.writer.transport.abort()


class ServeProcess:
    """
    `serve` in a process of its own, with all its signals.

    Args:
        folder: What it stores to.

        options: Of `ServerConfig`.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self._options = {"port": 0, "directory": str(folder), **options}
        self.url = ""
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.stop()

    async def start(self) -> None:
        """Start it, and wait until it says where it is."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _SCRIPT,
            json.dumps(self._options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            self.url = (await self.process.stdout.readline()).decode().strip()
        # Started again, it comes back to the same place.
        self._options["port"] = urlsplit(self.url).port or 0

    async def kill(self) -> None:
        """End it and its workers with kill -9."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        await self.ended()

    async def stop(self) -> tuple[int, str]:
        """Ask it to end; return its exit code and what it logged."""
        assert self.process is not None
        self.process.terminate()
        return await self.ended()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> tuple[int, str]:
        assert self.process is not None
        async with asyncio.timeout(_PATIENCE):
            _out, log = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, log.decode()


def _decoded(content_type: str | None, data: bytes) -> Any:
    is_json = content_type in ("application/json", "application/problem+json")
    # An answer to HEAD has the headers of a body, and none.
    return json.loads(data) if is_json and data else data


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
