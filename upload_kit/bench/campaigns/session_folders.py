"""A client's folder of sessions, seen from beside it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from upload_kit.config import DEFAULT_SESSION_TTL
from upload_kit.sessions.manager import SessionManager, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.models import UploadSession

# What a store needs for itself; it stays where it is.
_KEPT: Final = frozenset({".lock"})


async def read_sessions(folder: Path) -> list[UploadSession]:
    """Return every session of a folder, with its receipts."""
    if not await asyncio.to_thread(folder.exists):
        return []
    store = open_store(folder)
    try:
        heads = [session async for session in store.scan()]
        whole = [await store.get(head.session_id) for head in heads]
    finally:
        await store.aclose()
    return [session for session in whole if session is not None]


async def acknowledged_bytes(folder: Path) -> int:
    """Return the bytes that the sessions of a folder say were acknowledged."""
    return sum(
        receipt.size
        for session in await read_sessions(folder)
        for receipt in session.receipts
    )


async def expire_sessions(folder: Path) -> list[str]:
    """
    Let the time of every session go by, clean up, and say what is left.

    The clock is the manager's own, set to when everything has expired.
    """
    if not await asyncio.to_thread(folder.exists):
        return []
    manager = SessionManager(
        open_store(folder), clock=lambda: time.time() + 2 * DEFAULT_SESSION_TTL
    )
    try:
        await manager.cleanup()
    finally:
        await manager.aclose()
    return await asyncio.to_thread(_files, folder)


def _files(folder: Path) -> list[str]:
    return [
        f"{path.name} is left in the folder of sessions"
        for path in folder.iterdir()
        if path.name not in _KEPT
    ]
