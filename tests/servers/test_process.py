"""The server process of the tests: ready when it says so, gone when it is killed."""

from __future__ import annotations

import signal
import socket
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

# It stands for any server that speaks as `upload-kit serve --json` does.
_PROGRAM = """
import argparse, functools, http.server, json, subprocess, sys, time
words = argparse.ArgumentParser()
words.add_argument("--host")
words.add_argument("--port", type=int)
words.add_argument("--dir")
words.add_argument("--json", action="store_true")
words.add_argument("--say", default="ready")
words = words.parse_args()
if words.say == "nothing":
    sys.exit("no such folder")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=words.dir)
server = http.server.ThreadingHTTPServer((words.host, words.port), handler)
print("starting")
print(json.dumps({"url": f"http://{words.host}:{server.server_port}/"}), flush=True)
if words.say == "much":
    print("x" * 1_000_000, flush=True)
server.serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    return [sys.executable, str(program)]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def test_server_is_ready_when_it_has_started(
    tmp_path: Path, command: list[str]
) -> None:
    """It answers at its URL from its folder, whatever else it prints."""
    with ServerProcess(tmp_path / "store", "--say", "much", command=command) as server:
        (server.folder / "a.txt").write_text("hello")
        assert get(server.url + "a.txt") == b"hello"
        assert server.stop() == -signal.SIGTERM
        assert server.stop() is None


def test_killed_server_starts_again_in_its_place(
    tmp_path: Path, command: list[str]
) -> None:
    """After kill -9 nobody listens; then the same URL works again."""
    with ServerProcess(tmp_path / "store", command=command) as server:
        url, pid = server.url, server.pid
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        server.restart()
        assert (server.url, server.pid != pid) == (url, True)
        assert get(url).startswith(b"<!DOCTYPE")


def test_server_that_does_not_start_says_why(
    tmp_path: Path, command: list[str]
) -> None:
    """What it wrote to standard error is in the message."""
    server = ServerProcess(tmp_path / "store", "--say", "nothing", command=command)
    with pytest.raises(RuntimeError, match="no such folder"):
        server.start()
    assert server.stop() is None
