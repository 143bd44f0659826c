"""The demonstration: it shows what it promises, and fails when that does not hold."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.shell import Shell
from upload_kit.demo import DemoFailed
from upload_kit.demo.process import UploadProcess
from upload_kit.demo.proof import digest_file, make_file, require_space
from upload_kit.demo.story import Story
from upload_kit.errors import ConfigurationError, SourceError
from upload_kit.server.child import ServerProcess
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A real server that changes a byte of what it stored, just before it says where it is.
_LIAR = """
import asyncio, json, sys
from pathlib import Path
from aiohttp import web
from upload_kit.server import ServerConfig, create_app
from upload_kit.server.app import make_runner

config = ServerConfig(directory=sys.argv[sys.argv.index("--dir") + 1], port=0)

@web.middleware
async def lie(request, handler):
    if request.method == "GET":
        for path in Path(config.directory).rglob("feature-*"):
            with path.open("r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 1]))
    return await handler(request)

async def main():
    app = create_app(config)
    app.middlewares.append(lie)
    runner = make_runner(app, config)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"url": "http://127.0.0.1:%d/" % runner.addresses[0][1]}))
    sys.stdout.flush()
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        (tmp_path / "tmp").mkdir()
        made.environment["TMPDIR"] = str(tmp_path / "tmp")
        yield made


def left_behind(shell: Shell) -> list[str]:
    return sorted(path.name for path in (shell.folder / "tmp").iterdir())


def test_the_whole_demonstration(shell: Shell) -> None:
    """Three layers, a kill, a resume; all copies identical; nothing left behind."""
    done = shell.run("demo", "--size", "4MiB")
    assert done.code == 0, done.err
    assert done.out.count("read back from the disk: the same SHA-256") == 4
    assert "killed with kill -9" in done.out
    assert done.out.count("$ upload-kit put ") == 4
    assert done.out.count("$ upload-kit resume ") == 1
    table = done.out.partition("What each layer did\n")[2].splitlines()
    layers = [line.partition("  ")[0] for line in table[1:5]]
    assert layers == ["foundation", "feature", "polish", "polish, killed and resumed"]
    assert all(line.endswith("yes") for line in table[1:5])
    assert " MB  sha256" in table[4]
    history = done.out.partition("What the history says\n")[2].splitlines()
    assert [line.split()[2] for line in history[1:5]] == ["complete"] * 4
    assert done.out.endswith("Nothing was left behind.\n")
    assert left_behind(shell) == []
    assert not shell.state.exists()


def test_a_file_of_ones_own_is_only_read(shell: Shell) -> None:
    """
    A user's file is uploaded from where it is, and stays as it was.

    It is shown on a terminal, with bars, and whatever the user's settings are.
    """
    data = random.Random(1).randbytes(2 * MIB)
    path = shell.folder / "my data.csv"
    path.write_bytes(data)
    before = path.stat()
    done = shell.on_terminal(
        *("demo", "--keep", path),
        columns=120,
        environment={
            "UPLOAD_KIT_PUT_NAME": "elsewhere",
            "UPLOAD_KIT_TOKEN": "unknown",
            "UPLOAD_KIT_SERVE_TOKEN": "a:secret",
        },
    )
    assert done.code == 0, done.text
    for label in ("foundation", "feature", "polish", "killed"):
        assert f"{label}-my data.csv" in done.text
    assert done.text.count("100% |") >= 4
    tables = done.text.partition("What each layer did")[2].partition("Every copy")[0]
    assert max(map(len, tables.splitlines())) <= 120
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    (kept,) = (shell.folder / "tmp").iterdir()
    copies = list((kept / "store").rglob("*-my data.csv"))
    assert [copy.read_bytes() == data for copy in copies] == [True] * 4
    assert f"Kept in {kept}." in done.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything(shell: Shell, number: int) -> None:
    """Ctrl-C in mid-upload ends server and upload too, and clears up."""
    running = shell.start("demo", "--size", "8MiB")
    while not running.next_line().startswith(b"killed-demo.bin: uploading"):
        pass
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert len(children) >= 2
    ending = running.interrupt(number)
    assert ending.code == 130
    assert "Interrupted" in ending.err
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (len(children), [])
    assert left_behind(shell) == []


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [
        pytest.param("small.bin", 2, "cut off in its middle", id="small"),
        pytest.param("none.bin", 2, "none.bin", id="missing"),
        pytest.param("pipe", 1, "is no file", id="fifo"),
    ],
)
def test_files_that_will_not_do(shell: Shell, name: str, code: int, part: str) -> None:
    """What cannot be shown is told before anything is started."""
    (shell.folder / "small.bin").write_bytes(b"1")
    os.mkfifo(shell.folder / "pipe")
    done = shell.run("demo", name)
    assert done.code == code
    assert part in done.err
    assert done.err.count("\n") == 1
    assert left_behind(shell) == []


async def test_a_copy_that_differs_is_a_failure(tmp_path: Path) -> None:
    """One changed byte on the server's disk, and the demonstration fails."""
    path = await asyncio.to_thread(make_example, tmp_path)
    (tmp_path / "liar.py").write_text(_LIAR)
    command = (sys.executable, str(tmp_path / "liar.py"))
    out = io.StringIO()
    server = ServerProcess(tmp_path / "store", command=command)
    await asyncio.to_thread(server.start)
    try:
        story = Story(path, server, tmp_path, out=out, keep=True)
        with pytest.raises(DemoFailed, match="feature stored is not what was sent"):
            await story.tell()
    finally:
        await asyncio.to_thread(server.kill)
    assert out.getvalue().count("ANOTHER SHA-256") == 1
    assert "NO" in out.getvalue()


async def test_an_upload_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    """A server that takes a connection and never answers does not hold the demo."""
    path = await asyncio.to_thread(make_example, tmp_path)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        process = UploadProcess("put", str(path), url, folder=tmp_path, silence=2.0)
        async with process:
            with pytest.raises(DemoFailed, match="said nothing for 2 s"):
                await drain(process)
            assert psutil.pid_exists(process.pid)
        assert not psutil.pid_exists(process.pid)


async def test_an_upload_that_fails_says_why(tmp_path: Path) -> None:
    """What the process complained about is in the error."""
    process = UploadProcess("put", "none.bin", "memory://x", folder=tmp_path)
    async with process:
        with pytest.raises(DemoFailed, match=r"code 1: .*There is no file none\.bin"):
            await drain(process)


def make_example(folder: Path) -> Path:
    make_file(folder / "demo.bin", MIB)
    return folder / "demo.bin"


async def drain(process: UploadProcess) -> list[Any]:
    return [event async for event in process.events()]


def test_files_are_made_and_digested(tmp_path: Path) -> None:
    """A made file has its size, and other bytes each time."""
    digests = set()
    for name in ("a", "b"):
        make_file(tmp_path / name, 5 * MIB + 1)
        assert (tmp_path / name).stat().st_size == 5 * MIB + 1
        digests.add(digest_file(tmp_path / name))
    assert len(digests) == 2
    with pytest.raises(SourceError, match="Cannot read"):
        digest_file(tmp_path / "none")


def test_a_full_disk_is_told_before(tmp_path: Path) -> None:
    """What does not fit is not begun."""
    require_space(tmp_path, 1)
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        require_space(tmp_path, 10**18)
