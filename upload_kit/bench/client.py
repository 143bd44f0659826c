"""
The measured client, in a process of its own, so that its memory and time are its own.

It reads its order from standard input, uploads, and writes one line of JSON.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from upload_kit.bench.cases import Case
from upload_kit.bench.memory import peak_memory
from upload_kit.models import Layer, UploadResult
from upload_kit.records import Record
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOrder(Record):
    """What a measured client is to do."""

    case: Case
    """How to upload."""

    url: str
    """Where to."""

    sources: tuple[str, ...]
    """Paths of the files."""

    state: str
    """Folder for sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFigures(Record):
    """What one run of a client took."""

    seconds: float
    """Wall time of the upload, without start and imports."""

    cpu_seconds: float
    """User and system time of the upload."""

    peak_rss: int
    """Bytes of memory at most, of the whole process."""

    results: int
    """Uploads that succeeded."""

    retries: int
    """Tries after the first."""

    verified: str
    """The weakest verification of all uploads."""


def make_uploader(order: ClientOrder) -> ChunkedUploader:
    """Return the uploader of a case; no row of it enters the user's history."""
    case, url = order.case, order.url
    if case.layer is Layer.FOUNDATION:
        return ChunkedUploader(
            url,
            chunk_size=case.chunk_size,
            whole_digest=case.whole_digest,
            history=False,
        )
    if case.layer is Layer.FEATURE:
        return ParallelUploader(
            url,
            chunk_size=case.chunk_size,
            max_parallel=case.parallel,
            whole_digest=case.whole_digest,
            history=False,
        )
    return ResumableUploader(
        url,
        chunk_size=case.chunk_size,
        max_parallel=case.parallel,
        bandwidth_limit=case.limit,
        session_dir=order.state,
        history=False,
    )


async def _upload(order: ClientOrder) -> list[UploadResult]:
    uploader = make_uploader(order)
    if isinstance(uploader, ParallelUploader) and len(order.sources) > 1:
        return await uploader.upload_files(Path(path) for path in order.sources)
    return [await uploader.upload_file(path) for path in order.sources]


def run(order: ClientOrder) -> ClientFigures:
    """Upload, and measure this process while it does."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    results = asyncio.run(_upload(order))
    seconds = time.perf_counter() - started
    return ClientFigures(
        seconds=seconds,
        cpu_seconds=_cpu_seconds() - cpu,
        peak_rss=peak_memory(),
        results=sum(result.success for result in results),
        retries=sum(result.retries for result in results),
        verified=min((result.verified.value for result in results), default=""),
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.stdout.write(run(ClientOrder.from_json(sys.stdin.read())).to_json() + "\n")
