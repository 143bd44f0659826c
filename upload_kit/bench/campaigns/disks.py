"""A server whose disk runs full in the middle of uploads, and has room again later."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.bench.campaigns.children import IMPATIENT
from upload_kit.bench.campaigns.forked import ForkedCampaign
from upload_kit.bench.campaigns.links import watch
from upload_kit.bench.campaigns.mounts import disk_obstacle
from upload_kit.bench.campaigns.native_venue import clean_up
from upload_kit.bench.campaigns.session_folders import (
    acknowledged_bytes,
    expire_sessions,
)
from upload_kit.bench.campaigns.venues import StoreFolder
from upload_kit.errors import RemoteUnavailable, UploadKitError
from upload_kit.units import KIB, MIB
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    import random

    from upload_kit.bench.campaigns.forks import Fork, ForkServer
    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.models import UploadResult

_SERVE: Final = "upload_kit.bench.campaigns.children:serve_small_disk"
_DISK: Final = 8 * MIB
# Times that room is made before all of it is.
_STEPS: Final = 6
_SOON: Final = 0.05
# Bytes that the server keeps for itself once it has begun to count.
_BOOK: Final = 16 * KIB


class DiskCampaign(ForkedCampaign):
    """
    Uploads to a server whose disk is nearly full, while room is made bit by bit.

    Args:
        tries: Uploads of a full round.
    """

    def __init__(self, *, tries: int = 150) -> None:
        super().__init__("disk", tries=tries, at_once=4)

    def obstacle(self) -> str | None:
        """Return why no small disk can be had here, or None."""
        return super().obstacle() or disk_obstacle()

    async def play(
        self, forks: ForkServer, place: Path, draw: random.Random, findings: Findings
    ) -> None:
        """Upload one file to a disk of its own."""
        disk = place / "disk"
        await asyncio.to_thread(disk.mkdir)
        order = {
            "directory": str(disk),
            "port": 0,
            "size": _DISK,
            "rounds": [{}, {"expires_after": _SOON}],
        }
        server = await forks.fork(_SERVE, order)
        try:
            scene = _Scene(draw, server, place, disk)
            await scene.play(await _url(server), findings)
        finally:
            await server.kill()
        for leftover in await expire_sessions(scene.sessions):
            findings.blame(f"{scene.source.name}: {leftover}")


async def _url(server: Fork) -> str:
    said = await server.hear()
    if said is None:
        raise RemoteUnavailable("No server has started.")
    return str(said["url"])


class _Scene:
    """One try: a file, a disk, and ballast that leaves too little room on it."""

    def __init__(
        self, draw: random.Random, server: Fork, place: Path, disk: Path
    ) -> None:
        self.source = place / "try.bin"
        self.sessions = place / "sessions"
        self._draw = draw
        self._server = server
        # Into the server's own view of its disk.
        self._disk = Path(f"/proc/{server.pid}/root") / disk.relative_to("/")
        self._ballast = self._disk / "ballast"
        self._store = StoreFolder(self._disk)
        self._content = draw.randbytes(draw.choice((100, 500 * KIB, 3 * MIB)))
        self._sha256 = hashlib.sha256(self._content).hexdigest()

    async def play(self, url: str, findings: Findings) -> None:
        """Upload while there is too little room, then with more and more of it."""
        await asyncio.to_thread(self.source.write_bytes, self._content)
        empty = await asyncio.to_thread(_taken, self._disk)
        room = self._draw.randrange(len(self._content) + 64 * KIB)
        await asyncio.to_thread(self._leave, room)
        uploader = ResumableUploader(
            url,
            chunk_size=self._draw.randrange(64 * KIB, 512 * KIB),
            max_parallel=self._draw.randint(1, 4),
            session_dir=self.sessions,
            history=False,
            retry=IMPATIENT,
        )
        result = None
        for step in range(_STEPS + 2):
            result = await self._try(uploader, findings)
            if result is not None:
                break
            await asyncio.to_thread(self._make_room, step)
        await self._check(result, findings)
        await self._clear(empty, findings)

    async def _try(
        self, uploader: ResumableUploader, findings: Findings
    ) -> UploadResult | None:
        """Upload, or go on; None if it failed for want of room."""
        published = await asyncio.to_thread(self._store.digests, self.source.name)
        acknowledged = await acknowledged_bytes(self.sessions)
        try:
            result = await watch(uploader.start(self.source), findings)
        except UploadKitError as error:
            findings.faults += 1
            findings.resumes += 1
            if not isinstance(error, RemoteUnavailable) or error.status != 507:
                findings.blame(
                    f"a full disk ended with {type(error).__name__}: {error}"
                )
            return None
        if result.bytes_resumed < acknowledged and not published:
            findings.lose(
                f"{acknowledged} bytes were acknowledged, but only"
                f" {result.bytes_resumed} were not sent again"
            )
        return result

    def _leave(self, room: int) -> None:
        """Fill the disk but for so many bytes."""
        facts = os.statvfs(self._disk)
        free = facts.f_bavail * facts.f_frsize
        self._ballast.write_bytes(bytes(max(0, free - room)))

    def _make_room(self, step: int) -> None:
        """Take ballast away: some of it, and in the end all."""
        if step >= _STEPS:
            self._ballast.unlink(missing_ok=True)
            return
        size = self._ballast.stat().st_size
        os.truncate(self._ballast, int(size * self._draw.uniform(0.5, 1)))

    async def _check(self, result: UploadResult | None, findings: Findings) -> None:
        """Compare what is stored with the source."""
        finals = await asyncio.to_thread(self._store.digests, self.source.name)
        if any(sha256 != self._sha256 for sha256 in finals):
            findings.blame("half a file stands under its name")
        if result is None:
            findings.failed += 1
        elif not finals:
            findings.lose("the file is said to be there and is not")
        elif len(finals) > 1:
            findings.blame(f"the file is stored {len(finals)} times")

    async def _clear(self, empty: int, findings: Findings) -> None:
        """Remove what was stored, and see that the disk is as empty as it was."""
        os.kill(self._server.pid, signal.SIGTERM)
        url = await _url(self._server)
        await asyncio.sleep(2 * _SOON)
        await clean_up(url)
        for leftover in await asyncio.to_thread(self._store.unfinished):
            findings.blame(leftover)
        await asyncio.to_thread(self._ballast.unlink, missing_ok=True)
        await asyncio.to_thread(self._store.remove, self.source.name)
        taken = await asyncio.to_thread(_taken, self._disk)
        if taken > empty + _BOOK:
            findings.blame(f"{taken - empty} bytes of the disk are not given back")


def _taken(disk: Path) -> int:
    facts = os.statvfs(disk)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize
