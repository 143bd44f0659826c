"""What a kill leaves right after a file arrived, and before that was written down."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from upload_kit.models import UploadStatus, Verification
from upload_kit.sessions.manager import SessionManager, open_store

if TYPE_CHECKING:
    from pathlib import Path


async def forget_the_end(place: Path) -> None:
    """Have every session say that its upload, which is complete, is under way."""
    async with aclosing(SessionManager(open_store(place))) as manager:
        found = await manager.list(status=UploadStatus.COMPLETE.value)
        assert found
        for session in found:
            begun = replace(
                session,
                status=UploadStatus.UPLOADING,
                stored=None,
                verified=Verification.NONE,
            )
            await manager.store.put(begun, expected=session.version)
