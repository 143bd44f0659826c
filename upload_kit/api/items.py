"""One upload of a job: what it will be, and how it failed where it could not tell."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from upload_kit.errors import SessionConflict, UploadCancelled, UploadKitError
from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import Stage, UploadProgress, UploadResult, UploadStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upload_kit.transfer import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One upload that a job will make when its turn comes."""

    name: str
    """File name at the destination."""

    begin: Callable[[], Transfer]
    """Starts it; called in the loop."""

    size: int | None = None
    """Bytes, where that is known before it starts."""

    destination: str = ""
    """URL of where it goes, without secrets."""

    path: str | None = None
    """Absolute path of the source; None if it has none."""


_claimed: set[tuple[str, str, str]] = set()


@contextmanager
def claiming(item: Item) -> Iterator[None]:
    """
    Keep a second upload of the same file to the same place out, in this process.

    Only in the loop's thread.

    Raises:
        SessionConflict: There is one already.
    """
    if item.path is None:
        yield
        return
    place = (item.path, item.destination, item.name)
    if place in _claimed:
        raise SessionConflict(
            f"{item.name} is on its way to {item.destination} already.",
            hint="Wait for that job, or cancel it; upload_kit.jobs() lists it.",
        )
    _claimed.add(place)
    try:
        yield
    finally:
        _claimed.discard(place)


def unexpected(error: Exception) -> UploadKitError:
    """Return a defect as an error that can be shown; its cause is kept."""
    wrapped = UploadKitError(
        f"{type(error).__name__}: {error}",
        hint="This is not meant to happen; please report it.",
    )
    wrapped.__cause__ = error
    return wrapped


def waiting(item: Item) -> UploadProgress:
    """Return the state of an upload whose turn has not come."""
    return UploadProgress(transfer_id="", name=item.name, total=item.size)


def refusal(part: UploadProgress, error: UploadKitError) -> UploadEvent:
    """Return the final event of an upload that could tell nobody itself."""
    cancelled = isinstance(error, UploadCancelled)
    transfer_id = part.transfer_id or secrets.token_hex(8)
    return UploadEvent(
        kind=EventKind.CANCELLED if cancelled else EventKind.FAILED,
        transfer_id=transfer_id,
        seq=0,
        at=time.time(),
        progress=replace(
            part,
            transfer_id=transfer_id,
            status=UploadStatus.CANCELLED if cancelled else UploadStatus.FAILED,
            stage=Stage.CANCELLED if cancelled else Stage.FAILED,
        ),
        error=str(error),
        result=UploadResult(
            success=False,
            name=part.name,
            size=part.total,
            error=str(error),
            error_type=type(error).__name__,
            transfer_id=transfer_id,
        ),
    )
