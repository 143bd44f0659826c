"""
Upload a file from a script, and end with an exit code that tells how it went.

    python script.py big.bin http://127.0.0.1:8000/

Run it again after a crash: it goes on where it stopped.
"""

from __future__ import annotations

import sys

import upload_kit as uk


def main(path: str, destination: str) -> int:
    """Upload, print what came of it, and return the exit code."""
    try:
        result = uk.upload(path, destination, chunk_size="1MiB")
    except uk.UploadKitError as error:
        print(f"Not uploaded: {error}", file=sys.stderr)
        return 1
    print(f"{result.location}: {result.size} bytes, compared by {result.verified}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
