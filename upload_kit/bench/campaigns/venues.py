"""Where the uploads of a campaign go: through faults, and checked at the other end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.bench.faults import FaultKind, FaultPlan
from upload_kit.bench.faults_destination import faulty
from upload_kit.bench.link import ShapedLink
from upload_kit.destinations.local import EXPIRES_AFTER
from upload_kit.destinations.memory import memory_folder
from upload_kit.uploaders.chunked import ChunkedUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

ALL_KINDS: Final = tuple(FaultKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to a destination, with its faults."""

    url: str
    """What to upload to."""

    faults: Callable[[], int]
    """How many faults have struck so far."""


class Venue(Protocol):
    """One destination, running."""

    @property
    def kinds(self) -> tuple[FaultKind, ...]:
        """What may happen on the way without anybody being to blame."""
        ...

    def way(self, plan: FaultPlan) -> AbstractAsyncContextManager[Way]:
        """Open a way of one's own, on which the plan's faults happen."""
        ...

    async def finals(self, name: str) -> list[str]:
        """Return the SHA-256 of everything that stands under a final name."""
        ...

    async def remove(self, name: str) -> None:
        """Remove what stands under a final name."""
        ...

    async def leftovers(self) -> list[str]:
        """Let everything expire that may, and say what is left behind all the same."""
        ...


class VenueKind(Protocol):
    """How to come by a venue."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def obstacle(self) -> str | None:
        """Return why it cannot run on this machine, or None."""
        ...

    def running(self, place: Path) -> AbstractAsyncContextManager[Venue]:
        """Start it over an empty folder, and end it with the context."""
        ...


@asynccontextmanager
async def linked_way(
    port: int,
    plan: FaultPlan,
    *,
    scheme: str = "http",
    path: str = "/",
    rate: float | None = None,
) -> AsyncIterator[Way]:
    """
    Put a link with faults before a server of this machine.

    Args:
        port: The server's.

        plan: Its faults.

        scheme: Of the URL.

        path: Of the URL.

        rate: Bytes a second of all connections; None for no limit.
    """
    async with ShapedLink("127.0.0.1", port, faults=plan, total_rate=rate) as link:
        yield Way(
            url=f"{scheme}://127.0.0.1:{link.port}{path}",
            faults=lambda: link.stats.faults,
        )


class MemoryVenue:
    """`memory://`: nothing but the engine and its way."""

    name: Final = "memory"
    kinds: Final = ALL_KINDS

    def obstacle(self) -> str | None:
        """Return None: there is always memory."""
        return None

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Take a folder of this process."""
        self._folder = memory_folder(f"campaign{abs(hash(place))}")
        yield self
        self._folder.objects.clear()
        self._folder.parts.clear()

    @asynccontextmanager
    async def way(self, plan: FaultPlan) -> AsyncIterator[Way]:
        """Put faults before the folder."""
        with faulty(f"memory://{self._folder.name}/", plan) as (url, layer):
            yield Way(url=url, faults=lambda: layer.faults)

    async def finals(self, name: str) -> list[str]:
        """Return the digest of the object."""
        data = self._folder.objects.get(name)
        return [] if data is None else [hashlib.sha256(data).hexdigest()]

    async def remove(self, name: str) -> None:
        """Drop the object."""
        self._folder.objects.pop(name, None)

    async def leftovers(self) -> list[str]:
        """Return nothing: half-done uploads end with the process."""
        return []


class LocalVenue:
    """`file://`: a folder."""

    name: Final = "file"
    kinds: Final = ALL_KINDS

    def obstacle(self) -> str | None:
        """Return None: there is always a folder."""
        return None

    @asynccontextmanager
    async def running(self, place: Path) -> AsyncIterator[Venue]:
        """Take the folder."""
        self._folder = place
        yield self

    @asynccontextmanager
    async def way(self, plan: FaultPlan) -> AsyncIterator[Way]:
        """Put faults before the folder."""
        with faulty(self._folder.as_uri(), plan) as (url, layer):
            yield Way(url=url, faults=lambda: layer.faults)

    async def finals(self, name: str) -> list[str]:
        """Return the digest of the file."""
        return await asyncio.to_thread(lambda: list(_digests([self._folder / name])))

    async def remove(self, name: str) -> None:
        """Remove the file."""
        await asyncio.to_thread((self._folder / name).unlink, missing_ok=True)

    async def leftovers(self) -> list[str]:
        """Return the hidden files that are still there once their time is over."""
        await asyncio.to_thread(_make_old, self._folder, 2 * EXPIRES_AFTER)
        uploader = ChunkedUploader(self._folder.as_uri(), history=False)
        await uploader.upload_file(b"a later upload", name="later")
        await self.remove("later")
        return await asyncio.to_thread(_names, self._folder)


def _make_old(folder: Path, seconds: float) -> None:
    stamp = time.time() - seconds
    for path in folder.iterdir():
        os.utime(path, (stamp, stamp))


def _names(folder: Path) -> list[str]:
    return [f"{path.name} is left" for path in folder.glob(".*")]


def _digests(paths: list[Path]) -> Iterator[str]:
    """Yield the digest of each file that is there; blocking."""
    for path in paths:
        try:
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            continue


class StoreFolder:
    """
    What an upload server stores, seen from beside it; everything here blocks.

    Args:
        root: The server's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def digests(self, name: str) -> list[str]:
        """Return the digest of every published file of this name."""
        return list(_digests([path / name for path in self._published()]))

    def contents(self) -> dict[str, list[str]]:
        """Return the digests of all published files, by name."""
        found: dict[str, list[str]] = {}
        for folder in self._published():
            for path in folder.glob("[!.]*"):
                found.setdefault(path.name, []).extend(_digests([path]))
        return found

    def remove(self, name: str) -> None:
        """Remove every published file of this name."""
        for path in self._published():
            if (path / name).exists():
                shutil.rmtree(path)

    def unfinished(self) -> list[str]:
        """Return what stands where nothing is published yet."""
        places = [self._root / "incoming", self._root / "keys"]
        return [
            f"{place.name}/{path.name} is left"
            for place in places
            if place.exists()
            for path in place.iterdir()
        ]

    def _published(self) -> list[Path]:
        files = self._root / "files"
        return list(files.iterdir()) if files.exists() else []
