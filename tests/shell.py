"""The real command line, in processes of its own: run, watched, interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import queue
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

COMMAND: Final = (sys.executable, "-m", "upload_kit")
PATIENCE: Final = 40.0
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Shell:
    """
    Runs commands in a folder, with sessions and a history of their own.

    Args:
        folder: Where they run; `state` below it keeps what they remember.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self._started: list[Running] = []
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("UPLOAD_KIT_") and name != "NO_COLOR"
        }
        self.environment: dict[str, str] = {
            **kept,
            "UPLOAD_KIT_SESSION_DIR": str(self.state),
            "UPLOAD_KIT_CONFIG": os.devnull,
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        }

    def run(
        self,
        *words: str | Path,
        stdin: bytes | IO[bytes] | int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> Ending:
        """Run a command to its end."""
        began = time.monotonic()
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [*COMMAND, *map(str, words)],
            stdin=None if isinstance(stdin, bytes) else stdin,
            input=stdin if isinstance(stdin, bytes) else None,
            capture_output=True,
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            timeout=PATIENCE,
            check=False,
        )
        return Ending(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
            seconds=time.monotonic() - began,
        )

    def start(self, *words: str | Path, stdin: int = subprocess.DEVNULL) -> Running:
        """Start a command and return at once."""
        running = Running(
            subprocess.Popen(
                [*COMMAND, *map(str, words)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env=self.environment,
            )
        )
        self._started.append(running)
        return running

    def close(self) -> None:
        """End whatever a failed test left running."""
        for running in self._started:
            if running.process.poll() is None:
                running.interrupt(signal.SIGKILL)

    def on_terminal(
        self,
        *words: str | Path,
        columns: int = 100,
        environment: Mapping[str, str] | None = None,
    ) -> Ending:
        """Run a command to its end on a terminal of 40 lines."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        began = time.monotonic()
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.folder,
            env={**self.environment, "TERM": "xterm", **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)
        screen = _read_all(ours)
        code = process.wait(PATIENCE)
        os.close(ours)
        return Ending(code, screen, "", seconds=time.monotonic() - began)


class Ending:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str, *, seconds: float) -> None:
        self.code = code
        self.out = out
        self.err = err
        self.seconds = seconds

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its standard output as JSON, an object a line and nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def text(self) -> str:
        """Its standard output without colours and movements of the cursor."""
        return _ANSI.sub("", self.out)


class Running:
    """A command under way; its output is read all the time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._out: list[bytes] = []
        self._err: list[bytes] = []
        self._readers = [
            threading.Thread(target=self._read_out),
            threading.Thread(target=self._read_err),
        ]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._out.append(line)
                self._lines.put(line)
        self._lines.put(b"")

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._err.extend(lines)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first line of JSON that is wanted."""
        while line := self.next_line():
            found: dict[str, Any] = json.loads(line)
            if wanted(found):
                return found
        raise AssertionError(f"It ended before: {b''.join(self._err).decode()}")

    def next_line(self) -> bytes:
        """Return the next line of its output; nothing at the end."""
        return self._lines.get(timeout=PATIENCE)

    def wait_for_share(self, share: float) -> dict[str, Any]:
        """Wait until so much of the file is confirmed."""
        return self.wait_for(lambda line: _share(line) >= share)

    def interrupt(self, number: int) -> Ending:
        """Send a signal and wait for the end."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.end(began)

    def end(self, began: float | None = None) -> Ending:
        """Wait for the end."""
        began = time.monotonic() if began is None else began
        code = self.process.wait(PATIENCE)
        seconds = time.monotonic() - began
        for reader in self._readers:
            reader.join(PATIENCE)
        return Ending(
            code,
            b"".join(self._out).decode(),
            b"".join(self._err).decode(),
            seconds=seconds,
        )


def _share(line: dict[str, Any]) -> float:
    progress = line.get("progress")
    if not progress or not progress["total"]:
        return 0.0
    share: float = progress["confirmed"] / progress["total"]
    return share


def _read_all(descriptor: int) -> str:
    content = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # Linux's way of telling that nobody has the other end open.
            break
        if not piece:
            break
        content += piece
    return content.decode()
