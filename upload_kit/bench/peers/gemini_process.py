"""The Gemini service in a process of its own; it says its URL and runs until killed."""

from __future__ import annotations

import asyncio
import sys

from upload_kit.bench.peers.gemini_server import GeminiServer
from upload_kit.units import MIB


async def _run() -> None:
    # 8 MiB is what Google's own service asks for; nothing but digests is kept.
    async with GeminiServer(granularity=8 * MIB, commit=MIB, keep=False) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run())
