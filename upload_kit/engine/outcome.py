"""How an upload ended, as the records that are left of it: a result, a row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from upload_kit.models import UploadResult, Verification
from upload_kit.sessions.history import HistoryRow

if TYPE_CHECKING:
    from upload_kit.engine.delivery import Delivery
    from upload_kit.engine.flow import LaneContext
    from upload_kit.models import RemoteObject
    from upload_kit.progress.state import ProgressState


def make_result(
    state: ProgressState,
    delivery: Delivery | None,
    *,
    session_id: str | None,
    stored: RemoteObject | None = None,
    verified: Verification = Verification.NONE,
    error: BaseException | None = None,
) -> UploadResult:
    """
    Return how an upload ended.

    Args:
        state: What it counted.

        delivery: What the remote acknowledged; None if it never came to that.

        session_id: The session to go on with, where there is one.

        stored: What stands at the destination; None if the upload failed.

        verified: How far that was compared with the source.

        error: Why it failed.
    """
    chunks = {} if delivery is None else delivery.chunks
    return UploadResult(
        success=stored is not None,
        name=state.name,
        location=stored.location if stored else None,
        size=state.total,
        sha256=None if delivery is None else delivery.sha256,
        verified=verified,
        chunks=tuple(chunks[index] for index in sorted(chunks)),
        seconds=state.elapsed,
        bytes_sent=state.bytes_on_wire,
        bytes_resumed=state.resumed,
        retries=state.retries,
        error=str(error) or type(error).__name__ if error else None,
        error_type=type(error).__name__ if error else None,
        session_id=session_id,
        transfer_id=state.transfer_id,
    )


def make_history_row(
    result: UploadResult,
    context: LaneContext,
    delivery: Delivery | None,
    *,
    destination: str,
    chunk_size: int,
) -> HistoryRow:
    """
    Return what the history keeps of an upload.

    Args:
        result: How it ended.

        context: What its lanes shared, and measured.

        delivery: How its chunks travelled; None if none did.

        destination: Its URL without secrets.

        chunk_size: Bytes of every chunk but the last.
    """
    state, policy = context.state, context.policy
    return HistoryRow(
        transfer_id=state.transfer_id,
        started_at=state.started_at,
        finished_at=time.time(),
        name=result.name,
        source=context.source.path,
        destination=destination,
        layer=policy.layer,
        status=state.status,
        size=result.size,
        bytes_sent=result.bytes_sent,
        bytes_resumed=result.bytes_resumed,
        seconds=result.seconds,
        rate=result.rate,
        chunks=len(result.chunks),
        chunk_size=chunk_size,
        max_parallel=policy.max_parallel,
        retries=result.retries,
        retry_causes=dict(context.reporter.causes),
        compression_ratio=None if delivery is None else delivery.compressor.ratio,
        sha256=result.sha256,
        verified=result.verified,
        error_type=result.error_type,
        error=result.error,
        session_id=result.session_id,
        rtt=context.median_answer,
    )
