"""What forked processes do under load; each says what it has measured."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from upload_kit.bench.campaigns.children import IMPATIENT, read_config
from upload_kit.bench.campaigns.watch import LoopWatch, peak_memory
from upload_kit.models import Receipt, SourceIdentity, UploadSpec, UploadStatus
from upload_kit.server.app import running_server
from upload_kit.server.process import stop_signal, tune_memory
from upload_kit.sessions.manager import SessionManager, open_store
from upload_kit.uploaders.parallel import ParallelUploader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.bench.campaigns.forks import Say
    from upload_kit.server.config import ServerConfig

_PATIENT: Final = 300.0
# Requests at once of whoever makes sessions at a server.
_REQUESTS: Final = 16
# Seconds until sessions expire that are made to.
_SHORT: Final = 1000.0
_ASK: Final = aiohttp.ClientTimeout(total=300)


def serve_watched(order: Mapping[str, Any], say: Say) -> None:
    """
    Serve a folder until SIGTERM; says `url`, and in the end what it measured.

    Args:
        order: That of `serve_folder`.

        say: Where to.
    """
    tune_memory()
    asyncio.run(_serve(read_config(order), say))


async def _serve(config: ServerConfig, say: Say) -> None:
    async with running_server(config) as server, stop_signal() as stop:
        say({"url": server.url})
        async with LoopWatch() as watch:
            await stop.wait()
    say(_measured(watch))


def _measured(watch: LoopWatch) -> dict[str, float]:
    return {
        "step": watch.longest_step,
        "late": watch.latest,
        "memory": peak_memory(),
    }


def upload_many(order: Mapping[str, Any], say: Say) -> None:
    """
    Upload files in one batch; says `results`, and what it measured.

    Args:
        order: `paths`, `url`, `at_once`, `chunk_size`, and `at`: when to begin,
            seconds since the epoch.

        say: Where to.
    """
    asyncio.run(_upload_many(order, say))


async def _upload_many(order: Mapping[str, Any], say: Say) -> None:
    uploader = ParallelUploader(
        order["url"],
        max_parallel=order["at_once"],
        max_connections=order["at_once"],
        chunk_size=order["chunk_size"],
        stall_timeout=_PATIENT,
        history=False,
        retry=IMPATIENT,
    )
    await asyncio.sleep(max(0.0, order["at"] - time.time()))
    async with LoopWatch() as watch:
        results = await uploader.upload_files(order["paths"])
    say(
        {
            "results": [
                [result.name, result.sha256, result.seconds, result.error]
                for result in results
            ],
            **_measured(watch),
        }
    )


def keep_sessions(order: Mapping[str, Any], say: Say) -> None:
    """
    Fill a store with sessions, use it, clean it up; says what it found and how fast.

    Args:
        order: `store`: its place; `sessions`: how many.

        say: Where to.
    """
    asyncio.run(_keep_sessions(order, say))


async def _keep_sessions(order: Mapping[str, Any], say: Say) -> None:
    count = order["sessions"]
    clock = _Clock()
    manager = SessionManager(open_store(order["store"]), ttl=_SHORT, clock=clock)
    async with LoopWatch() as watch:
        began = time.monotonic()
        for index in range(count):
            await _make_session(manager, index)
        made = time.monotonic() - began
        began = time.monotonic()
        wanted = range(0, count, max(1, count // 10))
        found = [await _find_session(manager, index) for index in wanted]
        looked = (time.monotonic() - began) / len(wanted)
        listed = len(await manager.list())
        # The second half is younger than the first by more than their time.
        clock.offset = 1.5 * _SHORT
        removed = len((await manager.cleanup()).removed)
        left = len(await manager.list(expired=True))
    await manager.aclose()
    say(
        {
            "listed": listed,
            "found": sum(found),
            "wanted": len(wanted),
            "removed": removed,
            "left": left,
            "made_per_second": count / made,
            "find_seconds": looked,
            **_measured(watch),
        }
    )


class _Clock:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


def _identity(index: int) -> SourceIdentity:
    return SourceIdentity(size=index, mtime_ns=index, inode=index)


async def _make_session(manager: SessionManager, index: int) -> None:
    session = await manager.create(
        UploadSpec(name=f"{index}.bin", size=index),
        source=f"/data/{index}.bin",
        destination="http://127.0.0.1/",
        chunk_size=1000,
        total_chunks=1,
        identity=_identity(index),
    )
    if index % 10 == 0:
        async with manager.lease(session.session_id) as lease:
            await lease.record(Receipt(index=0, size=index, sha256="0" * 64))


async def _find_session(manager: SessionManager, index: int) -> bool:
    """Whether a session is found by its source, with the receipt it was given."""
    session = await manager.find(
        source=f"/data/{index}.bin",
        name=f"{index}.bin",
        destination="http://127.0.0.1/",
        identity=_identity(index),
    )
    return session is not None and session.status is not UploadStatus.COMPLETE


def begin_many(order: Mapping[str, Any], say: Say) -> None:
    """
    Begin uploads at a server and leave them; says `begun`.

    Args:
        order: `url`, `sessions`.

        say: Where to.
    """
    asyncio.run(_begin_many(order, say))


async def _begin_many(order: Mapping[str, Any], say: Say) -> None:
    numbers = iter(range(order["sessions"]))
    begun = 0

    async def work(client: aiohttp.ClientSession) -> None:
        nonlocal begun
        for number in numbers:
            asked = {"name": f"{number}.bin", "size": 1000, "chunk_size": 100}
            url = f"{order['url']}upload/resumable"
            async with client.post(url, json=asked) as reply:
                begun += reply.status == 201

    async with (
        aiohttp.ClientSession(timeout=_ASK) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(_REQUESTS):
            group.create_task(work(client))
    say({"begun": begun})
