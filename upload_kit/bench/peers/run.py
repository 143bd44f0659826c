"""Runs cases in rounds, every client in a process of its own; measures both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

from upload_kit.bench.peers.cases import PeerCase
from upload_kit.bench.peers.client import STORED_NAME, PeerOrder
from upload_kit.bench.peers.programs import missing, run_client
from upload_kit.bench.peers.servers import PeerServers
from upload_kit.bench.run import cpu_seconds, make_file, warm_memory
from upload_kit.bench.workplace import Workplace
from upload_kit.records import Record
from upload_kit.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMeasurement(Record):
    """One upload of one case."""

    case: PeerCase
    """What was measured."""

    repeat: int
    """Which round, from 0."""

    seconds: float
    """Wall time."""

    client_cpu: float
    """User and system seconds of the client."""

    server_cpu: float
    """User and system seconds of the server in that time."""

    peak_rss: int
    """Bytes of the client's memory at most."""

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.case.size / self.seconds

    @property
    def of_link(self) -> float | None:
        """The share of the link that was used; None on loopback."""
        link = self.case.link
        if link is None or link.total_rate is None:
            return None
        return self.rate / link.total_rate


def possible(cases: Sequence[PeerCase]) -> tuple[list[PeerCase], dict[str, str]]:
    """
    Return the cases that can be measured here.

    Returns:
        Those whose client and server are installed; why others are not, by name.
    """
    names = {name for case in cases for name in (case.client, case.server)}
    why = {name: reason for name in sorted(names) if (reason := missing(name))}
    return [
        case for case in cases if case.client not in why and case.server not in why
    ], why


class PeerBench(Workplace):
    """
    Runs cases in rounds, so that what disturbs the machine disturbs them alike.

    Use it as a context manager: servers and files live as long as it does.

    Args:
        repeat: Rounds.

        folder: Where files and stores go; None for a temporary folder.
    """

    def __init__(self, *, repeat: int = 3, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._repeat = repeat

    def __enter__(self) -> Self:
        """Make the folder, and room for servers."""
        super().__enter__()
        self._servers = self._stack.enter_context(PeerServers(self._folder))
        return self

    def run(self, cases: Sequence[PeerCase]) -> Iterator[PeerMeasurement]:
        """
        Yield a measurement as soon as there is one; every case once a round.

        Raises:
            UploadKitError: A server did not start, or a client did not upload.
        """
        for repeat in range(self._repeat):
            # Every other round goes backwards: who comes first is not always the same.
            for case in cases if repeat % 2 == 0 else reversed(cases):
                yield self._measure(case, repeat)

    def _measure(self, case: PeerCase, repeat: int) -> PeerMeasurement:
        source = self._source(case.size)
        with self._servers.place(case) as place:
            if case.link is None:
                warm_memory(min(2 * case.size, 2 * GIB))
            order = PeerOrder(
                client=case.client,
                url=place.url,
                bucket=place.bucket,
                destination=place.destination,
                path=str(source),
                chunk_size=case.chunk_size,
                parallel=case.parallel,
            )
            server = psutil.Process(place.pid)
            before = cpu_seconds(server)
            figures = run_client(order, place.environment)
            server_cpu = cpu_seconds(server) - before
        return PeerMeasurement(
            case=case,
            repeat=repeat,
            seconds=figures.seconds,
            client_cpu=figures.cpu_seconds,
            server_cpu=server_cpu,
            peak_rss=figures.peak_rss,
        )

    def _source(self, size: int) -> Path:
        # An object of this name is what is looked for in a bucket.
        path = self._folder / str(size) / STORED_NAME
        if not path.exists():
            path.parent.mkdir()
            make_file(path, size, sparse=False)
        return path
