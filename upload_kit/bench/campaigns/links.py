"""Uploads through random faults, gone on with until they are there."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upload_kit.bench.campaigns.children import IMPATIENT
from upload_kit.bench.campaigns.session_folders import (
    acknowledged_bytes,
    expire_sessions,
)
from upload_kit.bench.campaigns.venue_campaign import VenueCampaign, VenueTries
from upload_kit.bench.faults import FaultKind, FaultPlan
from upload_kit.config import Compression
from upload_kit.errors import UploadCancelled, UploadKitError
from upload_kit.models import Layer
from upload_kit.units import KIB, MIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from upload_kit.bench.campaigns.outcome import Findings
    from upload_kit.bench.campaigns.venues import VenueKind
    from upload_kit.models import UploadResult
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.options import UploaderOptions

# Times that an upload which failed is gone on with before it counts as failed.
_PATIENCE: Final = 15
# Seconds for a connection, and for an answer; stalls are made to last longer.
_LIMITS: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What one try uploads, and how; all of it drawn."""

    name: str
    content: bytes
    chunk_size: int
    layer: Layer
    parallel: int
    compression: Compression
    plan: FaultPlan
    interrupt_after: float | None
    """Seconds until the first run is cancelled; None to let it be."""

    @property
    def sha256(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(self.content).hexdigest()


def draw_parcel(draw: random.Random, name: str, kinds: tuple[FaultKind, ...]) -> Parcel:
    """Draw what one try uploads: small or not, compressible or not, in any layer."""
    size = draw.choice((0, 1, *(draw.randrange(n * MIB) for n in (1, 1, 2, 3, 3))))
    content = draw.randbytes(size)
    if draw.random() < 0.3:
        content = (content[:1000] * (size // 1000 + 1))[:size]
    if draw.random() < 0.5:
        kinds = tuple(kind for kind in kinds if kind is not FaultKind.CORRUPT)
    return Parcel(
        name=name,
        content=content,
        chunk_size=draw.randrange(64 * KIB, 512 * KIB),
        layer=draw.choice((Layer.FOUNDATION, Layer.FEATURE, *2 * (Layer.POLISH,))),
        parallel=draw.randint(1, 4),
        compression=draw.choice(tuple(Compression)),
        plan=FaultPlan(
            seed=draw.randrange(1 << 32),
            share=draw.choice((0.2, 0.5, 0.8)),
            kinds=kinds,
            within=draw.choice((4 * KIB, 256 * KIB, 2 * MIB)),
            max_seconds=draw.choice((0.05, 0.5)),
            endless=0.2,
        ),
        interrupt_after=draw.uniform(0, 0.3) if draw.random() < 0.25 else None,
    )


class LinkCampaign(VenueCampaign):
    """
    Uploads to one venue through random faults of the way.

    Args:
        kind: Where to.

        tries: Uploads of a full round.
    """

    def __init__(self, kind: VenueKind, *, tries: int = 500) -> None:
        super().__init__(kind, LinkTries, family="link", tries=tries, at_once=12)


class LinkTries(VenueTries):
    """A campaign that is under way; see `Tries`."""

    async def attempt(self, index: int, findings: Findings) -> None:
        """Upload one file until it is there, or often enough; then look at it."""
        draw = self.draw(index)
        parcel = draw_parcel(draw, f"try-{index:05}.bin", self._venue.kinds)
        source = self._place / "sources" / parcel.name
        await asyncio.to_thread(source.write_bytes, parcel.content)
        async with self._venue.way(parcel.plan) as way:
            uploader = self._uploader(parcel, way.url)
            async with uploader:
                result = await self._insist(uploader, parcel, source, findings)
                await self._check(parcel, result, findings)
            findings.faults += way.faults()
        for leftover in await expire_sessions(self._sessions(parcel)):
            findings.blame(leftover)
        await self._venue.remove(parcel.name)
        await asyncio.to_thread(source.unlink)

    def _uploader(self, parcel: Parcel, url: str) -> ChunkedUploader:
        options: UploaderOptions = {
            "chunk_size": parcel.chunk_size,
            "retry": IMPATIENT,
            "stall_timeout": _LIMITS,
            "connect_timeout": _LIMITS,
            "response_timeout": _LIMITS,
            "history": False,
        }
        if parcel.layer is Layer.FOUNDATION:
            return ChunkedUploader(url, **options)
        if parcel.layer is Layer.FEATURE:
            return ParallelUploader(url, max_parallel=parcel.parallel, **options)
        return ResumableUploader(
            url,
            max_parallel=parcel.parallel,
            compression=parcel.compression,
            session_dir=self._sessions(parcel),
            **options,
        )

    def _sessions(self, parcel: Parcel) -> Path:
        return self._place / "sessions" / parcel.name

    async def _insist(
        self,
        uploader: ChunkedUploader,
        parcel: Parcel,
        source: Path,
        findings: Findings,
    ) -> UploadResult | None:
        """Upload, and go on after each failure; None if that never ends well."""
        interrupt_after = parcel.interrupt_after
        for _ in range(_PATIENCE):
            acknowledged = await self._acknowledged(parcel)
            transfer = uploader.start(source)
            try:
                result = await watch(transfer, findings, interrupt_after)
            except UploadKitError as error:
                if not (error.retryable or isinstance(error, UploadCancelled)):
                    self._excuse(error, parcel, findings)
                interrupt_after = None
                findings.resumes += 1
                continue
            may_vanish = FaultKind.CORRUPT in parcel.plan.kinds
            if result.bytes_resumed < acknowledged and not may_vanish:
                findings.lose(
                    f"{acknowledged} bytes of {parcel.name} were acknowledged, but"
                    f" only {result.bytes_resumed} were not sent again"
                )
            return result
        findings.failed += 1
        return None

    async def _acknowledged(self, parcel: Parcel) -> int:
        """Return the bytes that must not be sent again."""
        if await self._venue.finals(parcel.name):
            # Published, though nobody heard of it: there is nothing to go on with.
            return 0
        return await acknowledged_bytes(self._sessions(parcel))

    def _excuse(
        self, error: UploadKitError, parcel: Parcel, findings: Findings
    ) -> None:
        """Blame a refusal for which no corrupted byte can be the reason."""
        if FaultKind.CORRUPT not in parcel.plan.kinds:
            findings.blame(
                f"{parcel.name} ({parcel.layer}) gave up with {type(error).__name__}:"
                f" {error}"
            )

    async def _check(
        self, parcel: Parcel, result: UploadResult | None, findings: Findings
    ) -> None:
        """Compare what stands at the other end with the source."""
        finals = await self._venue.finals(parcel.name)
        for sha256 in finals:
            if sha256 != parcel.sha256:
                findings.blame(f"{parcel.name} ({parcel.layer}) is stored wrong")
        if result is None:
            return
        if not finals:
            findings.lose(f"{parcel.name} is said to be there and is not")
        if result.sha256 not in {None, parcel.sha256}:
            findings.blame(f"the digest of {parcel.name} is said to be another one")
        if result.size != len(parcel.content):
            findings.blame(f"{parcel.name} is said to have {result.size} bytes")


async def watch(
    transfer: Transfer, findings: Findings, interrupt_after: float | None = None
) -> UploadResult:
    """
    Wait for the end of an upload, and note the longest time without any event.

    Args:
        transfer: The upload.

        findings: Where to note it.

        interrupt_after: Seconds until it is cancelled; None to let it be.

    Raises:
        UploadKitError: It failed, or was cancelled.
    """
    loop = asyncio.get_running_loop()
    timer = None
    if interrupt_after is not None:
        timer = loop.call_later(interrupt_after, transfer.cancel)
    last = time.monotonic()
    try:
        async for _ in transfer:
            now = time.monotonic()
            findings.stalled(now - last)
            last = now
        findings.stalled(time.monotonic() - last)
        return await transfer
    finally:
        if timer is not None:
            timer.cancel()
