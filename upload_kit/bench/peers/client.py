"""
The measured client, in a process of its own: ours, or a peer that is a Python package.

It reads its order from standard input, uploads, and writes one line of JSON. Imports
come before the clock; what a client makes for itself, such as sessions, does not.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.bench.memory import peak_memory
from upload_kit.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable


STORED_NAME: Final = "file.bin"
"""What the file is called, here and there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOrder(Record):
    """What a measured client is to do."""

    client: str
    """Which one."""

    url: str
    """Where to: an endpoint of tus, an S3 endpoint, a Gemini service, or our server."""

    bucket: str = ""
    """Of an S3 service."""

    destination: str
    """The same as a URL of upload_kit."""

    path: str
    """The file."""

    chunk_size: int
    """Bytes a request."""

    parallel: int
    """Requests at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFigures(Record):
    """What one upload took."""

    seconds: float
    """Wall time."""

    cpu_seconds: float
    """User and system time."""

    peak_rss: int
    """Bytes of memory at most, of the whole process."""


def _ours(order: PeerOrder) -> Callable[[], None]:
    from upload_kit.destinations.registry import make_destination
    from upload_kit.uploaders.parallel import ParallelUploader

    # What the destination needs is imported with it, and not measured.
    make_destination(order.destination)
    if order.destination.startswith("http"):
        make_destination(f"native+{order.destination}")

    async def upload() -> None:
        uploader = ParallelUploader(
            order.destination,
            chunk_size=order.chunk_size,
            max_parallel=order.parallel,
            history=False,
        )
        await uploader.upload_file(order.path)

    return lambda: asyncio.run(upload())


def _tuspy(order: PeerOrder) -> Callable[[], None]:
    from tusclient.client import TusClient

    def upload() -> None:
        # tuspyserver asks for a file's type.
        uploader = TusClient(order.url).uploader(
            order.path,
            chunk_size=order.chunk_size,
            metadata={"filename": STORED_NAME, "filetype": "application/octet-stream"},
        )
        uploader.upload()

    return upload


def _boto3(order: PeerOrder) -> Callable[[], None]:
    import boto3  # type: ignore[import-untyped]
    from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

    config = TransferConfig(
        multipart_chunksize=order.chunk_size,
        multipart_threshold=order.chunk_size,
        max_concurrency=order.parallel,
    )

    def upload() -> None:
        client = boto3.client("s3", endpoint_url=order.url)
        client.upload_file(order.path, order.bucket, STORED_NAME, Config=config)
        client.close()

    return upload


def _obstore(order: PeerOrder) -> Callable[[], None]:
    import obstore
    from obstore.store import S3Store

    def upload() -> None:
        # Credentials and region come from the environment.
        store = S3Store(
            order.bucket, endpoint=order.url, client_options={"allow_http": True}
        )
        obstore.put(
            store,
            STORED_NAME,
            Path(order.path),
            use_multipart=True,
            chunk_size=order.chunk_size,
            max_concurrency=order.parallel,
        )

    return upload


def _google_genai(order: PeerOrder) -> Callable[[], None]:
    from google import genai

    def upload() -> None:
        with genai.Client(http_options={"base_url": order.url}) as client:
            client.files.upload(
                file=order.path, config={"mime_type": "application/octet-stream"}
            )

    return upload


CLIENTS: Final = {
    "upload_kit": _ours,
    "tuspy": _tuspy,
    "boto3": _boto3,
    "obstore": _obstore,
    "google-genai": _google_genai,
}
"""How each is made ready; what that returns uploads."""


def run(order: PeerOrder) -> PeerFigures:
    """Upload, and measure this process while it does."""
    upload = CLIENTS[order.client](order)
    cpu, started = _cpu_seconds(), time.perf_counter()
    upload()
    seconds = time.perf_counter() - started
    return PeerFigures(
        seconds=seconds,
        cpu_seconds=_cpu_seconds() - cpu,
        peak_rss=peak_memory(),
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    figures = run(PeerOrder.from_json(sys.stdin.read()))
    sys.stdout.write(figures.to_json() + "\n")
    sys.stdout.flush()
