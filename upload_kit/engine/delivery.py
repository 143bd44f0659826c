"""The chunks of a planned upload, brought to a remote until it is complete."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from upload_kit.compression import Compressor
from upload_kit.engine.fitting import lane_count, reading_options
from upload_kit.engine.lanes import Lane
from upload_kit.engine.reading import ChunkReader
from upload_kit.engine.verification import trusted, verify
from upload_kit.errors import OffsetConflict
from upload_kit.events import EventKind
from upload_kit.models import Stage, UploadStatus
from upload_kit.retry import retrying

if TYPE_CHECKING:
    from upload_kit.destinations.base import RemoteUpload
    from upload_kit.engine.flow import LaneContext
    from upload_kit.models import ChunkMetadata, Receipt, RemoteObject, Verification
    from upload_kit.planning import Capabilities, Plan
    from upload_kit.sessions.base import Checkpoint

logger = logging.getLogger("upload_kit.transfer")

# Seconds that clearing up after a failed or cancelled upload may take.
_CLEAR_UP: Final = 10.0


class Delivery:
    """
    Sends what a remote lacks, has it put together, and compares.

    Args:
        context: What the lanes share: the source, how to run, what is counted.

        plan: The chunks.

        capabilities: What the destination can do.

        checkpoint: Remembers what was acknowledged; None without a session, and then
            what arrived is removed from the remote if the rest does not.
    """

    def __init__(
        self,
        context: LaneContext,
        plan: Plan,
        capabilities: Capabilities,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._context = context
        self._plan = plan
        self._capabilities = capabilities
        self._checkpoint = checkpoint
        self._receipts: dict[int, Receipt] = {}
        self.chunks: dict[int, ChunkMetadata] = {}
        self.sha256: str | None = None
        self.compressor = Compressor(context.policy.compression, capabilities.encodings)

    def start_over(self) -> None:
        """Forget what arrived: the remote has none of it."""
        self.chunks.clear()
        self._receipts.clear()
        self._context.state.start_over()

    async def deliver(self, remote: RemoteUpload) -> tuple[RemoteObject, Verification]:
        """
        Bring everything to the remote, and return what it made of it.

        Raises:
            RemoteGone: The remote lost what it had.
            IntegrityError: What stands there is not what was sent.
            UploadKitError: It failed otherwise.
        """
        try:
            await self._send_missing(remote)
            self._context.reporter.entered(Stage.VERIFYING)
            try:
                stored = await self._complete(remote)
            except OffsetConflict:
                if not self._context.source.rereadable:
                    raise
                # It misses chunks it had acknowledged: send those, and ask once more.
                await self._send_missing(remote)
                stored = await self._complete(remote)
            return stored, self._verify(stored)
        except BaseException:
            if self._checkpoint is None:
                await self._clear_up(remote)
            raise

    async def _send_missing(self, remote: RemoteUpload) -> None:
        context, state = self._context, self._context.state
        held = await self._held(remote)
        state.start_over()
        state.stage = Stage.UPLOADING
        if state.status is UploadStatus.PENDING:
            state.status = UploadStatus.UPLOADING
        context.reporter.emit(EventKind.PLANNED)
        lanes = lane_count(context.policy, self._capabilities, self._plan)
        reader = self._reader(lanes, held)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(lanes):
                    lane = Lane(context, self._confirmed)
                    group.create_task(lane.run(reader, remote, group))
        except BaseExceptionGroup as errors:
            raise _first_error(errors) from errors
        finally:
            reader.close()
        state.total = reader.size
        state.chunks_total = len(self._receipts)
        self.sha256 = reader.whole_sha256
        if self.sha256 is None and len(self.chunks) == 1:
            self.sha256 = self.chunks[0].sha256

    async def _held(self, remote: RemoteUpload) -> dict[int, Receipt]:
        """Ask what the remote has, and add what the session remembers of it."""
        context = self._context
        receipts = await retrying(
            remote.held, context.policy.retry, tell=context.reporter.retrying
        )
        checkpoint = self._checkpoint
        remembered = () if checkpoint is None else checkpoint.session.receipts
        return trusted(receipts, remembered, self._plan)

    def _reader(self, lanes: int, held: dict[int, Receipt]) -> ChunkReader:
        context = self._context
        options = reading_options(
            context.source,
            context.policy,
            self._capabilities,
            plan=self._plan,
            lanes=lanes,
        )
        return ChunkReader(
            context.source,
            self._plan,
            context.pool,
            options=options,
            held=held,
            on_held=self._already_held,
            compressor=self.compressor,
            wire_rate=lambda: context.state.wire_rate,
        )

    def _already_held(self, chunk: ChunkMetadata, receipt: Receipt) -> None:
        """Count a chunk that was there before."""
        self._context.state.resume_with(chunk.size)
        self._keep(chunk, receipt)

    async def _confirmed(self, chunk: ChunkMetadata, receipt: Receipt) -> None:
        """Checkpoint a chunk that the remote acknowledged, then count it."""
        if receipt.sha256 is None:
            receipt = replace(receipt, sha256=chunk.sha256)
        if self._checkpoint is not None:
            await self._checkpoint.record(receipt)
        self._context.state.confirm(chunk.size)
        self._keep(chunk, receipt)

    def _keep(self, chunk: ChunkMetadata, receipt: Receipt) -> None:
        """Remember a chunk that has arrived, and tell of it."""
        self.chunks[chunk.index] = chunk
        self._receipts[chunk.index] = receipt
        self._context.reporter.emit(EventKind.CONFIRMED, chunk=chunk.index)

    async def _complete(self, remote: RemoteUpload) -> RemoteObject:
        receipts = [self._receipts[index] for index in sorted(self._receipts)]
        return await retrying(
            lambda: remote.complete(receipts, sha256=self.sha256),
            self._context.policy.retry,
            tell=self._context.reporter.retrying,
            passing=OffsetConflict,
        )

    def _verify(self, stored: RemoteObject) -> Verification:
        return verify(
            stored,
            self._capabilities,
            name=self._context.source.name,
            size=self._context.state.total,
            sha256=self.sha256,
        )

    async def _clear_up(self, remote: RemoteUpload) -> None:
        """Throw away what arrived; whatever made us stop is what gets reported."""
        # As often as the retry policy allows: what is left there costs money.
        aborting = asyncio.ensure_future(
            retrying(remote.abort, self._context.policy.retry)
        )
        try:
            await asyncio.wait({aborting}, timeout=_CLEAR_UP)
        finally:
            # It took too long, or whoever cancelled us is in a hurry.
            aborting.cancel()
        await asyncio.wait({aborting}, timeout=_CLEAR_UP)
        if not aborting.cancelled() and (error := aborting.exception()) is not None:
            name = self._context.source.name
            logger.warning("%s: what arrived was not removed: %s", name, error)


def _first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that made a task group fail; the rest followed from it."""
    first = errors.exceptions[0]
    return _first_error(first) if isinstance(first, BaseExceptionGroup) else first
