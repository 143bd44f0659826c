"""Status documents: what is answered about an upload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from upload_kit.models import ChunkMetadata
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.forward_record import Forward
    from upload_kit.server.storage import StoredUpload, UploadInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One upload at one moment."""

    info: UploadInfo
    """What is known of it."""

    chunks: Mapping[int, ChunkMetadata]
    """Every chunk that counts."""

    touched_at: float
    """When a chunk was last acknowledged, or the upload began or was published."""

    @classmethod
    def of(cls, upload: StoredUpload) -> Self:
        """Return an open upload as it is known now."""
        return cls(info=upload.info, chunks=upload.chunks, touched_at=upload.touched_at)

    @property
    def is_complete(self) -> bool:
        """Whether the file is published."""
        return self.info.completed_at is not None

    @property
    def received_bytes(self) -> int:
        """Bytes of all chunks that count."""
        return sum(chunk.size for chunk in list(self.chunks.values()))


def total_chunks(info: UploadInfo) -> int | None:
    """Return how many chunks there are; an empty file has one; None if not known."""
    if info.size is None:
        return None
    return max(1, -(-info.size // info.chunk_size))


def missing_ranges(received: Iterable[int], total: int | None) -> list[list[int]]:
    """
    Return what lies between the indexes, as ranges.

    Args:
        received: Indexes, in any order.

        total: How many there will be; None looks for gaps below the highest only.
    """
    ranges = []
    expected = 0
    for index in sorted(received):
        if index > expected:
            ranges.append([expected, index])
        expected = index + 1
    if total is not None and expected < total:
        ranges.append([expected, total])
    return ranges


def status_document(
    snapshot: Snapshot,
    config: ServerConfig,
    *,
    with_chunks: bool = False,
    forward: Forward | None = None,
) -> dict[str, object]:
    """Return the status document of docs/dev/native-protocol.md."""
    info, complete = snapshot.info, snapshot.is_complete
    # What grows at its end has one chunk, and that once it is whole.
    chunks = dict(snapshot.chunks) if complete or not info.grows else {}
    total = total_chunks(info)
    listed = [chunks[i] for i in sorted(chunks)] if with_chunks else None
    return {
        "session_id": info.upload_id,
        "name": info.name,
        "size": info.size,
        "content_type": info.content_type,
        "metadata": info.metadata,
        "state": "complete" if complete else "uploading",
        "chunk_size": info.chunk_size,
        "total_chunks": total,
        "received_chunks": len(chunks),
        "received_bytes": snapshot.received_bytes,
        "missing": [] if complete else missing_ranges(chunks, total),
        "created_at": info.created_at,
        "updated_at": snapshot.touched_at,
        "expires_at": None if complete else snapshot.touched_at + config.expires_after,
        "durability": config.durability,
        "sha256": info.sha256,
        "stored_as": None if forward and forward.removed else info.stored_as,
        "location": f"upload/status/{info.upload_id}",
        "chunks": listed,
        "forwarded": None if forward is None else forward.document(),
    }
