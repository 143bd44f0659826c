"""
One upload from its source to its destination; the engine knows ports only.

    open source -> negotiate -> plan -> session: reopen and ask, or open
    -> lanes: put -> receipt -> checkpoint -> event -> complete -> verify -> result
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from upload_kit.engine.delivery import Delivery
from upload_kit.engine.fitting import fitting_plan, may_resume
from upload_kit.engine.flow import LaneContext
from upload_kit.engine.outcome import make_history_row, make_result
from upload_kit.engine.reporter import Reporter
from upload_kit.engine.request import describe
from upload_kit.errors import (
    RemoteError,
    RemoteGone,
    SourceError,
    UploadCancelled,
    UploadKitError,
)
from upload_kit.events import EventKind
from upload_kit.logs import about
from upload_kit.models import Stage, UploadStatus, Verification
from upload_kit.progress.state import ProgressState
from upload_kit.retry import retrying
from upload_kit.sessions.base import can_go_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from upload_kit.config import TransferPolicy
    from upload_kit.destinations.base import RemoteUpload
    from upload_kit.engine.request import Shared, UploadRequest
    from upload_kit.events import UploadEvent
    from upload_kit.models import RemoteObject, UploadResult, UploadSpec
    from upload_kit.planning import Capabilities, Plan
    from upload_kit.progress.feeds import Feed
    from upload_kit.sessions.base import Checkpoint
    from upload_kit.sources.base import Source

logger = logging.getLogger("upload_kit.transfer")

_T = TypeVar("_T")

# Tries of the first contact: a wrong port should not take a minute to tell.
_FIRST_CONTACT: Final = 4


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
        self._reporter = Reporter(self.state, listeners)
        self._running = asyncio.Event()
        self._running.set()
        self._checkpoint: Checkpoint | None = None
        self._chunk_size = policy.chunk_size
        self._delivery: Delivery | None = None
        self._context = LaneContext(
            source=source,
            policy=policy,
            state=self.state,
            pool=shared.pool,
            throttle=shared.throttle,
            slots=shared.slots,
            running=self._running,
            reporter=self._reporter,
        )

    def pause(self) -> None:
        """Stop sending; only in the upload's own event loop."""
        if self._running.is_set() and not self.state.status.is_final:
            self._running.clear()
            self.state.pause()
            self._reporter.emit(EventKind.PAUSED)

    def resume(self) -> None:
        """Go on sending; only in the upload's own event loop."""
        # What was on the wire when it was paused may have ended it.
        if not self._running.is_set() and not self.state.status.is_final:
            self.state.unpause()
            self._running.set()
            self._reporter.emit(EventKind.RESUMED)

    def result(self) -> UploadResult:
        """Return how the upload ended, also when it failed; only once it has ended."""
        return self._reporter.result()

    def cancelled(self) -> UploadCancelled:
        """Return the error that tells that somebody cancelled it."""
        return UploadCancelled(
            f"The upload of {self.state.name} was cancelled.",
            session_id=self.session_id,
        )

    def subscribe(self) -> Feed:
        """Return a feed of the events from now on; of the last one if it has ended."""
        return self._reporter.subscribe()

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
        self._reporter.emit(EventKind.STARTED)
        logger.info("%s: upload to %s starts", self.state.name, self._shared.shown)
        try:
            stored, verified = await self._upload()
        except asyncio.CancelledError:
            self._end(
                EventKind.CANCELLED, UploadStatus.CANCELLED, error=self.cancelled()
            )
            raise
        except BaseException as error:
            if isinstance(error, UploadKitError):
                if not self._can_go_on_after(error):
                    self.session_id = None
                error.session_id = self.session_id or error.session_id
            self._end(EventKind.FAILED, UploadStatus.FAILED, error=error)
            raise
        finally:
            await self._source.aclose()
        return self._end(
            EventKind.COMPLETED,
            UploadStatus.COMPLETE,
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
        self._reporter.entered(Stage.PLANNING)
        destination = self._shared.destination
        capabilities = await self._first_contact(lambda: destination.negotiate(spec))
        plan = fitting_plan(
            self._source, self._policy, capabilities, where=self._shared.shown
        )
        self._chunk_size = plan.chunk_size
        keeper, wanted = self._shared.keeper, self._request.session_id
        if keeper is None or not may_resume(
            self._source, self._policy, capabilities, plan=plan, session_id=wanted
        ):
            return await self._transfer(spec, plan, capabilities)
        async with keeper.hold(
            spec, plan, self._source, session_id=wanted
        ) as checkpoint:
            self._checkpoint = checkpoint
            self.session_id = checkpoint.session.session_id
            self._chunk_size = checkpoint.session.chunk_size
            plan = replace(plan, chunk_size=self._chunk_size)
            spec = replace(spec, has_session=True)
            stored, verified = await self._transfer(spec, plan, capabilities)
            checkpoint.arrived(stored, verified)
            return stored, verified

    async def _first_contact(self, call: Callable[[], Awaitable[_T]]) -> _T:
        return await retrying(
            call,
            self._policy.retry,
            attempts=_FIRST_CONTACT,
            tell=self._reporter.retrying,
        )

    async def _transfer(
        self, spec: UploadSpec, plan: Plan, capabilities: Capabilities
    ) -> tuple[RemoteObject, Verification]:
        """Move the bytes; start over once if the remote lost what it had."""
        self.state.chunks_total = plan.total_chunks
        self._delivery = delivery = Delivery(
            self._context, plan, capabilities, self._checkpoint
        )
        remote = await self._reopen(spec, plan)
        if remote is not None:
            try:
                return await delivery.deliver(remote)
            except RemoteGone:
                logger.warning("%s: the destination lost what it had", spec.name)
        remote = await self._open(spec, plan, delivery)
        try:
            return await delivery.deliver(remote)
        except RemoteGone:
            if not self._source.rereadable:
                raise
            remote = await self._open(spec, plan, delivery)
            return await delivery.deliver(remote)

    async def _reopen(self, spec: UploadSpec, plan: Plan) -> RemoteUpload | None:
        """Go on with what the session remembers, if the remote still has it."""
        if self._checkpoint is None or not self._checkpoint.session.remote_token:
            return None
        token = self._checkpoint.session.remote_token
        destination = self._shared.destination
        try:
            return await self._first_contact(
                lambda: destination.reopen(spec, plan, token)
            )
        except RemoteGone:
            return None

    async def _open(
        self, spec: UploadSpec, plan: Plan, delivery: Delivery
    ) -> RemoteUpload:
        """Begin anew at the remote, and remember how to come back."""
        delivery.start_over()
        destination = self._shared.destination
        remote = await self._first_contact(lambda: destination.open(spec, plan))
        if self._checkpoint is not None:
            await self._checkpoint.opened(remote.token)
        return remote

    def _end(
        self,
        kind: EventKind,
        status: UploadStatus,
        *,
        stored: RemoteObject | None = None,
        verified: Verification = Verification.NONE,
        error: BaseException | None = None,
    ) -> UploadResult:
        """Tell everybody how it ended."""
        self.state.end(status)
        result = make_result(
            self.state,
            self._delivery,
            session_id=self.session_id,
            stored=stored,
            verified=verified,
            error=error,
        )
        self._reporter.end(kind, result)
        if self._shared.record is not None:
            row = make_history_row(
                result,
                self._context,
                self._delivery,
                destination=self._shared.shown,
                chunk_size=self._chunk_size,
            )
            self._shared.record(row)
        return result
