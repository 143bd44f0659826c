"""The servers that peers and ours upload to, started when first wanted."""

from __future__ import annotations

import queue
import secrets
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from upload_kit.bench.link_process import start_link_process
from upload_kit.bench.peers.cases import OURS
from upload_kit.bench.peers.client import STORED_NAME
from upload_kit.bench.peers.programs import node_command, npm_folder
from upload_kit.errors import UploadKitError
from upload_kit.server.child import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from upload_kit.bench.cases import LinkSpec
    from upload_kit.bench.peers.cases import PeerCase
    from upload_kit.bench.peers.s3_server import S3Server

TUSPYSERVER: Final = """
import socket, sys, uvicorn
from fastapi import FastAPI
from tuspyserver import create_tus_router
app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=sys.argv[1]))
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print(f"http://127.0.0.1:{listener.getsockname()[1]}/files/", flush=True)
config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
uvicorn.Server(config).run(sockets=[listener])
"""
"""Runs `tuspyserver`: folder and port come after it."""

_GEMINI: Final = ("-m", "upload_kit.bench.peers.gemini_process")
_S3_SINK: Final = "upload_kit.bench.peers.s3_sink"
_START_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one upload goes."""

    pid: int
    """Process of the server."""

    url: str
    """As its own clients name it."""

    destination: str
    """As upload_kit names it."""

    bucket: str = ""
    """Of an S3 service."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """What its clients find credentials in."""


class SpokenServer:
    """
    A process that says its URL in its first line, and is killed in the end.

    Args:
        words: What to run.

        folder: Where; None for here.
    """

    def __init__(self, words: Sequence[str], folder: Path | None = None) -> None:
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(
            target=self._listen, args=(said,), name="first line", daemon=True
        ).start()
        try:
            self.url = said.get(timeout=_START_SECONDS)
        except queue.Empty:
            self.url = ""
        if not self.url:
            self.kill()
            raise UploadKitError(f"{words[0]} did not start; see above.")

    def _listen(self, said: queue.SimpleQueue[str]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            said.put(lines.readline().strip())
            lines.read()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.kill()


class PeerServers:
    """
    Every server once, as long as the context lasts.

    Args:
        folder: What they store to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._spoken: dict[str, SpokenServer] = {}
        self._s3: dict[str, S3Server | SpokenServer] = {}
        self._ours: ServerProcess | None = None
        self._links: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Self:
        """Return itself; nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End servers and links."""
        self._stack.close()

    @contextmanager
    def place(self, case: PeerCase) -> Iterator[Place]:
        """Make room for one upload, and throw it away afterwards."""
        make: Mapping[str, Callable[[PeerCase], Iterator[Place]]] = {
            OURS: self._at_ours,
            "tus-node": self._at_tus,
            "tuspyserver": self._at_tus,
            "gemini": self._at_gemini,
            "seaweedfs": self._at_s3,
            "rclone-s3": self._at_s3,
            "s3-sink": self._at_s3,
        }
        yield from make[case.server](case)

    def _at_ours(self, case: PeerCase) -> Iterator[Place]:
        if self._ours is None:
            server = ServerProcess(self._folder / "ours", "--durability", "page-cache")
            self._ours = self._stack.enter_context(server)
        url = self._linked(self._ours.url, case.link)
        pid = self._ours.pid
        if case.group == "tus":
            yield Place(pid=pid, url=f"{url}files/", destination=f"tus+{url}files/")
        else:
            yield Place(pid=pid, url=url, destination=url)
        _empty(self._ours.folder / "files")

    def _at_tus(self, case: PeerCase) -> Iterator[Place]:
        folder = self._folder / case.server
        if case.server not in self._spoken:
            folder.mkdir()
            words = [sys.executable, "-c", TUSPYSERVER]
            place = None
            if case.server == "tus-node":
                words, place = node_command("tus_server.mjs"), npm_folder()
            server = SpokenServer([*words, str(folder), "0"], place)
            self._spoken[case.server] = self._stack.enter_context(server)
        server = self._spoken[case.server]
        url = self._linked(server.url, case.link)
        yield Place(pid=server.pid, url=url, destination=f"tus+{url}")
        _empty(folder)

    def _at_gemini(self, case: PeerCase) -> Iterator[Place]:
        from upload_kit.bench.peers.gemini_server import KEY

        if "gemini" not in self._spoken:
            server = SpokenServer([sys.executable, *_GEMINI])
            self._spoken["gemini"] = self._stack.enter_context(server)
        server = self._spoken["gemini"]
        yield Place(
            pid=server.pid,
            url=server.url,
            destination=f"gemini://?base_url={server.url}",
            environment={"GOOGLE_API_KEY": KEY},
        )

    def _at_s3(self, case: PeerCase) -> Iterator[Place]:
        from upload_kit.bench.peers.s3_server import (
            S3Server,
            environment_of,
            make_client,
        )

        if case.server not in self._s3 and case.server == "s3-sink":
            spoken = SpokenServer([sys.executable, "-m", _S3_SINK])
            self._s3[case.server] = self._stack.enter_context(spoken)
        elif case.server not in self._s3:
            kind = {"seaweedfs": "weed", "rclone-s3": "rclone"}[case.server]
            started = S3Server(kind, self._folder / case.server)
            self._s3[case.server] = self._stack.enter_context(started)
        server = self._s3[case.server]
        url = self._linked(server.url, case.link)
        options = f"?{case.options}" if case.options else ""
        # A bucket of its own: SeaweedFS gives room back with the whole bucket only.
        bucket = f"bucket-{secrets.token_hex(4)}"
        with closing(make_client(server.url)) as client:
            client.create_bucket(Bucket=bucket)
            yield Place(
                pid=server.pid,
                url=url,
                destination=f"s3://{bucket}/{options}",
                bucket=bucket,
                environment=environment_of(url),
            )
            stored = client.head_object(Bucket=bucket, Key=STORED_NAME)["ContentLength"]
            if stored != case.size:
                raise UploadKitError(f"{case.name} stored {stored} bytes.")
            client.delete_object(Bucket=bucket, Key=STORED_NAME)
            client.delete_bucket(Bucket=bucket)

    def _linked(self, url: str, link: LinkSpec | None) -> str:
        """Return a server's URL, through a link where a case has one."""
        if link is None:
            return url
        port = urlsplit(url).port or 0
        key = (link.to_json(), port)
        if key not in self._links:
            process = start_link_process(
                "127.0.0.1",
                port,
                rate_per_connection=link.rate_per_connection,
                total_rate=link.total_rate,
                latency=link.latency,
            )
            self._links[key] = self._stack.enter_context(process).port
        return url.replace(f":{port}", f":{self._links[key]}")


def _empty(folder: Path) -> None:
    """Remove what was stored, so that its memory is there for the next upload."""
    for stored in folder.iterdir():
        if stored.is_dir():
            shutil.rmtree(stored)
        else:
            stored.unlink()
