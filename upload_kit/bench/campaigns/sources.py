"""Sources that grow, shrink, change or vanish while they are uploaded."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from upload_kit.bench.campaigns.children import IMPATIENT
from upload_kit.bench.campaigns.links import watch
from upload_kit.bench.campaigns.session_folders import expire_sessions
from upload_kit.bench.campaigns.venue_campaign import VenueCampaign, VenueTries
from upload_kit.bench.faults import FaultPlan
from upload_kit.errors import SourceError, UploadKitError
from upload_kit.units import KIB, MB, MIB
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.bench.campaigns.venues import VenueKind
    from upload_kit.models import UploadResult

# Bytes a second: the change comes in the middle of an upload.
_RATE: Final = 10 * MB
# Times that an upload is begun anew once its source is left alone.
_PATIENCE: Final = 3


class Change(StrEnum):
    """What happens to a source."""

    GROW = "grow"
    SHRINK = "shrink"
    OVERWRITE = "overwrite"
    REPLACE = "replace"
    REMOVE = "remove"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meddling:
    """What one try uploads, and what happens to it; all of it drawn."""

    before: bytes
    after: bytes
    """What the source holds in the end."""

    change: Change
    place: int
    """Offset of the first byte that changes in place."""

    wait: float
    """Seconds from the start of the upload until the change."""

    chunk_size: int
    parallel: int

    def meddle(self, path: Path) -> None:
        """Change the source; blocking."""
        if self.change is Change.REMOVE:
            path.unlink()
        elif self.change is Change.REPLACE:
            other = path.with_suffix(".new")
            other.write_bytes(self.after)
            other.replace(path)
        elif self.change is not Change.NOTHING:
            with path.open("r+b") as file:
                file.seek(self.place)
                file.write(self.after[self.place :])
                file.truncate()


def draw_meddling(draw: random.Random) -> Meddling:
    """Draw one try."""
    size = draw.randrange(256 * KIB, 3 * MIB)
    before = draw.randbytes(size)
    place = draw.randrange(size)
    change = draw.choice(tuple(Change))
    ends = {
        Change.GROW: before + draw.randbytes(draw.choice((1, 100_000))),
        Change.SHRINK: before[:place],
        Change.OVERWRITE: before[:place] + draw.randbytes(size - place),
        Change.REPLACE: draw.randbytes(size),
    }
    return Meddling(
        before=before,
        after=ends.get(change, before),
        change=change,
        place=size if change is Change.GROW else place,
        wait=draw.uniform(0, 1.1 * size / _RATE),
        chunk_size=draw.randrange(64 * KIB, 512 * KIB),
        parallel=draw.randint(1, 4),
    )


class SourceCampaign(VenueCampaign):
    """
    Meddles with sources while they are uploaded.

    Args:
        kind: Where to.

        tries: Uploads of a full round.
    """

    def __init__(self, kind: VenueKind, *, tries: int = 150) -> None:
        super().__init__(kind, SourceTries, family="source", tries=tries, at_once=4)


class SourceTries(VenueTries):
    """A campaign that is under way; see `Tries`."""

    async def attempt(self, index: int, findings: Findings) -> None:
        """Upload, meddle, look; then upload what the source has become."""
        meddling = draw_meddling(self.draw(index))
        source = self._place / "sources" / f"try-{index:05}.bin"
        sessions = self._place / "sessions" / source.name
        await asyncio.to_thread(source.write_bytes, meddling.before)
        async with self._venue.way(FaultPlan()) as way:
            uploader = ResumableUploader(
                way.url,
                chunk_size=meddling.chunk_size,
                max_parallel=meddling.parallel,
                bandwidth_limit=_RATE,
                session_dir=sessions,
                history=False,
                retry=IMPATIENT,
            )
            result = await self._meddled(uploader, meddling, source, findings)
            await self._check(meddling, source.name, result, findings)
            if result is None and meddling.change is not Change.REMOVE:
                await self._again(uploader, meddling, source, findings)
        await self._venue.remove(source.name)
        await asyncio.to_thread(source.unlink, missing_ok=True)
        for leftover in await expire_sessions(sessions):
            findings.blame(f"{source.name}: {leftover}")

    async def _meddled(
        self,
        uploader: ResumableUploader,
        meddling: Meddling,
        source: Path,
        findings: Findings,
    ) -> UploadResult | None:
        """Upload while the source changes; None if the upload says so."""
        loop = asyncio.get_running_loop()
        change = loop.create_task(_later(meddling, source))
        try:
            return await watch(uploader.start(source), findings)
        except UploadKitError as error:
            excused = isinstance(error, SourceError)
            if not excused or meddling.change is Change.NOTHING:
                findings.blame(
                    f"{source.name} ({meddling.change}) ended with"
                    f" {type(error).__name__}: {error}"
                )
            return None
        finally:
            await change
            findings.faults += meddling.change is not Change.NOTHING

    async def _check(
        self,
        meddling: Meddling,
        name: str,
        result: UploadResult | None,
        findings: Findings,
    ) -> None:
        """See that what stands there is the source as it was or is, and no mixture."""
        states = {
            hashlib.sha256(content).hexdigest()
            for content in (meddling.before, meddling.after)
        }
        finals = await self._venue.finals(name)
        for sha256 in finals:
            if sha256 not in states:
                findings.blame(f"{name} ({meddling.change}) is stored as a mixture")
        if result is None:
            return
        if not finals:
            findings.lose(f"{name} is said to be there and is not")
        if result.sha256 not in finals:
            findings.blame(f"the digest of {name} is said to be another one")

    async def _again(
        self,
        uploader: ResumableUploader,
        meddling: Meddling,
        source: Path,
        findings: Findings,
    ) -> None:
        """Upload the source as it is now, which nobody touches any more."""
        for _ in range(_PATIENCE):
            findings.resumes += 1
            try:
                await watch(uploader.start(source), findings)
            except UploadKitError as error:
                findings.blame(f"{source.name}, left alone, ended with {error!r}")
                continue
            expected = hashlib.sha256(meddling.after).hexdigest()
            if expected not in await self._venue.finals(source.name):
                findings.blame(f"{source.name}, left alone, is stored wrong")
            return
        findings.failed += 1


async def _later(meddling: Meddling, source: Path) -> None:
    await asyncio.sleep(meddling.wait)
    await asyncio.to_thread(meddling.meddle, source)
