"""The command line as a whole: help, exit codes, and what users' mistakes get."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click
import pytest

from tests.shell import Shell
from upload_kit.cli.lazy import LazyCommand, LazyGroup
from upload_kit.cli.main import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        yield made


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_described_as_in_the_list(name: str) -> None:
    """The list of commands says what the command's own help begins with."""
    command = COMMANDS[name].load()
    assert (command.help or "").strip().partition("\n")[0] == COMMANDS[name].summary


def test_help_lists_every_command(shell: Shell) -> None:
    """`upload-kit --help` names each command and the exit codes."""
    done = shell.run("--help")
    assert done.code == 0
    for name, command in COMMANDS.items():
        assert name in done.out
        assert command.summary in done.out
    assert "130 interrupted" in done.out


def test_help_imports_nothing_heavy() -> None:
    """Help comes at once: no command, no HTTP client and no pandas are imported."""
    script = (
        "import sys; from upload_kit.cli.main import cli;"
        "cli.main(['--help'], standalone_mode=False);"
        "heavy = {'aiohttp', 'pandas', 'tqdm', 'upload_kit.cli.put'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_whose_module_is_missing_is_not_offered() -> None:
    """A package that comes without a part comes without its command."""
    table = {"gone": LazyCommand(target="upload_kit.nowhere:gone", summary="Gone.")}
    group = LazyGroup(lazy=table)
    context = click.Context(group)
    assert group.list_commands(context) == []
    assert group.get_command(context, "gone") is None


def test_version(shell: Shell) -> None:
    """`--version` tells the version and ends well."""
    done = shell.run("--version")
    assert (done.code, done.out.split()[0]) == (0, "upload-kit,")


WRONG = {
    "no-words": (["put"], "SOURCE"),
    "no-destination": (["put", "file.bin"], "SOURCE"),
    "unknown-command": (["upload"], "upload"),
    "unknown-option": (["put", "--fast", "file.bin", "memory://x"], "--fast"),
    "unknown-layer": (["put", "--layer", "top", "file.bin", "memory://x"], "top"),
    "unknown-scheme": (["put", "file.bin", "gopher://host/"], "gopher"),
    "no-scheme": (["put", "file.bin", "folder"], "no scheme"),
    "not-a-size": (["put", "--chunk-size", "big", "file.bin", "memory://x"], "big"),
    "no-chunk-size": (["put", "--chunk-size", "0", "file.bin", "memory://x"], "above"),
    "no-rate": (["put", "--limit", "0", "file.bin", "memory://x"], "above zero"),
    "no-lanes": (["put", "--parallel", "0", "file.bin", "memory://x"], "0"),
    "not-a-header": (["put", "--header", "secret", "file.bin", "memory://x"], "header"),
    "limit-without-polish": (
        ["put", "--layer", "feature", "--limit", "1MB", "file.bin", "memory://x"],
        "--limit needs --layer polish",
    ),
    "parallel-foundation": (
        ["put", "--layer", "foundation", "--parallel", "2", "file.bin", "memory://x"],
        "--parallel needs --layer feature",
    ),
    "one-name-for-two": (
        ["put", "--name", "x", "file.bin", "other.bin", "memory://x"],
        "--name is for one file",
    ),
    "two-of-one-name": (["put", "file.bin", "sub/file.bin", "memory://x"], "both"),
    "nameless-stream": (["put", "-", "memory://x"], "--name"),
    "stream-and-file": (["put", "-", "file.bin", "memory://x"], "Standard input"),
    "no-token-file": (
        ["put", "--token-file", "none", "file.bin", "memory://x"],
        "none",
    ),
    "empty-token-file": (
        ["put", "--token-file", "empty", "file.bin", "memory://x"],
        "empty",
    ),
    "resume-nothing": (["resume"], "--all"),
    "resume-too-much": (["resume", "--all", "abc"], "--all"),
    "no-format": (["history", "--format", "xml"], "xml"),
    "no-date": (["history", "--since", "tomorrow"], "tomorrow"),
    "no-port": (["serve", "--port", "99999"], "99999"),
    "no-expiry": (["serve", "--expires-after", "0"], "above"),
    "sized-file": (["demo", "--size", "1MB", "file.bin"], "--size"),
    "tiny-demo": (["demo", "--size", "10"], "cut off"),
}


@pytest.mark.parametrize(("words", "part"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use(shell: Shell, words: list[str], part: str) -> None:
    """Wrong use ends with 2 and one line that says what is wrong; nothing is done."""
    (shell.folder / "file.bin").write_bytes(b"1")
    (shell.folder / "other.bin").write_bytes(b"2")
    (shell.folder / "sub").mkdir()
    (shell.folder / "sub" / "file.bin").write_bytes(b"3")
    (shell.folder / "empty").touch()
    done = shell.run(*words)
    assert done.code == 2
    assert done.out == ""
    assert part in done.err
    assert done.err.startswith("upload-kit: ")
    assert done.err.count("\n") == 1


def test_a_refused_value_is_not_repeated_if_it_is_secret(shell: Shell) -> None:
    """A header that is not one is not printed: it may hold a secret."""
    done = shell.run("put", "--header", "hunter2", "file.bin", "memory://x")
    assert "hunter2" not in done.err + done.out


FAILURES = {
    "missing": ("missing.bin", "no file"),
    "pattern": ("*.nothing", "no file"),
    "empty-folder": ("hollow", "no files in"),
    "fifo": ("pipe", "no regular file"),
    "loop": ("loop", "Cannot open"),
}


@pytest.mark.parametrize(("source", "part"), FAILURES.values(), ids=FAILURES.keys())
def test_what_cannot_be_read(shell: Shell, source: str, part: str) -> None:
    """A source that cannot be read ends with 1, at once, and one line says why."""
    (shell.folder / "hollow").mkdir()
    os.mkfifo(shell.folder / "pipe")
    (shell.folder / "loop").symlink_to("loop")
    done = shell.run("put", source, "memory://x")
    assert done.code == 1
    assert part in done.err
    assert done.err.startswith("upload-kit: ")
    assert done.err.count("\n") == 1


def test_a_refused_connection_fails_within_seconds(shell: Shell) -> None:
    """A server that does not run is told after a few tries, not after minutes."""
    (shell.folder / "file.bin").write_bytes(b"1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = shell.run("put", "file.bin", f"http://127.0.0.1:{port}/")
    assert done.code == 1
    assert "Cannot connect" in done.err
    assert "tries again in" in done.out
    assert done.seconds < 15


def test_debug_shows_where_an_error_comes_from(shell: Shell) -> None:
    """A traceback comes only when it is asked for, before or after the command."""
    usual = shell.run("put", "file.bin", "gopher://x/")
    for words in (["--debug", "put"], ["put", "--debug"]):
        done = shell.run(*words, "file.bin", "gopher://x/")
        assert (done.code, usual.code) == (2, 2)
        assert "Traceback" in done.err
        assert done.err.splitlines()[-1] == usual.err.strip()
    assert "Traceback" not in usual.err


def test_debug_shows_where_an_upload_failed(shell: Shell) -> None:
    """That holds for an upload that fails, too."""
    done = shell.run("put", "--debug", "none.bin", "memory://x")
    assert done.code == 1
    assert "Traceback" in done.err


def test_verbose_logs_to_standard_error(shell: Shell) -> None:
    """`-v` logs the start and the end of an upload beside the output."""
    (shell.folder / "file.bin").write_bytes(b"1")
    done = shell.run("put", "-v", "--json", "file.bin", "memory://x")
    assert "INFO" in done.err
    assert done.lines[-1]["success"]


def test_an_option_may_come_from_the_environment(shell: Shell) -> None:
    """Each option has a variable: UPLOAD_KIT, the command, the option."""
    (shell.folder / "file.bin").write_bytes(bytes(10))
    done = shell.run(
        "put",
        *("--json", "file.bin", "memory://x"),
        environment={"UPLOAD_KIT_PUT_CHUNK_SIZE": "4"},
    )
    assert len(done.lines[-1]["chunks"]) == 3


def test_the_group_itself_wants_a_command(shell: Shell) -> None:
    """Without a command there is help, and no traceback."""
    done = shell.run()
    assert done.code == 2
    assert "Commands" in done.err + done.out
    assert cli.name == "cli"
