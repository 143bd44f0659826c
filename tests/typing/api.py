"""
The public names as users write them, read by mypy and never run.

What is here keeps its types: a change that breaks a line breaks a user's program.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import upload_kit as uk
from upload_kit import (
    BandwidthThrottle,
    ChunkedUploader,
    ChunkMetadata,
    Compression,
    EventKind,
    FileUploadTask,
    ParallelUploader,
    ResumableUploader,
    RetryPolicy,
    Secret,
    Stage,
    StreamingProgress,
    Transfer,
    UploadEvent,
    UploadKitError,
    UploadProgress,
    UploadResult,
    UploadSession,
    UploadStatus,
    Verification,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def on_progress(progress: UploadProgress) -> None:
    assert_type(progress.percent, float | None)
    assert_type(progress.confirmed, int)
    assert_type(progress.eta, float | None)
    assert_type(progress.stage, Stage)


async def in_the_loop(progress: UploadProgress) -> None:
    assert_type(progress.status, UploadStatus)


async def pieces() -> AsyncIterator[bytes]:
    yield b"1"


async def foundation() -> None:
    plain = ChunkedUploader("file:///srv/store", on_progress=on_progress)
    result = await plain.upload_file("big.bin")
    assert_type(result, UploadResult)
    assert_type(result.success, bool)
    assert_type(result.chunks, tuple[ChunkMetadata, ...])
    assert_type(result.verified, Verification)
    assert_type(result.location, str | None)
    assert_type(UploadResult.from_json(result.to_json()), UploadResult)
    async with ChunkedUploader(
        "http://127.0.0.1:8000/",
        chunk_size=5 * 1024 * 1024,
        on_progress=in_the_loop,
        retry=RetryPolicy(attempts=3, base_delay=0.1),
        token=Secret("t"),
        headers={"X-Project": "seven"},
        overwrite=False,
        whole_digest=True,
        stall_timeout=10.0,
        read_timeout=60.0,
        memory_budget=2**20,
        max_connections=4,
        history=False,
    ) as full:
        assert_type(full, ChunkedUploader)
        await full.upload_file(Path("big.bin"), name="other.bin")
        await full.upload_file(b"bytes", content_type="text/plain")
        await full.upload_file(io.BytesIO(b"1"), size=1, metadata={"run": "7"})
        await full.upload_file(pieces())


async def feature() -> None:
    uploader = ParallelUploader("http://127.0.0.1:8000/", max_parallel=5)
    async for line in uploader.upload_file_streaming("big.bin"):
        assert_type(line, str)
        assert_type(StreamingProgress.from_json(line), StreamingProgress)
    async for event in uploader.upload_file_sse("big.bin"):
        assert_type(event, str)
    async for state in uploader.stream_file("big.bin"):
        assert_type(state, StreamingProgress)
        assert_type(state.result, UploadResult | None)
    results = await uploader.upload_files(["a.bin", Path("b.bin"), b"bytes"])
    assert_type(results, list[UploadResult])
    await uploader.upload_files({"a": b"1", "b": "b.bin"})
    assert_type(uploader.tracker.tasks, tuple[FileUploadTask, ...])
    assert_type(uploader.total_progress, UploadProgress)


async def polish() -> None:
    throttle = BandwidthThrottle(10_000_000)
    uploader = ResumableUploader(
        "http://127.0.0.1:8000/",
        session_dir=".uploads",
        session_ttl=3600.0,
        keep_sessions=True,
        cleanup_interval=60.0,
        throttle=throttle,
        compression="auto",
        chunk_size=2**20,
    )
    ResumableUploader("memory://x/", compression=Compression.ZSTD)
    ResumableUploader("memory://x/", bandwidth_limit=10_000_000)
    ResumableUploader(api_key="key")
    session = await uploader.create_session("big.bin")
    assert_type(session, UploadSession)
    assert_type(session.session_id, str)
    assert_type(session.chunks_completed, int)
    assert_type(session.total_chunks, int | None)
    result = await uploader.upload_file_resumable("big.bin", session.session_id)
    assert_type(result, UploadResult)
    assert_type(await uploader.resume(session.session_id), UploadResult)
    assert_type(await uploader.sessions(), list[UploadSession])
    report = await uploader.cleanup()
    assert_type(report.removed, tuple[str, ...])
    assert_type(uploader.bandwidth_limit, float | None)
    uploader.bandwidth_limit = None


async def handle() -> None:
    transfer = ParallelUploader("memory://x/").start(b"1", name="one")
    assert_type(transfer, Transfer)
    transfer.pause()
    transfer.resume()
    transfer.cancel()
    assert_type(transfer.done(), bool)
    assert_type(transfer.progress, UploadProgress)
    async for event in transfer:
        assert_type(event, UploadEvent)
        assert_type(event.kind, EventKind)
    try:
        assert_type(await transfer, UploadResult)
        assert_type(transfer.result(timeout=5.0), UploadResult)
    except UploadKitError as error:
        assert_type(error.hint, str | None)
        assert_type(error.session_id, str | None)


def every_layer(uploader: ChunkedUploader) -> UploadResult:
    return asyncio.run(uploader.upload_file("big.bin"))


every_layer(ParallelUploader("memory://x/"))
every_layer(ResumableUploader("memory://x/"))


def notebook() -> None:
    result = uk.upload("big.bin", "memory://x/")
    assert_type(result, UploadResult)
    job = uk.start("big.bin", "memory://x/")
    job.pause()
    job.resume()
    job.cancel()
    assert_type(job.result(), UploadResult)


# What must not be accepted; mypy says if one of these ever is.
ChunkedUploader(7)  # type: ignore[arg-type] # A destination is a URL.
ChunkedUploader("memory://x/", chunksize=1)  # type: ignore[call-arg] # Misspelt.
ParallelUploader("memory://x/", max_parallel="3")  # type: ignore[arg-type] # A number.
UploadProgress("t", "n")  # type: ignore[call-arg] # Keywords only.
