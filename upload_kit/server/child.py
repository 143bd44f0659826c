"""A server in a process of its own: for demos, benchmarks and tests that kill it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from upload_kit.errors import UploadKitError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

_COMMAND: Final = (sys.executable, "-m", "upload_kit", "serve")
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0


class ServerProcess:
    """
    Runs a server over a folder while the context lasts.

    It blocks while it starts and stops: call it in a thread where a loop runs. It keeps
    its port and its folder when it is started again.

    Args:
        folder: What it stores to.

        options: Further words of the command line.

        command: What to run instead of `upload-kit serve`.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self.folder = folder
        self.url = ""
        self.port = 0
        self._options = options
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._log = folder.parent / f"{folder.name}.log"

    @property
    def pid(self) -> int:
        """The process that was started; its workers are in its process group."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it says where it is."""
        assert self._process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        place = ["--host", "127.0.0.1", "--port", str(self.port)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    *place,
                    "--dir",
                    self.folder,
                    "--json",
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                text=True,
                start_new_session=True,
            )
        self.url = self._ready_url(self._process)
        self.port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        """End it and its workers as a power cut would: with kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int | None:
        """
        Ask it to end, and wait; safe to call when it has ended.

        Returns:
            Its exit code; None if it was not running.
        """
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start it again after `kill` or `stop`, on the same port and folder."""
        self.start()

    def log(self) -> str:
        """Return everything that it wrote to standard error."""
        return self._log.read_text()

    def _ready_url(self, process: subprocess.Popen[str]) -> str:
        """Return the URL of the first line that has one; read on in the background."""
        found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process, found), daemon=True).start()
        try:
            url = found.get(timeout=_START_SECONDS)
        except queue.Empty:
            url = None
        if url is None:
            self.kill()
            raise UploadKitError(f"The server does not start: {self.log()}")
        return url

    def _end(self, sign: signal.Signals) -> int | None:
        if self._process is None:
            return None
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            if sign is signal.SIGKILL:
                os.killpg(process.pid, sign)
            else:
                process.send_signal(sign)
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _environment() -> dict[str, str]:
    """Leave the user's own settings for servers out: the options say everything."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UPLOAD_KIT_SERVE_")
    }
    return {**kept, "UPLOAD_KIT_CONFIG": os.devnull}


def _read(process: subprocess.Popen[str], found: queue.SimpleQueue[str | None]) -> None:
    """Read to the end, so that a full pipe never holds the server up."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            with suppress(json.JSONDecodeError, KeyError, TypeError):
                found.put(str(json.loads(line)["url"]))
    found.put(None)
