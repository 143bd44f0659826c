"""What the campaigns found in `file://`: each case failed before it was mended."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import pytest

from upload_kit.config import ConnectionOptions
from upload_kit.destinations.local import EXPIRES_AFTER, LocalDestination
from upload_kit.errors import RemoteGone, RemoteUnavailable
from upload_kit.locations import parse_location
from upload_kit.models import ChunkMetadata, UploadSpec
from upload_kit.planning import Plan
from upload_kit.threads import in_thread
from upload_kit.uploaders.chunked import ChunkedUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

CONTENT: Final = b"of the first upload"


class HeldPiece(bytes):
    """Bytes that hold up whichever thread is about to write them."""

    reached: threading.Event
    go_on: threading.Event

    def __bool__(self) -> bool:
        """Wait until the test says so."""
        self.reached.set()
        self.go_on.wait(10)
        return True


class OneBody:
    """A chunk of one piece."""

    encoding = None

    def __init__(self, piece: bytes) -> None:
        self._piece = piece
        self.size = len(piece)

    async def stream(self, skip: int = 0) -> AsyncIterator[memoryview]:
        """Yield the piece; it only has to look like a view."""
        yield cast("memoryview", self._piece)

    async def read(self) -> memoryview:
        """Return the piece."""
        return memoryview(self._piece)

    def hold(self) -> None:
        """Wait for nothing."""

    async def digest(self, algorithm: str, skip: int = 0) -> bytes:
        """Return its digest."""
        return hashlib.new(algorithm, self._piece).digest()


def hidden(folder: Path, ending: str = "") -> list[Path]:
    return sorted(folder.glob(f".upload_kit-*{ending}"))


def age(paths: list[Path], seconds: float) -> None:
    stamp = time.time() - seconds
    for path in paths:
        os.utime(path, (stamp, stamp))


def destination(folder: Path) -> LocalDestination:
    return LocalDestination(
        parse_location(folder.as_uri()), ConnectionOptions(response_timeout=0.3)
    )


SPEC: Final = UploadSpec(name="a.bin", size=len(CONTENT))
PLAN: Final = Plan(size=len(CONTENT), chunk_size=len(CONTENT))


async def test_cancelled_write_never_reaches_another_file(tmp_path: Path) -> None:
    """A thread that is left behind writes to its own file, or not at all."""
    piece = HeldPiece(CONTENT)
    piece.reached, piece.go_on = threading.Event(), threading.Event()
    remote = await destination(tmp_path).open(SPEC, PLAN)
    chunk = ChunkMetadata(index=0, start=0, size=len(CONTENT))
    putting = asyncio.create_task(remote.put(chunk, OneBody(piece)))
    await asyncio.to_thread(piece.reached.wait, 10)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    bystanders = [tmp_path / f"bystander-{index}" for index in range(20)]
    # Whatever descriptor was let go of is given to one of these.
    files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in bystanders]
    piece.go_on.set()
    await asyncio.gather(*(in_thread(time.sleep, 0.05) for _ in range(8)))
    sizes = [os.fstat(file).st_size for file in files]
    for file in files:
        os.close(file)
    assert sizes == [0] * 20


@pytest.mark.parametrize("call", ["held", "reopen"])
async def test_disk_that_hangs_is_given_up(tmp_path: Path, call: str) -> None:
    """Asking and reopening end in time, with an error that is worth another try."""
    there = destination(tmp_path)
    remote = await there.open(SPEC, PLAN)
    # Opening a FIFO for reading waits for a writer, as opening a file on a dead
    # network mount waits for its server.
    (journal,) = hidden(tmp_path, "journal")
    journal.rename(journal.with_name("aside"))
    os.mkfifo(journal)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "held": remote.held,
        "reopen": lambda: there.reopen(SPEC, PLAN, remote.token),
    }
    began = time.monotonic()
    try:
        with pytest.raises(RemoteUnavailable):
            await calls[call]()
        assert time.monotonic() - began < 5
    finally:
        os.close(os.open(journal, os.O_RDWR))


@pytest.mark.parametrize("old", [EXPIRES_AFTER - 60, EXPIRES_AFTER + 60], ids=str)
async def test_half_done_uploads_expire(tmp_path: Path, old: float) -> None:
    """What nobody goes on with is removed by a later upload into the same folder."""
    await destination(tmp_path).open(SPEC, PLAN)
    left = hidden(tmp_path)
    assert len(left) == 2
    age(left, old)
    uploader = ChunkedUploader(tmp_path.as_uri(), history=False)
    await uploader.upload_file(CONTENT, name="b.bin")
    assert hidden(tmp_path) == ([] if old > EXPIRES_AFTER else left)


@pytest.mark.parametrize(
    ("sha256", "other"),
    [(hashlib.sha256(CONTENT).hexdigest(), "0" * 64), (None, None)],
    ids=["whole-digest", "chunk-digests"],
)
async def test_publishing_again_is_harmless(
    tmp_path: Path, sha256: str | None, other: str | None
) -> None:
    """Whoever heard no answer may ask again; what stands there is what was sent."""
    remote = await destination(tmp_path).open(SPEC, PLAN)
    chunk = ChunkMetadata(index=0, start=0, size=len(CONTENT))
    receipt = await remote.put(chunk, OneBody(CONTENT))
    first = await remote.complete([receipt], sha256=sha256)
    assert await remote.complete([receipt], sha256=sha256) == first
    with pytest.raises(RemoteGone):
        await remote.complete([replace(receipt, sha256="0" * 64)], sha256=other)
    (tmp_path / SPEC.name).write_bytes(CONTENT + b".")
    with pytest.raises(RemoteGone):
        await remote.complete([receipt], sha256=sha256)


async def test_killed_between_its_two_names(tmp_path: Path) -> None:
    """A file that must not be replaced has two names for a moment: it is the same."""
    spec = replace(SPEC, overwrite=False)
    begun = await destination(tmp_path).open(spec, PLAN)
    chunk = ChunkMetadata(index=0, start=0, size=len(CONTENT))
    receipt = await begun.put(chunk, OneBody(CONTENT))
    (part,) = hidden(tmp_path, "part")
    (tmp_path / SPEC.name).hardlink_to(part)
    remote = await destination(tmp_path).reopen(spec, PLAN, begun.token)
    assert len(await remote.held()) == 1
    stored = await remote.complete([receipt], sha256=receipt.sha256)
    assert stored.sha256 == receipt.sha256
    assert hidden(tmp_path) == []


async def test_half_of_a_pair_keeps_the_other_half(tmp_path: Path) -> None:
    """An upload whose bytes still come is kept, however old its journal is."""
    await destination(tmp_path).open(SPEC, PLAN)
    age(hidden(tmp_path, "journal"), 2 * EXPIRES_AFTER)
    await ChunkedUploader(tmp_path.as_uri(), history=False).upload_file(b"", name="b")
    assert len(hidden(tmp_path)) == 2
