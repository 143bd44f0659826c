"""Thousands of uploads by one process to one server, and what both hold on to."""

from __future__ import annotations

import asyncio
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.bench.campaigns.forked import ForkedCampaign
from upload_kit.bench.campaigns.outcome import Figure
from upload_kit.bench.campaigns.servers import ForkedServer
from upload_kit.units import KIB

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from upload_kit.bench.campaigns.forks import ForkServer
    from upload_kit.bench.campaigns.outcome import Findings

_CALL: Final = "upload_kit.bench.campaigns.leak_children:upload_for_long"
_LONG: Final = 200.0
# Samples of a run; those of the first half are warming up: an uploader remembers the
# newest thousand of its uploads.
_SAMPLES: Final = 20
# KiB of memory for every thousand uploads: less than half a page each, which is less
# than anything that could be held on to of an upload.
_SLOPE: Final = 1024.0
# Uploads after which a leak of memory or threads can be told from warming up.
_ENOUGH: Final = 4000


class LeakCampaign(ForkedCampaign):
    """
    Uploads for long in one process, some of them cancelled, some in vain.

    Args:
        uploads: How many.
    """

    def __init__(self, uploads: int = _ENOUGH) -> None:
        super().__init__("leak")
        self._uploads = uploads

    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload, and watch what the two processes hold."""
        server = ForkedServer(forks, place / "store", durability="page-cache")
        await server.start()
        order = {
            "url": server.url,
            "folder": str(place),
            "uploads": self._uploads,
            "every": self._uploads // _SAMPLES,
            "seed": draw.getrandbits(64),
        }
        client = await forks.fork(_CALL, order)
        ours: list[list[int]] = []
        theirs: list[list[int]] = []
        while (said := await client.hear(_LONG)) is not None:
            ours.append(said["sample"])
            held = await asyncio.to_thread(_look, server.process.pid)
            theirs.append([said["sample"][0], *held])
        findings.tries = ours[-1][0] if ours else 0
        if findings.tries < self._uploads:
            findings.blame(f"the process died after {findings.tries} uploads")
        else:
            _judge("client", ours, findings)
            _judge("server", theirs, findings)
        await server.stop()


def _look(pid: int) -> list[int]:
    """Return memory, descriptors, threads of another process; Linux only, blocking."""
    place = Path(f"/proc/{pid}")
    pages = int((place / "statm").read_text().split()[1])
    files = len(list((place / "fd").iterdir()))
    threads = len(list((place / "task").iterdir()))
    return [pages * os.sysconf("SC_PAGE_SIZE"), files, threads]


def _judge(whose: str, samples: Sequence[Sequence[int]], findings: Findings) -> None:
    """Note what grew between the middle and the end."""
    warm = samples[len(samples) // 2 :]
    is_warm = samples[-1][0] >= _ENOUGH
    slope = statistics.linear_regression(
        [sample[0] for sample in warm], [sample[1] for sample in warm]
    ).slope
    findings.figures.append(
        Figure(
            name=f"{whose}: memory, KiB per 1,000 uploads",
            value=1000 * slope / KIB,
            limit=_SLOPE if is_warm else None,
        )
    )
    for place, what in enumerate(("descriptors", "threads", "tasks"), start=2):
        if place < len(warm[0]):
            held = [sample[place] for sample in warm]
            limit = max(held[: len(held) // 2])
            findings.figures.append(
                Figure(
                    name=f"{whose}: {what} in the end",
                    value=held[-1],
                    limit=limit if is_warm or what != "threads" else None,
                )
            )
