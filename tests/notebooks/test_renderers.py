"""Which display fits: in a script, a pipe, a terminal, at a prompt."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from upload_kit.errors import ConfigurationError
from upload_kit.notebook.renderers import Renderer, choose

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import os, sys, tempfile
import upload_kit as uk
{0}
assert "ipywidgets" not in sys.modules and "pandas" not in sys.modules
"""
UPLOAD = 'uk.upload(b"0" * 2_000_000, "memory://x/", name="a.bin")'


def run(code: str, tmp_path: Path, **environment: str) -> tuple[str, str]:
    """Run a script whose output goes into pipes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(code)],
        env={**os.environ, "UPLOAD_KIT_SESSION_DIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def run_on_terminal(code: str, tmp_path: Path, *flags: str) -> str:
    """Run a script on a terminal, and return what that shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", SCRIPT.format(code)],
        env={**os.environ, "UPLOAD_KIT_SESSION_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # How Linux says that the other end is closed.
        pass
    os.close(ours)
    assert process.wait(30) == 0, shown.decode()
    return shown.decode()


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    """No bars and no escape sequences where nobody watches."""
    out, err = run(UPLOAD, tmp_path)
    assert out == ""
    assert "a.bin: 2.00 MB in" in err
    assert "\x1b" not in err
    assert "\r" not in err


def test_a_terminal_gets_bars(tmp_path: Path) -> None:
    """A script on a terminal draws a bar, also for what runs in the background."""
    slowly = UPLOAD.replace(")", ', limit="4MB/s", chunk_size="100kB")')
    for code in (slowly, slowly.replace("upload(", "start(") + ".result()"):
        shown = run_on_terminal(code, tmp_path)
        assert re.search(r"a\.bin +\d+% \|", shown)
        assert "2.00 MB in" in shown


def test_a_prompt_is_not_written_into(tmp_path: Path) -> None:
    """At a prompt a background upload tells how it ended when that is asked for."""
    code = (
        "import sys; sys.ps1 = '>>> '\n"
        'job = uk.start(b"0" * 2_000_000, "memory://x/", name="a.bin")\n'
        "job._ended.result()\nprint('asks')\njob.result()"
    )
    before, _, after = run_on_terminal(code, tmp_path).partition("asks")
    assert before == ""
    assert "a.bin: 2.00 MB in" in after


def test_the_environment_is_above_the_call(tmp_path: Path) -> None:
    """UPLOAD_KIT_PROGRESS silences even what a program asks for."""
    code = UPLOAD.replace(")", ', progress="text")')
    out, err = run(code, tmp_path, UPLOAD_KIT_PROGRESS="none")
    assert out + err == ""


def test_none_shows_nothing(tmp_path: Path) -> None:
    """progress=None is quiet."""
    assert run(UPLOAD.replace(")", ", progress=None)"), tmp_path) == ("", "")


def test_a_failure_is_shown_and_raised(tmp_path: Path) -> None:
    """A script that catches the error still has said what happened."""
    code = """
try:
    uk.upload("/no/such/file", "memory://x/", progress="static")
except uk.SourceError as error:
    print(error)
"""
    out, err = run(code, tmp_path)
    assert out == "There is no file /no/such/file. Check the path.\n"
    assert err.startswith("file: failed: There is no file")


def test_widgets_outside_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot work here is replaced by what can."""
    monkeypatch.delenv("UPLOAD_KIT_PROGRESS", raising=False)
    assert choose("widget", waiting=True) is Renderer.TEXT
    assert choose("html", waiting=False) is Renderer.TEXT
    assert choose(None, waiting=True) is Renderer.NONE


def test_an_unknown_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt name is told, wherever it comes from."""
    monkeypatch.setenv("UPLOAD_KIT_PROGRESS", "fancy")
    with pytest.raises(ConfigurationError, match="no display 'fancy'"):
        choose("auto", waiting=True)
