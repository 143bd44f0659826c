"""
An async application that uploads beside its other work.

    python async_app.py http://127.0.0.1:8000/

One uploader serves the whole application: its connections, its limit on chunks and its
memory are shared by all uploads.
"""

from __future__ import annotations

import asyncio
import sys

from upload_kit import ParallelUploader


async def measure(results: asyncio.Queue[tuple[str, bytes] | None]) -> None:
    """Stand for whatever the application does."""
    for number in range(5):
        await asyncio.sleep(0)
        await results.put((f"measurement-{number}.csv", b"time,value\n" * 50_000))
    await results.put(None)


async def keep(
    results: asyncio.Queue[tuple[str, bytes] | None], uploader: ParallelUploader
) -> None:
    """Upload what comes out of the queue, as it comes."""
    async with asyncio.TaskGroup() as uploads:
        while (item := await results.get()) is not None:
            name, data = item
            uploads.create_task(uploader.upload_file(data, name=name))


async def main(destination: str) -> None:
    """Measure and upload at the same time."""
    # Whoever produces faster than it can be uploaded waits.
    results: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(maxsize=2)
    async with ParallelUploader(destination, max_parallel=4) as uploader:
        async with asyncio.TaskGroup() as work:
            work.create_task(measure(results))
            work.create_task(keep(results, uploader))
        total = uploader.total_progress
    print(f"{total.confirmed} of {total.total} bytes arrived")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
