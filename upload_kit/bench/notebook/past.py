"""A long past: a history of many uploads that never were."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from upload_kit.models import Layer, UploadStatus, Verification
from upload_kit.sessions.history import History, HistoryRow

if TYPE_CHECKING:
    from pathlib import Path

# A history keeps no more rows than 10,000 waiting.
_BATCH: Final = 5000


def write_past(path: Path, count: int) -> None:
    """Write a history of so many uploads; blocks."""
    asyncio.run(_write(path, count))


async def _write(path: Path, count: int) -> None:
    history = History(path)
    try:
        for index in range(count):
            history.add(_row(index))
            if index % _BATCH == _BATCH - 1:
                await history.flush()
        await history.flush()
    finally:
        await history.aclose()


def _row(index: int) -> HistoryRow:
    began = 1_700_000_000.0 + 60 * index
    return HistoryRow(
        transfer_id=f"{index:032x}",
        started_at=began,
        finished_at=began + 2.5,
        name=f"shard-{index:05}.parquet",
        source=f"/data/shard-{index:05}.parquet",
        destination="https://store.example.org/",
        layer=list(Layer)[index % 3],
        status=UploadStatus.COMPLETE,
        size=25_000_000 + index,
        bytes_sent=25_000_000 + index,
        seconds=2.5,
        rate=1e7,
        chunks=5,
        chunk_size=5 << 20,
        max_parallel=3,
        retries=index % 2,
        retry_causes={"RemoteUnavailable": 1} if index % 2 else {},
        sha256=f"{index:064x}",
        verified=Verification.SHA256,
        rtt=0.05,
    )
