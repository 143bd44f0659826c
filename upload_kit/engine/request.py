"""What an upload is asked to do, and what it shares with others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upload_kit.mime import detect_mime_type, type_by_name
from upload_kit.models import UploadSpec
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from upload_kit.buffers import BufferPool
    from upload_kit.config import TransferPolicy
    from upload_kit.destinations.base import Destination
    from upload_kit.sessions.base import SessionKeeper
    from upload_kit.sessions.history import HistoryRow
    from upload_kit.sources.base import Source
    from upload_kit.throttle import BandwidthThrottle


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all uploads of one uploader share."""

    destination: Destination
    """Where they go."""

    shown: str
    """The destination's URL without secrets."""

    pool: BufferPool
    """Memory for chunks."""

    slots: asyncio.Semaphore
    """Chunks on the wire at once."""

    throttle: BandwidthThrottle | None = None
    """Bandwidth limit."""

    keeper: SessionKeeper | None = None
    """Finds and makes sessions; None: uploads have none."""

    record: Callable[[HistoryRow], None] | None = None
    """Takes a row for the history; must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """What one upload is asked to do, besides its source."""

    content_type: str | None = None
    """MIME type; None to detect it."""

    metadata: dict[str, str] = field(default_factory=dict)
    """Kept beside the bytes at the destination."""

    session_id: str | None = None
    """The session to go on with; None to find or make one."""

    via: tuple[str, ...] = ()
    """IDs of the servers that it came through."""


async def describe(
    source: Source, request: UploadRequest, policy: TransferPolicy
) -> UploadSpec:
    """Return what a destination needs to know of an opened source."""
    content_type = request.content_type or type_by_name(source.name)
    if content_type is None:
        # Looking at the content reads files, the first time.
        content_type = await in_thread(detect_mime_type, source.name, source.head)
    return UploadSpec(
        name=source.name,
        size=source.size,
        content_type=content_type,
        metadata=request.metadata,
        overwrite=policy.overwrite,
        whole_digest=policy.whole_digest,
        via=request.via,
    )
