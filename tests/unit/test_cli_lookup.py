"""`sessions`, `cleanup` and `history`: what is remembered, and how it is printed."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import random
import subprocess
import sys
import time
from contextlib import aclosing, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from tests.shell import Shell
from upload_kit.models import UploadSession
from upload_kit.sessions.json_files import JsonFileStore
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        yield made


async def leave_session(shell: Shell) -> str:
    """Cut an upload to a folder off in its middle, and return its session's ID."""
    path = shell.folder / "data.bin"
    path.write_bytes(random.Random(1).randbytes(1_000_000))
    uploader = ResumableUploader(
        f"file://{shell.folder}/store",
        session_dir=shell.state / "sessions",
        bandwidth_limit=1_000_000,
        chunk_size=10_000,
        history=False,
    )
    transfer = uploader.start(path)
    async for event in transfer:
        if event.progress.chunks_confirmed >= 20:
            transfer.interrupt()
    await asyncio.wait({transfer.task})
    assert transfer.session_id is not None
    return transfer.session_id


def test_nothing_is_unfinished_at_first(shell: Shell) -> None:
    """A new user has no sessions and no history, and no errors either."""
    assert shell.run("sessions").out == "Nothing is unfinished.\n"
    assert shell.run("sessions", "--json").out == ""
    assert shell.run("history").out == "No upload was made here yet.\n"
    assert json.loads(shell.run("history", "--format", "json").out) == []
    assert shell.run("cleanup").out == "Removed 0 expired sessions.\n"


async def test_sessions_as_a_table(shell: Shell) -> None:
    """The table tells what, how far, and for how long it can be resumed."""
    session_id = await leave_session(shell)
    done = await asyncio.to_thread(shell.run, "sessions")
    header, row = done.out.splitlines()
    assert header.split()[:4] == ["ID", "NAME", "DONE", "SIZE"]
    cells = row.split()
    assert cells[:2] == [session_id[:12], "data.bin"]
    assert 20 <= int(cells[2].removesuffix("%")) < 100
    assert "paused" in cells
    assert cells[-1] == f"file://{shell.folder}/store"


async def test_sessions_for_programs_hold_no_secret(shell: Shell) -> None:
    """The JSON counts what arrived; the token that reopens the upload is not in it."""
    session_id = await leave_session(shell)
    done = await asyncio.to_thread(shell.run, "sessions", "--json")
    (listed,) = done.lines
    assert listed["session_id"] == session_id
    assert listed["chunks_completed"] >= 20
    assert listed["bytes_completed"] == 10_000 * listed["chunks_completed"]
    async with aclosing(JsonFileStore(shell.state / "sessions")) as store:
        session = await store.get(session_id)
    assert session is not None
    assert session.remote_token is not None
    assert session.remote_token not in done.out


async def test_cleanup_removes_what_expired_and_its_remains(shell: Shell) -> None:
    """An expired session goes, and with it the half-done files at the destination."""
    session_id = await leave_session(shell)
    async with aclosing(JsonFileStore(shell.state / "sessions")) as sessions:
        session = await sessions.get(session_id)
        assert session is not None
        expired = replace(session, expires_at=time.time() - 1)
        await sessions.put(expired, expected=session.version)
    store = shell.folder / "store"
    assert len(list(store.iterdir())) == 2
    done = await asyncio.to_thread(shell.run, "cleanup")
    assert (done.code, done.out) == (0, "Removed 1 expired session.\n")
    assert list(store.iterdir()) == []
    assert await asyncio.to_thread(lambda: shell.run("sessions", "--json").out) == ""


def test_cleanup_of_what_expires_by_itself(shell: Shell) -> None:
    """A destination that keeps nothing for ever says so."""
    done = shell.run("cleanup", "memory://a/")
    assert done.code == 2
    assert "memory://a/ has nothing to clean up" in done.err


async def test_cleanup_leaves_what_can_be_resumed(shell: Shell) -> None:
    """A session that has time left stays, and so do its bytes."""
    await leave_session(shell)
    done = await asyncio.to_thread(shell.run, "cleanup", "--json")
    assert json.loads(done.out) == {"removed": [], "corrupt": [], "aborted": []}
    assert len(list((shell.folder / "store").iterdir())) == 2


async def test_cleanup_keeps_what_it_cannot_throw_away(shell: Shell) -> None:
    """While the destination does not answer, the session waits for the next time."""
    async with aclosing(JsonFileStore(shell.state / "sessions")) as store:
        left = UploadSession(
            session_id="0" * 32,
            name="x",
            source=None,
            destination="http://127.0.0.1:9/",
            size=10,
            chunk_size=10,
            total_chunks=1,
            remote_token="t",
            expires_at=time.time() - 1,
        )
        await store.put(left, expected=None)
        done = await asyncio.to_thread(shell.run, "cleanup")
        assert done.out == "Removed 0 expired sessions.\n"
        assert "could not be removed" in done.err
        assert await store.get(left.session_id) is not None


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Three uploads: two that arrived, through two layers, and one that failed."""
    shell = Shell(tmp_path_factory.mktemp("past"))
    (shell.folder / "a.bin").write_bytes(bytes(1000))
    assert shell.run("put", "a.bin", "memory://one/").code == 0
    assert shell.run("put", "--layer", "feature", "a.bin", "memory://two/").code == 0
    assert shell.run("put", "none.bin", "memory://one/").code == 1
    return shell  # It only runs commands to their end: nothing has to be closed.


def rows(shell: Shell, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        shell.run("history", "--format", "json", *words).out
    )
    return found


def test_history_as_a_table(past: Shell) -> None:
    """The table has a line an upload, oldest first."""
    header, *lines = past.run("history").out.splitlines()
    assert header.split()[:3] == ["STARTED", "NAME", "STATUS"]
    assert [line.split()[3] for line in lines] == ["complete", "complete", "failed"]
    assert lines[0].endswith("memory://one/")


def test_history_in_every_form_tells_the_same(past: Shell) -> None:
    """JSON, CSV and parquet hold the same uploads with the same columns."""
    plain = rows(past)
    text = past.run("history", "--format", "csv").out
    table = list(csv.DictReader(io.StringIO(text)))
    done = past.run("history", "--format", "parquet", "-o", "history.parquet")
    assert (done.code, done.out) == (0, "")
    frame = pd.read_parquet(past.folder / "history.parquet")
    assert len(plain) == len(table) == len(frame) == 3
    assert list(plain[0]) == list(table[0]) == list(frame.columns)
    ids = [row["transfer_id"] for row in plain]
    assert ids == [row["transfer_id"] for row in table] == list(frame["transfer_id"])
    assert [int(row["retries"]) for row in table] == list(frame["retries"])
    assert str(frame["started_at"].dt.tz) == "UTC"


def test_an_empty_history_in_parquet_has_its_columns(shell: Shell) -> None:
    """A program that reads the file finds the columns, though no rows."""
    shell.run("history", "--format", "parquet", "-o", "history.parquet")
    frame = pd.read_parquet(shell.folder / "history.parquet")
    assert len(frame) == 0
    assert "transfer_id" in frame.columns


def test_parquet_is_not_thrown_at_a_terminal(past: Shell) -> None:
    """Bytes that are no text go to a file."""
    done = past.on_terminal("history", "--format", "parquet")
    assert done.code == 2
    assert "--output" in done.text


@pytest.mark.parametrize(
    ("words", "count"),
    [
        pytest.param(["--status", "failed"], 1, id="status"),
        pytest.param(["--layer", "feature"], 1, id="layer"),
        pytest.param(["--destination", "memory://one/"], 2, id="destination"),
        pytest.param(["--since", "1h"], 3, id="since-a-while"),
        pytest.param(["--since", "2001-01-01"], 3, id="since-a-day"),
        pytest.param(["--since", "2101-01-01"], 0, id="since-the-future"),
        pytest.param(["--limit-rows", "2"], 2, id="newest"),
        pytest.param(["--status", "complete", "--layer", "feature"], 1, id="both"),
    ],
)
def test_history_can_be_filtered(past: Shell, words: list[str], count: int) -> None:
    """Each filter leaves what it says."""
    assert len(rows(past, *words)) == count


def test_the_newest_rows_are_left(past: Shell) -> None:
    """--limit-rows leaves the last ones."""
    assert rows(past, "--limit-rows", "1")[0]["status"] == "failed"


def test_a_pipe_that_closes_early_is_no_traceback(past: Shell) -> None:
    """`history | true` ends without complaints: nobody wants the rest."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "upload_kit", "history"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env=past.environment,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode == 1
