"""
One upload from its source to its destination; the engine knows ports only.

    open source -> negotiate -> plan -> session: reopen and ask, or open
    -> lanes: put -> receipt -> checkpoint -> event -> complete -> verify -> result
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from upload_kit.compression import Compressor
from upload_kit.engine.lanes import Lane, LaneContext
from upload_kit.engine.reading import ChunkReader, ReadingOptions
from upload_kit.errors import (
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    RemoteError,
    RemoteGone,
    SourceError,
    UploadCancelled,
    UploadKitError,
)
from upload_kit.events import EventKind, UploadEvent
from upload_kit.logs import about
from upload_kit.mime import detect_mime_type, type_by_name
from upload_kit.models import (
    Stage,
    UploadResult,
    UploadSpec,
    UploadStatus,
    Verification,
)
from upload_kit.planning import Plan, plan_chunks
from upload_kit.progress import Feed, Hub, ProgressState
from upload_kit.retry import RetryState
from upload_kit.sessions.base import can_go_on
from upload_kit.sessions.history import HistoryRow
from upload_kit.threads import in_thread
from upload_kit.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from upload_kit.bodies import BufferPool
    from upload_kit.config import RetryPolicy, TransferPolicy
    from upload_kit.destinations.base import Destination, RemoteUpload
    from upload_kit.models import ChunkMetadata, Receipt, RemoteObject
    from upload_kit.planning import Capabilities
    from upload_kit.sessions.base import Checkpoint, SessionKeeper
    from upload_kit.sources import Source
    from upload_kit.throttle import BandwidthThrottle

logger = logging.getLogger("upload_kit.transfer")

_T = TypeVar("_T")

# Readers get at most fifty `bytes` events a second of one upload.
_BYTES_INTERVAL: Final = 0.02
# Seconds that clearing up after a failed or cancelled upload may take.
_CLEAR_UP: Final = 10.0
# Streams that wait for their data and still leave each other memory.
_STREAMS: Final = 4
# Bytes of a file in one chunk up to which no session is made, unless asked for.
_NO_SESSION: Final = MIB
# Tries of the first contact: a wrong port should not take a minute to tell.
_FIRST_CONTACT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all uploads of one uploader share."""

    destination: Destination
    """Where they go."""

    shown: str
    """The destination's URL without secrets."""

    pool: BufferPool
    """Memory for chunks."""

    slots: asyncio.Semaphore
    """Chunks on the wire at once."""

    throttle: BandwidthThrottle | None = None
    """Bandwidth limit."""

    keeper: SessionKeeper | None = None
    """Finds and makes sessions; None: uploads have none."""

    record: Callable[[HistoryRow], None] | None = None
    """Takes a row for the history; must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """What one upload is asked to do, besides its source."""

    content_type: str | None = None
    """MIME type; None to detect it."""

    metadata: dict[str, str] = field(default_factory=dict)
    """Kept beside the bytes at the destination."""

    session_id: str | None = None
    """The session to go on with; None to find or make one."""

    via: tuple[str, ...] = ()
    """IDs of the servers that it came through."""


class Engine:
    """
    Runs one upload.

    Args:
        source: Not opened yet.

        request: What is asked for.

        policy: How to run.

        shared: What all uploads of the uploader share.

        listeners: Called with every event; they must not block.
    """

    def __init__(
        self,
        source: Source,
        request: UploadRequest,
        policy: TransferPolicy,
        shared: Shared,
        *,
        listeners: Sequence[Callable[[UploadEvent], None]] = (),
    ) -> None:
        self._source = source
        self._request = request
        self._policy = policy
        self._shared = shared
        self.state = ProgressState(secrets.token_hex(8), source.name)
        self.session_id: str | None = request.session_id
        self._hub = Hub(listeners)
        self._running = asyncio.Event()
        self._running.set()
        self._seq = 0
        self._last: UploadEvent | None = None
        self._last_bytes = 0.0
        self._chunks: dict[int, ChunkMetadata] = {}
        self._receipts: dict[int, Receipt] = {}
        self._checkpoint: Checkpoint | None = None
        self._started_at = time.time()
        self._compressor = Compressor(policy.compression, frozenset())
        self._plan = Plan(size=None, chunk_size=policy.chunk_size)
        self._sha256: str | None = None
        few = min(policy.retry.attempts, _FIRST_CONTACT)
        self._first_policy = replace(policy.retry, attempts=few)
        self._context = LaneContext(
            source=source,
            policy=policy,
            state=self.state,
            pool=shared.pool,
            throttle=shared.throttle,
            slots=shared.slots,
            running=self._running,
            emit=self._emit,
            confirmed=self._confirmed,
        )

    def pause(self) -> None:
        """Stop sending; only in the upload's own event loop."""
        if self._running.is_set() and not self.state.status.is_final:
            self._running.clear()
            self.state.pause()
            self._emit(EventKind.PAUSED)

    def resume(self) -> None:
        """Go on sending; only in the upload's own event loop."""
        # What was on the wire when it was paused may have ended it.
        if not self._running.is_set() and not self.state.status.is_final:
            self.state.unpause()
            self._running.set()
            self._emit(EventKind.RESUMED)

    def result(self) -> UploadResult:
        """Return how the upload ended, also when it failed; only once it has ended."""
        assert self._last is not None
        assert self._last.result is not None
        return self._last.result

    def cancelled(self) -> UploadCancelled:
        """Return the error that tells that somebody cancelled it."""
        return UploadCancelled(
            f"The upload of {self.state.name} was cancelled.",
            session_id=self.session_id,
        )

    def subscribe(self) -> Feed:
        """Return a feed of the events from now on; of the last one if it has ended."""
        feed = self._hub.subscribe()
        if self._last is not None and self._last.kind.is_final:
            feed.put(self._last)
            feed.close()
        return feed

    async def run(self) -> UploadResult:
        """
        Upload, and return how it went.

        Raises:
            UploadKitError: It failed; `session_id` says how to go on, if it can.
            asyncio.CancelledError: It was cancelled.
        """
        with about(transfer=self.state.transfer_id):
            return await self._run()

    async def _run(self) -> UploadResult:
        self._emit(EventKind.STARTED)
        logger.info("%s: upload to %s starts", self.state.name, self._shared.shown)
        try:
            stored, verified = await self._upload()
        except asyncio.CancelledError:
            self._end(
                EventKind.CANCELLED,
                UploadStatus.CANCELLED,
                Stage.CANCELLED,
                error=self.cancelled(),
            )
            raise
        except BaseException as error:
            if isinstance(error, UploadKitError):
                if not self._can_go_on_after(error):
                    self.session_id = None
                error.session_id = self.session_id or error.session_id
            self._end(EventKind.FAILED, UploadStatus.FAILED, Stage.FAILED, error=error)
            raise
        finally:
            await self._source.aclose()
        return self._end(
            EventKind.COMPLETED,
            UploadStatus.COMPLETE,
            Stage.COMPLETE,
            stored=stored,
            verified=verified,
        )

    def _can_go_on_after(self, error: UploadKitError) -> bool:
        """Return whether there is a session that is worth going on with."""
        if self._checkpoint is not None:
            return can_go_on(self._checkpoint.session, error)
        asked_for = self._request.session_id is not None
        return asked_for and isinstance(error, RemoteError | SourceError)

    async def _upload(self) -> tuple[RemoteObject, Verification]:
        await self._source.open(self._policy.read_timeout)
        self.state.total = self._source.size
        spec = await describe(self._source, self._request, self._policy)
        self._enter(Stage.PLANNING)
        destination = self._shared.destination
        capabilities = await self._first_contact(lambda: destination.negotiate(spec))
        self._plan = self._fitting_plan(spec, capabilities)
        keeper = self._shared.keeper
        if keeper is None or not self._may_resume(spec, capabilities):
            return await self._transfer(spec, capabilities)
        async with keeper.hold(
            spec, self._plan, self._source, session_id=self._request.session_id
        ) as checkpoint:
            self._checkpoint = checkpoint
            self.session_id = checkpoint.session.session_id
            self._plan = replace(self._plan, chunk_size=checkpoint.session.chunk_size)
            stored, verified = await self._transfer(spec, capabilities)
            checkpoint.arrived(stored, verified)
            return stored, verified

    def _fitting_plan(self, spec: UploadSpec, capabilities: Capabilities) -> Plan:
        """
        Return a plan that suits the destination, and the memory where it has to.

        Raises:
            ConfigurationError: There is none.
        """
        chunk_size, budget = self._policy.chunk_size, self._policy.memory_budget
        if not self._source.rereadable:
            # What cannot be read again is held until it has arrived, and while its
            # data is waited for: some memory is left for other uploads.
            chunk_size = min(chunk_size, max(1, budget // _STREAMS))
        plan = plan_chunks(
            spec.size, chunk_size, capabilities, where=self._shared.shown
        )
        if not self._source.rereadable and plan.chunk(0).size > budget:
            raise ConfigurationError(
                f"{spec.name} can be read only once, and its chunks of"
                f" {format_size(plan.chunk_size)} are more than the memory of"
                f" {format_size(budget)} that may be used.",
                hint="Write it to a file first, or raise memory_budget.",
            )
        return plan

    def _may_resume(self, spec: UploadSpec, capabilities: Capabilities) -> bool:
        """
        Return whether a session would be of use.

        Raises:
            ConfigurationError: One is asked for that cannot be gone on with.
        """
        possible = capabilities.resumable and self._source.rereadable
        if self._request.session_id is not None:
            if not possible:
                raise ConfigurationError(
                    f"{spec.name} cannot be resumed: the source or the destination"
                    " keeps nothing to go on with."
                )
            return True
        if self._policy.always_session:
            return possible
        # One small chunk is sent again sooner than it is remembered.
        small = spec.size is not None and spec.size <= _NO_SESSION
        return possible and not (small and self._plan.total_chunks == 1)

    async def _first_contact(self, call: Callable[[], Awaitable[_T]]) -> _T:
        return await self._retrying(call, self._first_policy)

    async def _retrying(
        self,
        call: Callable[[], Awaitable[_T]],
        policy: RetryPolicy,
        *,
        passing: type[UploadKitError] | tuple[()] = (),
    ) -> _T:
        """Call until it works or the policy gives up; errors in `passing` pass."""
        retry = RetryState(policy)
        while True:
            try:
                return await call()
            except UploadKitError as error:
                if isinstance(error, passing):
                    raise
                wait = retry.wait_after(error)
                self.state.retries += 1
                self._context.causes[type(error).__name__] += 1
                self._emit(
                    EventKind.RETRYING,
                    attempt=retry.failures,
                    wait=wait,
                    error=str(error),
                )
            await asyncio.sleep(wait)

    async def _transfer(
        self, spec: UploadSpec, capabilities: Capabilities
    ) -> tuple[RemoteObject, Verification]:
        """Move the bytes; start over once if the remote lost what it had."""
        self.state.chunks_total = self._plan.total_chunks
        remote = await self._reopen(spec)
        if remote is not None:
            try:
                return await self._move(spec, remote, capabilities)
            except RemoteGone:
                logger.warning("%s: the destination lost what it had", spec.name)
        remote = await self._open(spec)
        try:
            return await self._move(spec, remote, capabilities)
        except RemoteGone:
            if not self._source.rereadable:
                raise
            remote = await self._open(spec)
            return await self._move(spec, remote, capabilities)

    async def _reopen(self, spec: UploadSpec) -> RemoteUpload | None:
        """Go on with what the session remembers, if the remote still has it."""
        if self._checkpoint is None or not self._checkpoint.session.remote_token:
            return None
        token = self._checkpoint.session.remote_token
        destination, plan = self._shared.destination, self._plan
        try:
            return await self._first_contact(
                lambda: destination.reopen(spec, plan, token)
            )
        except RemoteGone:
            return None

    async def _open(self, spec: UploadSpec) -> RemoteUpload:
        """Begin anew at the remote, and remember how to come back."""
        self._chunks.clear()
        self._receipts.clear()
        self.state.start_over()
        destination, plan = self._shared.destination, self._plan
        remote = await self._first_contact(lambda: destination.open(spec, plan))
        if self._checkpoint is not None:
            await self._checkpoint.opened(remote.token)
        return remote

    async def _move(
        self, spec: UploadSpec, remote: RemoteUpload, capabilities: Capabilities
    ) -> tuple[RemoteObject, Verification]:
        try:
            await self._send_missing(remote, capabilities)
            self._enter(Stage.VERIFYING)
            try:
                stored = await self._complete(remote)
            except OffsetConflict:
                if not self._source.rereadable:
                    raise
                # It misses chunks it had acknowledged: send those, and ask once more.
                await self._send_missing(remote, capabilities)
                stored = await self._complete(remote)
            return stored, self._verify(stored, capabilities)
        except BaseException:
            if self._checkpoint is None:
                await self._clear_up(remote)
            raise

    async def _send_missing(
        self, remote: RemoteUpload, capabilities: Capabilities
    ) -> None:
        held = await self._held(remote)
        self.state.start_over()
        self.state.stage = Stage.UPLOADING
        if self.state.status is UploadStatus.PENDING:
            self.state.status = UploadStatus.UPLOADING
        self._emit(EventKind.PLANNED)
        lanes = self._lane_count(capabilities)
        reader = self._reader(lanes, held, capabilities)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(lanes):
                    lane = Lane(self._context)
                    group.create_task(lane.run(reader, remote, group))
        except BaseExceptionGroup as errors:
            raise _first_error(errors) from errors
        finally:
            reader.close()
        self.state.total = reader.size
        self.state.chunks_total = len(self._receipts)
        self._sha256 = reader.whole_sha256
        if self._sha256 is None and len(self._chunks) == 1:
            self._sha256 = self._chunks[0].sha256

    async def _held(self, remote: RemoteUpload) -> dict[int, Receipt]:
        """Ask what the remote has, and add the digests that the session remembers."""
        receipts = await self._retrying(remote.held, self._policy.retry)
        remembered = {}
        if self._checkpoint is not None:
            session = self._checkpoint.session
            remembered = {receipt.index: receipt for receipt in session.receipts}
        held = {}
        for receipt in filter(self._is_whole, receipts):
            known = remembered.get(receipt.index, receipt)
            # Without a digest nothing would prove that the bytes are still the same.
            sha256 = receipt.sha256 or known.sha256
            # What it holds now must be what it acknowledged, or is sent again.
            if sha256 is not None and known.sha256 in {None, sha256}:
                held[receipt.index] = replace(receipt, sha256=sha256)
        return held

    def _is_whole(self, receipt: Receipt) -> bool:
        total = self._plan.total_chunks
        if total is None:
            return True
        index = receipt.index
        return index < total and receipt.size == self._plan.chunk(index).size

    def _lane_count(self, capabilities: Capabilities) -> int:
        limits = (
            self._policy.max_parallel,
            capabilities.lanes,
            self._plan.total_chunks,
        )
        return min(limit for limit in limits if limit is not None)

    def _reader(
        self, lanes: int, held: dict[int, Receipt], capabilities: Capabilities
    ) -> ChunkReader:
        size, plan, policy = self._source.size, self._plan, self._policy
        largest = plan.chunk_size if size is None else min(plan.chunk_size, size)
        # Where memory holds a chunk for each lane, but none ahead, the pool makes the
        # reader wait: cheaper than reading and digesting everything twice.
        needed = largest * min(lanes, plan.total_chunks or lanes)
        streamed = self._source.rereadable and needed > policy.memory_budget
        digest_first = bool(capabilities.checksums)
        # A streamed file in one chunk is digested while it travels.
        alone = streamed and not digest_first and plan.total_chunks == 1
        self._compressor = Compressor(policy.compression, capabilities.encodings)
        return ChunkReader(
            self._source,
            plan,
            self._shared.pool,
            options=ReadingOptions(
                streamed=streamed,
                digest_first=digest_first,
                whole_digest=self._wants_whole_digest(capabilities) and not alone,
            ),
            held=held,
            on_held=self._already_held,
            compressor=self._compressor,
            wire_rate=lambda: self.state.wire_rate,
        )

    def _wants_whole_digest(self, capabilities: Capabilities) -> bool:
        """Whether somebody asked for it, or nothing else could be compared."""
        comparable = capabilities.whole_checksums and not capabilities.checksums
        return self._policy.whole_digest or bool(comparable)

    def _already_held(self, chunk: ChunkMetadata, receipt: Receipt) -> None:
        """Count a chunk that was there before."""
        self.state.resume_with(chunk.size)
        self._chunks[chunk.index] = chunk
        self._receipts[chunk.index] = receipt
        self._emit(EventKind.CONFIRMED, chunk=chunk.index)

    async def _confirmed(self, chunk: ChunkMetadata, receipt: Receipt) -> None:
        """Checkpoint a chunk that the remote acknowledged, then count it."""
        if receipt.sha256 is None:
            receipt = replace(receipt, sha256=chunk.sha256)
        if self._checkpoint is not None:
            await self._checkpoint.record(receipt)
        self.state.confirm(chunk.size)
        self._chunks[chunk.index] = chunk
        self._receipts[chunk.index] = receipt
        self._emit(EventKind.CONFIRMED, chunk=chunk.index)

    async def _complete(self, remote: RemoteUpload) -> RemoteObject:
        receipts = [self._receipts[index] for index in sorted(self._receipts)]
        return await self._retrying(
            lambda: remote.complete(receipts, sha256=self._sha256),
            self._policy.retry,
            passing=OffsetConflict,
        )

    def _verify(self, stored: RemoteObject, capabilities: Capabilities) -> Verification:
        """
        Compare what the remote says with what was read.

        Raises:
            IntegrityError: They differ.
        """
        if stored.size is not None and stored.size != self.state.total:
            raise IntegrityError(
                f"{stored.location} has {stored.size} bytes, but"
                f" {self._source.name} has {self.state.total}."
            )
        if stored.sha256 is not None and self._sha256 is not None:
            if stored.sha256 != self._sha256:
                raise IntegrityError(
                    f"{stored.location} has the digest {stored.sha256}, but"
                    f" {self._source.name} has {self._sha256}."
                )
            return Verification.SHA256
        if capabilities.checksums:
            return Verification.CHUNKS
        return Verification.NONE if stored.size is None else Verification.SIZE

    async def _clear_up(self, remote: RemoteUpload) -> None:
        """Throw away what arrived; whatever made us stop is what gets reported."""
        aborting = asyncio.ensure_future(self._abort(remote))
        try:
            await asyncio.wait({aborting}, timeout=_CLEAR_UP)
        finally:
            # It took too long, or whoever cancelled us is in a hurry.
            aborting.cancel()
        await asyncio.wait({aborting}, timeout=_CLEAR_UP)
        if not aborting.cancelled() and (error := aborting.exception()) is not None:
            logger.warning(
                "%s: what arrived was not removed: %s", self.state.name, error
            )

    async def _abort(self, remote: RemoteUpload) -> None:
        """Abort as often as the retry policy allows: what is left there costs money."""
        retry = RetryState(self._policy.retry)
        while True:
            try:
                return await remote.abort()
            except UploadKitError as error:
                wait = retry.wait_after(error)
            await asyncio.sleep(wait)

    def _enter(self, stage: Stage) -> None:
        self.state.stage = stage
        self._emit(EventKind.STAGE)

    def _emit(
        self,
        kind: EventKind,
        *,
        chunk: int | None = None,
        attempt: int = 0,
        wait: float = 0.0,
        error: str | None = None,
        result: UploadResult | None = None,
    ) -> None:
        if kind is EventKind.RETRYING:
            logger.warning(
                "%s: chunk %s, try %d failed, next in %.1f s: %s",
                self.state.name,
                chunk,
                attempt,
                wait,
                error,
            )
        if kind is EventKind.BYTES:
            now = time.monotonic()
            if now - self._last_bytes < _BYTES_INTERVAL:
                return
            self._last_bytes = now
        if not (self._hub.is_heard or kind.is_final):
            return
        self._last = UploadEvent(
            kind=kind,
            transfer_id=self.state.transfer_id,
            seq=self._seq,
            at=time.time(),
            progress=self.state.snapshot(),
            chunk=chunk,
            attempt=attempt,
            wait=wait,
            error=error,
            result=result,
        )
        self._seq += 1
        self._hub.emit(self._last)

    def _end(
        self,
        kind: EventKind,
        status: UploadStatus,
        stage: Stage,
        *,
        stored: RemoteObject | None = None,
        verified: Verification = Verification.NONE,
        error: BaseException | None = None,
    ) -> UploadResult:
        """Tell everybody how it ended."""
        self.state.status = status
        self.state.stage = stage
        self.state.stop()
        result = self._result(stored, verified, error)
        logger.info("%s: %s after %.1f s", result.name, status.value, result.seconds)
        self._emit(kind, error=result.error, result=result)
        self._hub.close()
        if self._shared.record is not None:
            self._shared.record(self._history_row(result, status))
        return result

    def _result(
        self,
        stored: RemoteObject | None,
        verified: Verification,
        error: BaseException | None,
    ) -> UploadResult:
        return UploadResult(
            success=stored is not None,
            name=self.state.name,
            location=stored.location if stored else None,
            size=self.state.total,
            sha256=self._sha256,
            verified=verified,
            chunks=tuple(self._chunks[index] for index in sorted(self._chunks)),
            seconds=self.state.elapsed,
            bytes_sent=self.state.bytes_on_wire,
            bytes_resumed=self.state.resumed,
            retries=self.state.retries,
            error=str(error) or type(error).__name__ if error else None,
            error_type=type(error).__name__ if error else None,
            session_id=self.session_id,
            transfer_id=self.state.transfer_id,
        )

    def _history_row(self, result: UploadResult, status: UploadStatus) -> HistoryRow:
        compressor = self._compressor
        ratio = (
            compressor.bytes_out / compressor.bytes_in if compressor.bytes_in else None
        )
        return HistoryRow(
            transfer_id=self.state.transfer_id,
            started_at=self._started_at,
            finished_at=time.time(),
            name=result.name,
            source=self._source.path,
            destination=self._shared.shown,
            layer=self._policy.layer,
            status=status,
            size=result.size,
            bytes_sent=result.bytes_sent,
            bytes_resumed=result.bytes_resumed,
            seconds=result.seconds,
            rate=result.rate,
            chunks=len(result.chunks),
            chunk_size=self._plan.chunk_size,
            max_parallel=self._policy.max_parallel,
            retries=result.retries,
            retry_causes=dict(self._context.causes),
            compression_ratio=ratio,
            sha256=result.sha256,
            verified=result.verified,
            error_type=result.error_type,
            error=result.error,
            session_id=result.session_id,
            rtt=self._context.median_answer,
        )


async def describe(
    source: Source, request: UploadRequest, policy: TransferPolicy
) -> UploadSpec:
    """Return what a destination needs to know of an opened source."""
    content_type = request.content_type or type_by_name(source.name)
    if content_type is None:
        # Looking at the content reads files, the first time.
        content_type = await in_thread(detect_mime_type, source.name, source.head)
    return UploadSpec(
        name=source.name,
        size=source.size,
        content_type=content_type,
        metadata=request.metadata,
        overwrite=policy.overwrite,
        whole_digest=policy.whole_digest,
        via=request.via,
    )


def _first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that made a task group fail; the rest followed from it."""
    first = errors.exceptions[0]
    return _first_error(first) if isinstance(first, BaseExceptionGroup) else first
