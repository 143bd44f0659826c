"""
tus software that was not written here: two servers and a client, as processes.

`tuspyserver` is from PyPI, `@tus/server` and `tus-js-client` are from npm; what is not
there is skipped, with the reason.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import select
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import pytest

from upload_kit.bench.peers import programs
from upload_kit.bench.peers.servers import TUSPYSERVER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

_ROOT: Final = Path(__file__).parent.parent.parent
_NPM: Final = programs.npm_folder()
_SCRIPTS: Final = _ROOT / "tests" / "peers"
# What @tus/server asks for.
_NODE: Final = (20, 19)
_PATIENCE: Final = 30.0


def require_npm() -> None:
    """Skip where there is no Node, too old a one, or nothing installed from npm."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    said = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=True
    )
    version = tuple(int(part) for part in re.findall(r"\d+", said.stdout)[:2])
    if version < _NODE:
        pytest.skip(f"Node.js is {said.stdout.strip()}; @tus/server asks for 20.19")
    if not (_NPM / "node_modules" / "@tus").is_dir():
        pytest.skip("the packages of tests/peers are not installed: .ci/npm-peers")


def require_python(package: str) -> None:
    """Skip where a package from PyPI is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: the group `peers` of pyproject.toml")


def node_command(script: Path) -> list[str]:
    """Return how a script is run, its imports found in .venv/npm."""
    return ["node", "--input-type=module", "-e", script.read_text()]


class PeerServer:
    """
    A server in a process of its own, which says its URL in its first line.

    Args:
        folder: What it stores to.

        command: What to run; folder and port come after it.
    """

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder = folder
        self.url = ""
        self._command = command
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it and wait until it says where it is; the same port if again."""
        await asyncio.to_thread(self.begin)

    async def kill(self) -> None:
        """End it with kill -9."""
        await asyncio.to_thread(self.end)

    def begin(self) -> None:
        """Start it as `start` does; blocks."""
        self._process = subprocess.Popen(
            [*self._command, str(self.folder), str(self._port)],
            cwd=_NPM if _NPM.is_dir() else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            self.end()
            raise TimeoutError("It does not say where it is.")
        self.url = self._process.stdout.readline().decode().strip()
        self._port = urlsplit(self.url).port or 0

    def end(self) -> None:
        """End it as `kill` does; blocks."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def contents(self) -> list[bytes]:
        """Return what it has stored, without its notes."""
        return [
            path.read_bytes()
            for path in sorted(self.folder.iterdir())
            if path.is_file() and path.suffix not in {".json", ".info", ".lock"}
        ]


def tuspyserver(folder: Path) -> PeerServer:
    """Return `tuspyserver` over a folder."""
    require_python("tuspyserver")
    return PeerServer(folder, [sys.executable, "-c", TUSPYSERVER])


def tus_node_server(folder: Path) -> PeerServer:
    """Return `@tus/server` over a folder."""
    require_npm()
    return PeerServer(folder, node_command(programs.SCRIPTS / "tus_server.mjs"))


class TusJs:
    """
    `tus-js-client` while it uploads a file.

    Args:
        process: What runs tests/peers/tus_client.mjs.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what it says, to its end."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield json.loads(line)

    async def result(self) -> dict[str, Any]:
        """Return the last thing it says."""
        said = [line async for line in self.lines()]
        return said[-1]

    async def kill(self) -> None:
        """End it with kill -9."""
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def tus_js(file: Path, endpoint: str, **options: Any) -> AsyncIterator[TusJs]:
    """Have `tus-js-client` upload a file; options are those of its script."""
    require_npm()
    given = {"endpoint": endpoint, "file": str(file), **options}
    process = await asyncio.create_subprocess_exec(
        *node_command(_SCRIPTS / "tus_client.mjs"),
        json.dumps(given),
        cwd=_NPM,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        yield TusJs(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
