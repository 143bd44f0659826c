"""One chunk after another to the wire, each as often as it needs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from upload_kit.bodies import BufferedBody, StreamedBody
from upload_kit.deadline import Deadline
from upload_kit.engine.flow import LaneFlow
from upload_kit.errors import IntegrityError, TransferStalled, UploadKitError
from upload_kit.retry import RetryState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.base import RemoteUpload
    from upload_kit.engine.flow import LaneContext
    from upload_kit.engine.reading import ChunkReader, PreparedChunk
    from upload_kit.models import ChunkMetadata, Receipt


class Lane:
    """
    Sends chunks one after another.

    Args:
        context: What it shares with the other lanes.

        confirmed: Awaited with every chunk that the remote acknowledged, before the
            next one.
    """

    def __init__(
        self,
        context: LaneContext,
        confirmed: Callable[[ChunkMetadata, Receipt], Awaitable[None]],
    ) -> None:
        self._context = context
        self._confirmed = confirmed
        self._flow = LaneFlow(context)

    async def run(
        self, reader: ChunkReader, remote: RemoteUpload, group: asyncio.TaskGroup
    ) -> None:
        """Send what the reader has until it has nothing more."""
        while (prepared := await reader.next(group)) is not None:
            await self._send(prepared, remote)

    async def _send(self, prepared: PreparedChunk, remote: RemoteUpload) -> None:
        """Send one chunk, as often as the retry policy allows."""
        settled = False
        body = self._body(prepared)
        try:
            receipt, settled = await self._until_acknowledged(prepared, body, remote)
        finally:
            if prepared.buffer is not None:
                self._context.pool.release(prepared.buffer, reuse=settled)
        chunk = prepared.chunk
        if isinstance(body, StreamedBody):
            chunk = replace(chunk, sha256=body.sha256)
        if prepared.prefix_sha256 is not None:
            receipt = replace(receipt, prefix_sha256=prepared.prefix_sha256)
        await self._confirmed(chunk, receipt)

    def _body(self, prepared: PreparedChunk) -> BufferedBody | StreamedBody:
        chunk = prepared.chunk
        if prepared.buffer is None:
            return StreamedBody(chunk, self._context.source, self._flow)
        view = memoryview(prepared.buffer)[: chunk.size]
        return BufferedBody(chunk, view, self._flow, encoded=prepared.encoded)

    async def _until_acknowledged(
        self, prepared: PreparedChunk, body: ChunkBody, remote: RemoteUpload
    ) -> tuple[Receipt, bool]:
        context = self._context
        retry = RetryState(context.policy.retry)
        while True:
            await context.running.wait()
            try:
                async with context.slots:
                    return await self._try(prepared.chunk, body, remote)
            except UploadKitError as error:
                self._flow.fail()
                # A pause starves the remote, which then breaks off: that is no failure.
                if error.retryable and not context.running.is_set():
                    continue
                wait = retry.wait_after(error)
                context.reporter.retrying(
                    error, retry.failures, wait, chunk=prepared.chunk.index
                )
            except BaseException:
                self._flow.fail()
                raise
            await asyncio.sleep(wait)

    async def _try(
        self, chunk: ChunkMetadata, body: ChunkBody, remote: RemoteUpload
    ) -> tuple[Receipt, bool]:
        """Send one chunk once, as long as its bytes keep moving."""
        started = time.monotonic()
        try:
            async with Deadline() as deadline:
                self._flow.begin(body, deadline)
                receipt = await remote.put(chunk, body)
        except TimeoutError as error:
            raise TransferStalled(
                f"Nothing moved for too long in chunk {chunk.index} of"
                f" {self._context.source.name}."
            ) from error
        if receipt.size != chunk.size:
            raise IntegrityError(
                f"The remote holds {receipt.size} bytes of chunk {chunk.index} of"
                f" {self._context.source.name}, which has {chunk.size}."
            )
        if (
            None not in {receipt.sha256, chunk.sha256}
            and receipt.sha256 != chunk.sha256
        ):
            raise IntegrityError(
                f"The remote's digest of chunk {chunk.index} of"
                f" {self._context.source.name} differs from ours."
            )
        settled = self._flow.settle(chunk.size, time.monotonic() - started)
        return receipt, settled
