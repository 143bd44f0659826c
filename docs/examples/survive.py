"""
Sessions in one's own hands: an upload that any process can go on with.

    python survive.py begin big.bin http://127.0.0.1:8000/     prints the session's ID
    python survive.py resume http://127.0.0.1:8000/ ID         as often as it takes

The first one may be killed in any way; the second one sends only what is missing.
"""

from __future__ import annotations

import asyncio
import sys

from upload_kit import ResumableUploader, UploadProgress

CHUNK = 500_000


def tell(progress: UploadProgress) -> None:
    """Print a line a change."""
    print(f"{progress.confirmed}/{progress.total}", flush=True)


async def begin(path: str, destination: str) -> None:
    """Make a session, say which, and upload slowly enough to be interrupted."""
    uploader = ResumableUploader(
        destination, chunk_size=CHUNK, bandwidth_limit=2_000_000, on_progress=tell
    )
    session = await uploader.create_session(path)
    print(session.session_id, flush=True)
    await uploader.upload_file_resumable(path, session.session_id)


async def resume(destination: str, session_id: str) -> None:
    """Go on with the file that the session remembers."""
    result = await ResumableUploader(destination).resume(session_id)
    print(f"{result.bytes_resumed} bytes were there, {result.bytes_sent} were sent")
    print(f"compared by {result.verified}: {result.sha256}")


if __name__ == "__main__":
    command = {"begin": begin, "resume": resume}[sys.argv[1]]
    asyncio.run(command(*sys.argv[2:]))
