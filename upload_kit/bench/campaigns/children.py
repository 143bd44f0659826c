"""What forked processes do: serve, and upload."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import upload_kit.destinations.discovery
import upload_kit.destinations.local
import upload_kit.destinations.native  # noqa: F401 (imported before the fork, once)
from upload_kit.bench.campaigns.mounts import mount_small_disk
from upload_kit.config import Compression, RetryPolicy
from upload_kit.errors import UploadKitError
from upload_kit.events import EventKind
from upload_kit.server.config import Durability, ServerConfig
from upload_kit.server.process import serve
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.bench.campaigns.forks import Say

IMPATIENT = RetryPolicy(
    attempts=6, max_elapsed=20.0, base_delay=0.02, max_delay=0.2, max_retry_after=2.0
)
"""Tries again soon and gives up soon: a campaign goes on with it itself."""


def serve_folder(order: Mapping[str, Any], say: Say) -> None:
    """
    Serve a folder until SIGTERM; says `url`.

    Args:
        order: `directory`, and any number of the server's settings.

        say: Where to.
    """
    serve(read_config(order), ready=lambda url: say({"url": url}))


def read_config(order: Mapping[str, Any]) -> ServerConfig:
    """Return the settings of a server, as `serve_folder` takes them."""
    settings = {**order, "directory": Path(order["directory"])}
    if "durability" in settings:
        settings["durability"] = Durability(settings["durability"])
    return ServerConfig(**settings)


def serve_small_disk(order: Mapping[str, Any], say: Say) -> None:
    """
    Serve a folder on a small disk of this process's own, again after each SIGTERM.

    Args:
        order: That of `serve_folder`; besides, the disk's `size`, and `rounds`: the
            settings that differ each time.

        say: Where to; says `url` each time.
    """
    settings = dict(order)
    size, rounds = settings.pop("size"), settings.pop("rounds")
    mount_small_disk(Path(settings["directory"]), size)
    for differing in rounds:
        serve_folder({**settings, **differing}, say)


def upload(order: Mapping[str, Any], say: Say) -> None:
    """
    Upload a file; says `confirmed` for every chunk, then `result` or `error`.

    Args:
        order: `path`, `url`, `session_dir`, `chunk_size`, `parallel`, `compression`.

        say: Where to.
    """
    asyncio.run(_upload(order, say))


async def _upload(order: Mapping[str, Any], say: Say) -> None:
    uploader = ResumableUploader(
        order["url"],
        chunk_size=order["chunk_size"],
        max_parallel=order["parallel"],
        compression=Compression(order["compression"]),
        session_dir=order["session_dir"],
        history=False,
        retry=IMPATIENT,
        stall_timeout=5.0,
        response_timeout=10.0,
    )
    say({"began": True})
    transfer = uploader.start(order["path"])
    async for event in transfer:
        if event.kind is EventKind.CONFIRMED:
            say({"confirmed": event.chunk})
    try:
        result = await transfer
    except UploadKitError as error:
        say({"error": f"{type(error).__name__}: {error}"})
    else:
        say({"result": result.to_dict()})


def upload_small(order: Mapping[str, Any], say: Say) -> None:
    """
    Upload many small files at once; says what became of each.

    That is `name`, and `sha256` and `sent`, or `refused` if no other try could help.

    Args:
        order: `paths`, `url`, `session_dir`, `parallel`.

        say: Where to.
    """
    asyncio.run(_upload_small(order, say))


async def _upload_small(order: Mapping[str, Any], say: Say) -> None:
    uploader = ResumableUploader(
        order["url"],
        max_parallel=order["parallel"],
        session_dir=order["session_dir"],
        keep_sessions=True,
        history=False,
        retry=IMPATIENT,
        stall_timeout=1.5,
        connect_timeout=1.5,
        response_timeout=1.5,
    )

    async def one(path: str) -> None:
        name = Path(path).name
        try:
            result = await uploader.upload_file(path)
        except UploadKitError as error:
            refused = None if error.retryable else f"{type(error).__name__}: {error}"
            say({"name": name} | ({"refused": refused} if refused else {}))
        else:
            say({"name": name, "sha256": result.sha256, "sent": result.bytes_sent})

    say({"began": True})
    async with uploader, asyncio.TaskGroup() as group:
        for path in order["paths"]:
            group.create_task(one(path))
