"""Runs cases against real servers in processes of their own; measures both sides."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psutil

from upload_kit.bench.cases import Case, Storing
from upload_kit.bench.client import ClientFigures, ClientOrder
from upload_kit.bench.link_process import start_link_process
from upload_kit.bench.raw import raw_socket_rate
from upload_kit.bench.workplace import Workplace
from upload_kit.errors import UploadKitError
from upload_kit.records import Record
from upload_kit.server.child import ServerProcess
from upload_kit.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CLIENT: Final = (sys.executable, "-m", "upload_kit.bench.client")
_CLIENT_SECONDS: Final = 600.0
_BLOCK: Final = 4 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Record):
    """One run of one case."""

    case: Case
    """What was measured."""

    repeat: int
    """Which round, from 0."""

    seconds: float
    """Wall time of the upload."""

    rate: float
    """Bytes a second."""

    files_rate: float
    """Files a second."""

    raw_rate: float | None
    """Bytes a second of a raw socket in the same round; on loopback only."""

    client_cpu: float
    """User and system seconds of the client, without its start."""

    server_cpu: float
    """User and system seconds of the server in that time."""

    peak_rss: int
    """Bytes of the client's memory at most."""

    retries: int
    """Tries after the first."""

    verified: str
    """How far the server's bytes were compared."""

    ok: bool
    """Whether every file arrived."""


class Bench(Workplace):
    """
    Runs cases in rounds, so that what disturbs the machine disturbs them alike.

    Use it as a context manager: servers, links and files live as long as it does.

    Args:
        repeat: Rounds.

        folder: Where files and stores go; None for a temporary folder.
    """

    def __init__(self, *, repeat: int = 3, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._repeat = repeat
        self._servers: dict[Storing, ServerProcess] = {}
        self._links: dict[tuple[str, str], int] = {}

    def run(self, cases: Sequence[Case]) -> Iterator[Measurement]:
        """
        Yield a measurement as soon as there is one; every case once a round.

        Raises:
            UploadKitError: A server, a link or a client did not start.
        """
        for repeat in range(self._repeat):
            # The order turns, so that no case always runs after the same one.
            turn = repeat % max(1, len(cases))
            for case in [*cases[turn:], *cases[:turn]]:
                yield self._measure(case, repeat)

    def _measure(self, case: Case, repeat: int) -> Measurement:
        sources = self._sources(case)
        server = self._server(case.storing)
        url = self._linked(case, server)
        raw = None
        if case.link is None:
            warm_memory(min(2 * case.size * case.files, 2 * GIB))
            raw = raw_socket_rate(min(case.size * case.files, GIB))
        process = psutil.Process(server.pid)
        before = cpu_seconds(process)
        order = ClientOrder(
            case=case, url=url, sources=sources, state=str(self._folder / "sessions")
        )
        figures = _run_client(order)
        server_cpu = cpu_seconds(process) - before
        self._tidy(server, case)
        return Measurement(
            case=case,
            repeat=repeat,
            seconds=figures.seconds,
            rate=case.size * case.files / figures.seconds,
            files_rate=case.files / figures.seconds,
            raw_rate=raw,
            client_cpu=figures.cpu_seconds,
            server_cpu=server_cpu,
            peak_rss=figures.peak_rss,
            retries=figures.retries,
            verified=figures.verified,
            ok=figures.results == case.files,
        )

    def _sources(self, case: Case) -> tuple[str, ...]:
        """Make the files of a case, or find them made."""
        kind = "sparse" if case.sparse else "random"
        folder = self._folder / f"{kind}-{case.files}x{case.size}"
        paths = tuple(str(folder / f"{index}.bin") for index in range(case.files))
        if not folder.exists():
            folder.mkdir()
            for path in paths:
                make_file(Path(path), case.size, sparse=case.sparse)
        return paths

    def _server(self, storing: Storing) -> ServerProcess:
        if storing not in self._servers:
            options = ["--durability", storing.value]
            if storing is Storing.DISCARD:
                options = ["--dir", "null:"]
            server = ServerProcess(self._folder / f"store-{storing.value}", *options)
            self._servers[storing] = self._stack.enter_context(server)
        return self._servers[storing]

    def _linked(self, case: Case, server: ServerProcess) -> str:
        """Return the URL of the server, through a link where the case has one."""
        if case.link is None:
            return server.url
        key = (case.link.to_json(), server.url)
        if key not in self._links:
            link = start_link_process(
                "127.0.0.1",
                server.port,
                rate_per_connection=case.link.rate_per_connection,
                total_rate=case.link.total_rate,
                latency=case.link.latency,
            )
            self._links[key] = self._stack.enter_context(link).port
        return f"http://127.0.0.1:{self._links[key]}{urlsplit(server.url).path}"

    def _tidy(self, server: ServerProcess, case: Case) -> None:
        """
        Remove what was stored.

        Small files are moved aside instead: ext4 passes over recently deleted inodes
        one by one on every create, which would slow the next round.
        """
        files = server.folder / "files"
        if not files.exists():
            return
        if case.files == 1:
            for upload in files.iterdir():
                shutil.rmtree(upload)
            return
        aside = Path(tempfile.mkdtemp(prefix="aside-", dir=self._folder))
        for upload in files.iterdir():
            upload.rename(aside / upload.name)


def _run_client(order: ClientOrder) -> ClientFigures:
    done = subprocess.run(
        _CLIENT,
        input=order.to_json().encode(),
        stdout=subprocess.PIPE,
        timeout=_CLIENT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise UploadKitError(f"The client of {order.case.name!r} failed; see above.")
    return ClientFigures.from_json(done.stdout)


def cpu_seconds(process: psutil.Process) -> float:
    """Return user and system seconds of a process and its children."""
    times = [process.cpu_times()]
    times += [child.cpu_times() for child in process.children(recursive=True)]
    return sum(time.user + time.system for time in times)


def make_file(path: Path, size: int, *, sparse: bool) -> None:
    """Write a file that does not shrink when compressed, or one without blocks."""
    with path.open("wb") as file:
        if sparse:
            file.truncate(size)
            return
        # Seeded, so that every run is the same.
        block = random.Random(size).randbytes(min(size, _BLOCK))  # noqa: S311
        for start in range(0, size, _BLOCK):
            file.write(block[: size - start])


def warm_memory(size: int) -> None:
    """Touch memory, which the host of a virtual machine may have taken back."""
    child = os.fork()
    if child == 0:
        with mmap.mmap(-1, max(size, MIB)) as memory:
            for start in range(0, len(memory), mmap.PAGESIZE):
                memory[start] = 1
        os._exit(0)
    os.waitpid(child, 0)
