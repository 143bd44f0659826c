"""The book of bytes and uploads: exact, shared, and mended where it is wrong."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from upload_kit.server.file_locks import try_lock
from upload_kit.server.ledger import Ledger, Usage
from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return str(tmp_path / "ledger") if request.param == "file" else None


def test_quota_holds(path: str | None) -> None:
    """Bytes are counted in and out; none go beyond the quota."""
    ledger = Ledger(path, quota=100, max_sessions=9)
    ledger.begin("ann", 60)
    ledger.reserve(40)
    with pytest.raises(UploadProblem) as caught:
        ledger.reserve(1)
    assert caught.value.type is ProblemType.DISK_FULL
    assert caught.value.retry_after
    ledger.release(40)
    ledger.end("ann", 60)
    assert ledger.read() == Usage()
    ledger.close()


def test_sessions_are_counted_by_owner(path: str | None) -> None:
    """Too many uploads of one owner keep no other owner out."""
    ledger = Ledger(path, quota=None, max_sessions=2)
    ledger.begin("ann", 0)
    ledger.begin("ann", 0)
    with pytest.raises(UploadProblem) as caught:
        ledger.begin("ann", 0)
    assert caught.value.type is ProblemType.TOO_MANY_SESSIONS
    ledger.begin("bob", 0)
    ledger.end("ann")
    ledger.begin("ann", 0)
    assert ledger.read().sessions == {"ann": 2, "bob": 1}
    ledger.close()


def test_count_corrects_the_book(path: str | None) -> None:
    """A count puts the book right, and what happened meanwhile is not lost."""
    ledger = Ledger(path, quota=1000, max_sessions=9)
    ledger.begin("ghost", 500)
    before = ledger.read()
    ledger.begin("ann", 100)
    ledger.correct(before, Usage(size=30, sessions={"bob": 3}))
    assert ledger.read() == Usage(size=130, sessions={"ann": 1, "bob": 3})
    ledger.close()


def test_processes_count_together(tmp_path: Path) -> None:
    """Two books of one file never lose a line to one another."""
    path = str(tmp_path / "ledger")
    one = Ledger(path, quota=10**9, max_sessions=10**6)
    two = Ledger(path, quota=10**9, max_sessions=10**6)

    def count(ledger: Ledger) -> None:
        for _ in range(200):
            ledger.begin("ann", 7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, [one, two, one, two]))
    assert one.read() == two.read() == Usage(size=5600, sessions={"ann": 800})
    one.close()
    two.close()


def test_book_that_another_process_holds(tmp_path: Path) -> None:
    """Whoever stopped with the book in his hands holds the others up for a while."""
    path = str(tmp_path / "ledger")
    ledger = Ledger(path, quota=1, max_sessions=1, patience=0.1)
    holder = os.open(path, os.O_RDWR)
    assert try_lock(holder, 0, 0)
    with pytest.raises(UploadProblem) as caught:
        ledger.begin("ann", 1)
    assert caught.value.type is ProblemType.BUSY
    os.close(holder)
    ledger.begin("ann", 1)
    ledger.close()


@pytest.mark.parametrize("content", [b"", b'{"size": 1', b"\x00" * 40])
def test_torn_book_begins_anew(tmp_path: Path, content: bytes) -> None:
    """What a kill left half written stops nobody."""
    file = tmp_path / "ledger"
    file.write_bytes(content)
    ledger = Ledger(str(file), quota=10, max_sessions=1)
    ledger.reserve(10)
    assert ledger.read().size == 10
    ledger.close()
