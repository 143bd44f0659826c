"""
Upload a folder, with one line for all of it, and a list of what went wrong.

    python many_files.py data http://127.0.0.1:8000/
"""

from __future__ import annotations

import sys

import upload_kit as uk
from upload_kit.units import format_rate, format_size


def main(folder: str, destination: str) -> int:
    """Upload what is below the folder, by its path there."""
    job = uk.start_many(folder, destination, parallel=8, progress=None)
    while not job.wait(timeout=1):
        progress = job.progress
        print(f"{format_size(progress.confirmed)}, {format_rate(progress.rate)}")
    failed = [result for result in job.results if not result.success]
    print(f"{job.files - len(failed)} of {job.files} files arrived")
    for result in failed:
        print(f"{result.name}: {result.error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
