"""Two requests never work on the same chunk, in one process or in several."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from upload_kit.server.file_locks import HAS_FILE_LOCKS, FileLocker
from upload_kit.server.locks import LocalLocker
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.storage import UploadMoved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upload_kit.server.locks import Locker

needs_file_locks: Final = pytest.mark.skipif(
    not HAS_FILE_LOCKS, reason="file locks that belong to an open file are Linux's"
)
_ROOT: Final = Path(__file__).parent.parent.parent

# Holds chunk 1 until it is evicted, or until its standard input ends; says so.
_HOLDER: Final = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from upload_kit.server.file_locks import FileLocker

async def main():
    loop = asyncio.get_running_loop()
    evicted = asyncio.Event()
    locker = FileLocker(lambda name: sys.argv[1], ThreadPoolExecutor(2), 20)
    async with locker.hold("u", 1, evicted.set):
        print("held", flush=True)
        if sys.argv[2] == "polite":
            await evicted.wait()
        else:
            await loop.run_in_executor(None, sys.stdin.read)
    print("let go", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def file_locker(path: Path, pool: ThreadPoolExecutor, timeout: float) -> FileLocker:
    return FileLocker(lambda _name: str(path), pool, timeout)


@pytest.fixture(params=["local", pytest.param("file", marks=needs_file_locks)])
def locker(
    request: pytest.FixtureRequest, tmp_path: Path, pool: ThreadPoolExecutor
) -> Locker:
    if request.param == "local":
        return LocalLocker(0.3)
    return file_locker(tmp_path / "lock", pool, 0.3)


def never() -> None:
    pytest.fail("nobody should be evicted")


async def test_different_chunks_are_held_at_once(locker: Locker) -> None:
    """Chunks, and uploads, do not stand in one another's way."""
    async with (
        locker.hold("u", 0, never),
        locker.hold("u", 1, never),
        locker.hold("v", 2, never),
    ):
        pass


@pytest.mark.parametrize(
    ("first", "second"), [(3, 3), (None, 3), (3, None), (None, None)]
)
async def test_same_chunk_is_held_once(
    locker: Locker, first: int | None, second: int | None
) -> None:
    """The newer one asks the older one to let go, and has it only after that."""
    order: list[str] = []
    held, evicted = asyncio.Event(), asyncio.Event()

    async def hold_first() -> None:
        async with locker.hold("u", first, evicted.set):
            order.append("first")
            held.set()
            await evicted.wait()
            order.append("first lets go")

    async with asyncio.TaskGroup() as group:
        group.create_task(hold_first())
        await held.wait()
        async with locker.hold("u", second, never):
            order.append("second")
    assert order == ["first", "first lets go", "second"]


async def test_holder_that_does_not_let_go(locker: Locker) -> None:
    """The wait is bounded, and ends with a problem that says to try again."""
    async with locker.hold("u", 1, lambda: None):
        with pytest.raises(UploadProblem) as caught:
            async with locker.hold("u", 1, never):
                pytest.fail("held twice")
    assert caught.value.type is ProblemType.BUSY
    async with locker.hold("u", 1, never):
        pass


async def test_newest_of_many_wins(locker: Locker) -> None:
    """Of ten that want the same, one after another, each evicts those before it."""
    inside = 0
    evictions: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside
        evicted = asyncio.Event()

        def evict() -> None:
            if number not in evictions:
                evictions.append(number)
            evicted.set()

        async with locker.hold("u", 1, evict):
            inside += 1
            assert inside == 1
            if number != 9:
                await evicted.wait()
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(work(number))
            await asyncio.sleep(0)
    assert sorted(evictions) == list(range(9))


async def test_cancelled_holder_lets_go(locker: Locker) -> None:
    """Nothing stays locked when a holder, or one who waits, is cancelled."""

    async def hold() -> None:
        async with locker.hold("u", 1, lambda: None):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with locker.hold("u", None, never):
        pass


@needs_file_locks
async def test_missing_folder_is_told(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """An upload that is gone cannot be held."""
    locker = file_locker(tmp_path / "gone" / "lock", pool, 1)
    with pytest.raises(UploadMoved):
        async with locker.hold("u", 1, never):
            pass


@needs_file_locks
async def test_processes_exclude_one_another(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Another process lets go when it is asked to, and only then is the chunk ours."""
    path = tmp_path / "lock"
    holder = await start_holder(path, "polite")
    async with file_locker(path, pool, 20).hold("u", 1, never):
        assert holder.stdout is not None
        assert await holder.stdout.read() == b"let go\n"
    assert await holder.wait() == 0


@needs_file_locks
async def test_killed_process_lets_go(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The kernel releases what a killed process held, at once."""
    path = tmp_path / "lock"
    holder = await start_holder(path, "stubborn")
    locker = file_locker(path, pool, 0.3)
    with pytest.raises(UploadProblem):
        async with locker.hold("u", 1, never):
            pytest.fail("held twice")
    async with locker.hold("u", 2, never):
        pass
    holder.kill()
    await holder.wait()
    begun = time.monotonic()
    async with locker.hold("u", 1, never):
        assert time.monotonic() - begun < 0.3


async def start_holder(path: Path, manner: str) -> asyncio.subprocess.Process:
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _HOLDER,
        str(path),
        manner,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(_ROOT)},
    )
    assert holder.stdout is not None
    async with asyncio.timeout(20):
        assert await holder.stdout.readline() == b"held\n"
    return holder
