"""
What the measured kernel runs, as a person's cells do: through the public names.

Each function prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import time
from typing import TYPE_CHECKING, Final, Literal

import upload_kit as uk

if TYPE_CHECKING:
    from collections.abc import Callable

_START_SECONDS: Final = 30.0


def upload(path: str, url: str, *, progress: Literal["widget"] | None) -> None:
    """Upload a file, with a panel or without; print the seconds and the CPU seconds."""
    cpu, began = _cpu_seconds(), time.perf_counter()
    uk.upload(path, url, layer="feature", progress=progress)
    seconds = time.perf_counter() - began
    _tell(seconds=seconds, cpu=_cpu_seconds() - cpu)


def upload_beside(
    path: str, url: str, *, work: str, seconds: float, limit: float
) -> None:
    """
    Upload in the background while this cell works; print the share of the limit.

    Args:
        path: A file that takes longer.

        url: Where to.

        work: `sleep` or `compute`.

        seconds: How long the cell works.

        limit: Bytes a second.
    """
    job = uk.start(
        path,
        url,
        limit=limit,
        chunk_size="1MB",
        # The limit is one of bytes on the wire.
        compression="off",
        progress="widget",
    )
    deadline = time.monotonic() + _START_SECONDS
    while not job.progress.confirmed and time.monotonic() < deadline:
        time.sleep(0.01)
    # What the limit lets through in one go at the start is no pace.
    time.sleep(seconds / 3)
    before, began = job.progress.sent, time.perf_counter()
    _WORK[work](seconds)
    rate = (job.progress.sent - before) / (time.perf_counter() - began)
    job.cancel()
    job.wait(_START_SECONDS)
    _tell(share=rate / limit)


def load_history(path: str) -> None:
    """Read the history into a DataFrame; print the seconds that it takes."""
    began = time.perf_counter()
    frame = uk.history(path=path)
    _tell(seconds=time.perf_counter() - began, rows=len(frame))


def _compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(number * number for number in range(1000))


_WORK: Final[dict[str, Callable[[float], None]]] = {
    "sleep": time.sleep,
    "compute": _compute,
}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _tell(**figures: float) -> None:
    print(json.dumps(figures))  # noqa: T201 (what a cell prints is how it answers)
