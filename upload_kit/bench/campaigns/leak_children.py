"""A process that uploads for long, and says now and then what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from upload_kit.bench.campaigns.children import IMPATIENT
from upload_kit.bench.campaigns.watch import memory
from upload_kit.errors import UploadCancelled, UploadKitError
from upload_kit.events import EventKind
from upload_kit.models import Layer
from upload_kit.units import KIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from upload_kit.bench.campaigns.forks import Say
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.options import UploaderOptions

_AT_ONCE: Final = 8
_LARGEST: Final = 600 * KIB
# Of the uploads, how many are cancelled and begun again, and how many go nowhere.
_CANCELLED: Final = 0.1
_NOWHERE: Final = 0.05
# A port that nobody listens on: 1 is tcpmux, which no system runs any more.
_NOBODY: Final = "http://127.0.0.1:1/"


def upload_for_long(order: Mapping[str, Any], say: Say) -> None:
    """
    Upload again and again, in all layers; says `sample` after every so many.

    A sample is how many uploads there were, bytes of memory, and how many descriptors,
    threads and tasks there are.

    Args:
        order: `url`, `folder` for sources and sessions, `uploads`, `every`, `seed`.

        say: Where to.
    """
    asyncio.run(_upload_for_long(order, say))


async def _upload_for_long(order: Mapping[str, Any], say: Say) -> None:
    life = _Life(order)
    for start in range(0, order["uploads"], order["every"]):
        numbers = iter(range(start, start + order["every"]))
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(life.work(numbers))
        _collect()
        tasks = len(asyncio.all_tasks()) - 1
        held = [memory(), _descriptors(), threading.active_count(), tasks]
        say({"sample": [start + order["every"], *held]})


class _Life:
    """Uploads in all layers: half by uploaders of their own, half by one for all."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._url = order["url"]
        self._folder = Path(order["folder"])
        self._seed = order["seed"]
        self._kept = self._make(Layer.POLISH, self._url)

    async def work(self, numbers: Iterator[int]) -> None:
        """Upload one file after another."""
        for number in numbers:
            source = self._folder / f"{number}.bin"
            draw = random.Random(f"{self._seed}/{number}")  # noqa: S311 (to be repeated)
            content = draw.randbytes(draw.randrange(_LARGEST))
            await asyncio.to_thread(source.write_bytes, content)
            with contextlib.suppress(UploadKitError):
                await self._upload(source, draw)
            await asyncio.to_thread(source.unlink)

    async def _upload(self, source: Path, draw: random.Random) -> None:
        uploader, fate = self._kept, draw.random()
        if fate < _NOWHERE:
            uploader = self._make(draw.choice(tuple(Layer)), _NOBODY)
        elif draw.random() < 0.5:
            uploader = self._make(draw.choice(tuple(Layer)), self._url)
        transfer = uploader.start(source)
        if fate > 1 - _CANCELLED:
            await _cancel_midway(transfer)
        try:
            await transfer
        except UploadCancelled:
            await uploader.start(source)

    def _make(self, layer: Layer, url: str) -> ChunkedUploader:
        options: UploaderOptions = {
            "chunk_size": 128 * KIB,
            "retry": IMPATIENT,
            "history": self._folder / "history.db",
        }
        if layer is Layer.FOUNDATION:
            return ChunkedUploader(url, **options)
        if layer is Layer.FEATURE:
            return ParallelUploader(url, **options)
        sessions = self._folder / "sessions"
        return ResumableUploader(url, session_dir=sessions, **options)


async def _cancel_midway(transfer: Transfer) -> None:
    """
    Cancel an upload at its first acknowledged chunk.

    Any earlier, and the server may have begun one that nobody here has heard of, which
    it rightly holds on to until that expires.
    """
    async for event in transfer:
        if event.kind is EventKind.CONFIRMED:
            transfer.cancel()


def _collect() -> None:
    """Give back what is only waiting to be collected: that is no leak."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # Of glibc only.
        ctypes.CDLL(None).malloc_trim(0)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
