"""
A program that receives: the server inside it, with a token, and what came in.

    python own_server.py store open-sesame

It prints its URL, uploads something to itself, and lists what it stored.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from upload_kit import AuthenticationFailed, ChunkedUploader, Secret
from upload_kit.server import Durability, ServerConfig, running_server


async def main(folder: str, token: str) -> None:
    """Serve, upload with the token and without, and end."""
    config = ServerConfig(
        directory=folder,
        port=0,
        tokens=(Secret(f"me:{token}"),),
        durability=Durability.PAGE_CACHE,
        max_size=1_000_000,
    )
    async with running_server(config) as server:
        print(f"Listening at {server.url}")
        await ChunkedUploader(server.url, token=token).upload_file(b"1", name="a.txt")
        try:
            await ChunkedUploader(server.url).upload_file(b"2", name="b.txt")
        except AuthenticationFailed as error:
            print(f"Refused: {error.message}")


def list_files(folder: str) -> None:
    """Print what was published."""
    files = Path(folder, "files").rglob("[!.]*")
    print("Stored:", *sorted(path.name for path in files if path.is_file()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    list_files(sys.argv[1])
