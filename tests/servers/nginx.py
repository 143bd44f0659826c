"""A real nginx with WebDAV, on a free port of loopback and in a folder of its own."""

from __future__ import annotations

import grp
import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 10.0
_ATTEMPTS: Final = 5

_CONFIGURATION: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
{user}
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        client_body_buffer_size 1m;
        location / {{
            root {folder}/files;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
        {server}
    }}
}}
"""


class NginxServer:
    """
    Runs nginx as the current user while the context lasts; skips where there is none.

    Args:
        folder: For its files, logs and temporary bodies; made if it is not there.

        server: Further directives for its server block, such as locations.
    """

    def __init__(self, folder: Path, *, server: str = "") -> None:
        self.port = 0
        self.root = folder / "files"
        self._folder = folder
        self._server = server

    @property
    def url(self) -> str:
        """Where it is, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        program = _program()
        self.root.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            # Another program may take the port before nginx does: then take another.
            self.port = _free_port()
            self._process = self._start(program)
            if self._is_ready():
                return self
            self._stop()
        raise RuntimeError(f"nginx does not start:\n{self.log()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def kill(self) -> None:
        """End it and its worker with kill -9."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """Start it again after `kill`, at the same port and over the same folder."""
        self._process = self._start(_program())
        if not self._is_ready():
            raise RuntimeError(f"nginx does not start again:\n{self.log()}")

    def log(self) -> str:
        """Return what it has complained about."""
        log = self._folder / "error.log"
        return log.read_text() if log.exists() else ""

    def _start(self, program: str) -> subprocess.Popen[bytes]:
        configuration = self._folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self._folder, port=self.port, user=_user(), server=self._server
            )
        )
        errors = f"{self._folder}/error.log"
        return subprocess.Popen(
            [program, "-p", self._folder, "-e", errors, "-c", configuration],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _is_ready(self) -> bool:
        """Wait for an answer; False if it ended, or took too long."""
        limit = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < limit:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
            try:
                connection.request("HEAD", "/")
                server = connection.getresponse().getheader("Server", "")
            except OSError:
                time.sleep(0.02)
            else:
                return server.startswith("nginx")
            finally:
                connection.close()
        return False

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _program() -> str:
    program = _found()
    if program is None:
        pytest.skip("nginx is not installed")
    return program


def _found() -> str | None:
    # Debian puts it where only root's PATH goes.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("nginx", path=path)


def nginx_obstacle() -> str | None:
    """Return why no nginx can run here, or None."""
    return "nginx is not installed" if _found() is None else None


def _user() -> str:
    """Keep the worker with the current user, who owns the folder."""
    if os.geteuid() != 0:
        return ""
    name = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    return f"user {name} {group};"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
