"""Cut off and gone on with: Ctrl-C, SIGTERM, kill -9, and `upload-kit resume`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.shell import Running, Shell
from upload_kit.models import UploadSpec, UploadStatus
from upload_kit.server.child import ServerProcess
from upload_kit.sessions.manager import SessionManager, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 2_000_000
SHARE = 0.15
TOKEN = "t0ken-of-the-tests"
SLOWLY = (
    *("--limit", "400kB/s", "--chunk-size", "50kB", "--compress", "off"),
    *("--json", "--token", TOKEN),
)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        yield made


@pytest.fixture
def data(shell: Shell) -> bytes:
    content = random.Random(1).randbytes(SIZE)
    (shell.folder / "data.bin").write_bytes(content)
    return content


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server") / "store"
    with ServerProcess(folder, "--token", f"tests:{TOKEN}") as running:
        yield running


def begin(shell: Shell, server: ServerProcess, *words: str) -> Running:
    """Return an upload that is in its middle."""
    running = shell.start("put", *SLOWLY, *words, "data.bin", server.url)
    running.wait_for_share(SHARE)
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_goes_on_where_it_was(
    shell: Shell, server: ServerProcess, data: bytes, number: int
) -> None:
    """A signal ends an upload within seconds; its message is the way to go on."""
    ending = begin(shell, server).interrupt(number)
    assert ending.code == 130
    assert ending.seconds < 3
    message, command = ending.err.splitlines()
    assert message == "upload-kit: Interrupted."
    program, *words = command.removeprefix("Go on with: ").split()
    assert program == "upload-kit"
    done = shell.run(*words, "--json", "--token", TOKEN)
    assert done.code == 0, done.err
    result = done.lines[-1]
    assert result["bytes_resumed"] >= SHARE * SIZE
    assert result["bytes_sent"] == SIZE - result["bytes_resumed"]
    assert result["sha256"] == hashlib.sha256(data).hexdigest()


def test_an_interrupted_upload_tells_programs(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """With --json the last line is a result that names the session."""
    ending = begin(shell, server).interrupt(signal.SIGINT)
    progress, result = ending.lines[-2:]
    assert progress["kind"] == "cancelled"
    assert not result["success"]
    assert result["error_type"] == "UploadCancelled"
    assert result["session_id"] in ending.err


def test_the_same_command_again_goes_on(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """Whoever just gives the same command again sends nothing twice."""
    begin(shell, server).interrupt(signal.SIGINT)
    done = shell.run("put", "--json", "--token", TOKEN, "data.bin", server.url)
    assert done.lines[-1]["bytes_resumed"] >= SHARE * SIZE
    assert "Nothing is unfinished" in shell.run("sessions").out


def test_a_killed_upload_is_resumed_with_all(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """After kill -9 the session is listed, and --all goes on with it."""
    begin(shell, server).interrupt(signal.SIGKILL)
    (listed,) = shell.run("sessions", "--json").lines
    assert listed["bytes_completed"] >= SHARE * SIZE
    done = shell.run("resume", "--all", "--json", "--token", TOKEN)
    assert done.code == 0, done.err
    assert done.lines[-1]["bytes_resumed"] >= listed["bytes_completed"]
    assert done.lines[-1]["sha256"] == hashlib.sha256(data).hexdigest()
    assert shell.run("resume", "--all").out == "There is nothing to resume.\n"


async def test_what_is_left_alone_is_told(shell: Shell) -> None:
    """Which sessions there are, and why none of them is gone on with."""
    place = shell.folder / "sessions"
    manager = SessionManager(open_store(place), keep_completed=True)
    late = SessionManager(open_store(place), clock=lambda: time.time() - 72 * 3600)
    made = {}
    for name, by in (("busy", manager), ("over", manager), ("old", late)):
        made[name] = await by.create(
            UploadSpec(name=f"{name}\x1b.bin", size=1),
            source=str(shell.folder / name),
            destination="memory://x/",
            chunk_size=1,
            total_chunks=1,
        )
    words = ("resume", "--all", "--session-dir", place)
    async with manager.lease(made["over"].session_id) as lease:
        lease.finish(UploadStatus.CANCELLED)
    async with manager.lease(made["busy"].session_id) as lease:
        done = await asyncio.to_thread(shell.run, *words)
        # Once it is complete there is nothing more to be said of it.
        lease.finish(UploadStatus.COMPLETE)
    assert (done.code, done.err) == (0, "")
    first, *rest, last = done.out.splitlines()
    assert first == "There is nothing to resume."
    ids = {name: session.session_id for name, session in made.items()}
    why = {
        "old": "it has expired; start the upload again",
        "busy": f"process {os.getpid()} on {socket.gethostname()} works on it",
        "over": "it was cancelled",
    }
    assert sorted(rest) == sorted(
        f"Left alone: {ids[name][:12]} ({name}\N{REPLACEMENT CHARACTER}.bin): {reason}."
        for name, reason in why.items()
    )
    assert f"upload-kit resume {ids['over']} --session-dir" in last
    told = await asyncio.to_thread(shell.run, *words, "--json")
    assert (told.code, told.out) == (0, "")
    assert [line.split()[2] for line in told.err.splitlines()[:-1]] == [
        ids["old"][:12],
        ids["over"][:12],
    ]
    assert (await asyncio.to_thread(shell.run, *words, "--quiet")).err == ""
    for one in (manager, late):
        await one.aclose()


def test_a_second_interrupt_ends_at_once(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """Whoever is in a hurry gets out, and the session is kept all the same."""
    running = begin(shell, server)
    running.process.send_signal(signal.SIGINT)
    ending = running.interrupt(signal.SIGINT)
    assert ending.code == 130
    assert len(shell.run("sessions", "--json").lines) == 1


def test_layers_without_sessions_leave_nothing(shell: Shell, data: bytes) -> None:
    """What no session remembers is cleared up, and the message does not promise."""
    running = shell.start(
        "put",
        *("--layer", "feature", "--json", "--parallel", "1", "--chunk-size", "1kB"),
        *("data.bin", f"file://{shell.folder}/store"),
    )
    running.wait_for_share(0.1)
    ending = running.interrupt(signal.SIGINT)
    assert ending.code == 130
    assert "Nothing was kept" in ending.err
    assert list((shell.folder / "store").iterdir()) == []


def test_many_files_are_interrupted_together(
    shell: Shell, server: ServerProcess
) -> None:
    """All that run stop, the rest does not begin, and the command is the way on."""
    for index in range(20):
        content = random.Random(index).randbytes(200_000)
        (shell.folder / f"{index}.bin").write_bytes(content)
    running = shell.start("put", *SLOWLY, "--parallel", "1", "*.bin", server.url)
    running.wait_for(lambda line: line.get("kind") == "completed")
    ending = running.interrupt(signal.SIGINT)
    assert ending.code == 130
    assert "same command again" in ending.err
    done = shell.run("put", "--json", "--token", TOKEN, "*.bin", server.url)
    assert done.code == 0, done.err
    assert sum(line["success"] for line in done.lines if "success" in line) == 20


def test_an_interrupt_ends_the_wait_for_standard_input(shell: Shell) -> None:
    """A pipe that nothing comes through does not hold the program."""
    running = shell.start(
        "put", "--json", "-", "memory://x", "--name", "s", stdin=subprocess.PIPE
    )
    running.wait_for(lambda line: line["kind"] == "planned")
    ending = running.interrupt(signal.SIGINT)
    assert ending.code == 130
    assert ending.seconds < 3
    assert "Nothing was kept" in ending.err
    assert running.process.stdin is not None
    running.process.stdin.close()


def test_an_interrupt_ends_the_wait_for_a_reader(shell: Shell, data: bytes) -> None:
    """A pipe that nobody reads holds the program for some seconds at most."""
    with subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "upload_kit",
                "put",
                "--json",
                "--chunk-size",
                "100",
            ),
            *("data.bin", "memory://x"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=shell.environment,
        cwd=shell.folder,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


@pytest.mark.parametrize(
    ("beginning", "code", "part"),
    [
        pytest.param("ffffffff", 1, "no session 'ffffffff'", id="unknown"),
        pytest.param("", 1, "no session ''", id="empty"),
    ],
)
def test_a_session_that_is_not_there(
    shell: Shell, beginning: str, code: int, part: str
) -> None:
    """An ID that means nothing is told, with where to find those that do."""
    done = shell.run("resume", beginning)
    assert done.code == code
    assert part in done.err
    assert "upload-kit sessions" in done.err


def test_ids_may_be_shortened_while_they_are_unique(
    shell: Shell, server: ServerProcess
) -> None:
    """A few letters will do; too few are refused, and nothing is sent."""
    for index in range(17):
        (shell.folder / f"{index}.bin").write_bytes(bytes(1_200_000))
    shell.run("put", "*.bin", server.url)  # Without the token: each leaves a session.
    listed = shell.run("sessions", "--json").lines
    assert len(listed) == 17
    first = [session["session_id"][0] for session in listed]
    double = next(letter for letter in first if first.count(letter) > 1)
    refused = shell.run("resume", double, "--token", TOKEN)
    assert refused.code == 2
    assert "begin with" in refused.err
    whole = listed[0]["session_id"]
    done = shell.run("resume", whole[:12].upper(), "--json", "--token", TOKEN)
    assert done.code == 0, done.err
    assert [line["name"] for line in done.lines if "success" in line] == [
        listed[0]["name"]
    ]


def test_a_file_that_changed_is_not_gone_on_with(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """Bytes of two files never become one: the session refuses another source."""
    begin(shell, server).interrupt(signal.SIGKILL)
    (shell.folder / "data.bin").write_bytes(data[::-1])
    done = shell.run("resume", "--all", "--token", TOKEN)
    assert done.code == 1
    assert "is not what it was" in done.err
    assert "Go on with" not in done.err


def test_a_session_in_use_is_left_alone(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """While one process uploads, another that wants the same session is refused."""
    running = begin(shell, server)
    (listed,) = shell.run("sessions", "--json").lines
    done = shell.run("resume", listed["session_id"], "--token", TOKEN)
    assert done.code == 1
    assert f"in use by process {running.process.pid}" in done.err
    assert running.process.poll() is None
    assert running.interrupt(signal.SIGINT).code == 130


def test_a_session_folder_of_ones_own(
    shell: Shell, server: ServerProcess, data: bytes
) -> None:
    """--session-dir is where sessions are, and the message to go on names it."""
    ending = begin(shell, server, "--session-dir", "my sessions").interrupt(2)
    assert "--session-dir 'my sessions'" in ending.err
    assert "Nothing is unfinished" in shell.run("sessions").out
    listed = shell.run("sessions", "--json", "--session-dir", "my sessions").lines
    assert len(listed) == 1
    done = shell.run(
        *("resume", "--all", "--session-dir", "my sessions", "--token", TOKEN)
    )
    assert done.code == 0, done.err
    assert "were there already" in done.out
    past = shell.run("history", "--format", "json", "--session-dir", "my sessions")
    assert [row["status"] for row in json.loads(past.out)] == ["cancelled", "complete"]
    assert json.loads(shell.run("history", "--format", "json").out) == []
