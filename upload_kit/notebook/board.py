"""What is to be seen of a job at one moment, kept from its events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from upload_kit.events import EventKind
from upload_kit.terminal.tally import Tally
from upload_kit.terminal.words import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upload_kit.api.jobs import Job
    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadProgress, UploadResult

_ROWS: Final = 5
_RESULTS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One upload among many that is under way."""

    progress: UploadProgress
    """Where it stands."""

    note: str | None = None
    """Why it was tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A job as it is to be shown."""

    name: str
    """The file's name, or how many files there are."""

    destination: str
    """Where it goes, without secrets."""

    progress: UploadProgress
    """Where it stands; of many, their sum."""

    files: int = 1
    """How many uploads there are."""

    ended: int = 0
    """How many of them have ended."""

    complete: int = 0
    """How many of them are complete."""

    note: str | None = None
    """Why it was tried again."""

    rows: tuple[Row, ...] = ()
    """Of many: some of those under way."""

    more_rows: int = 0
    """How many further ones are under way."""

    results: tuple[UploadResult, ...] = ()
    """How some of them ended; those that failed come first."""

    more_results: int = 0
    """How many further ones have ended."""

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self.ended == self.files

    @property
    def state(self) -> str:
        """How it stands, in one word."""
        if self.is_final and 0 < self.complete < self.files:
            return "incomplete"
        return self.progress.status.value

    @property
    def failed(self) -> tuple[UploadResult, ...]:
        """Those of the results that failed."""
        return tuple(result for result in self.results if not result.success)


class Board:
    """
    Keeps what is to be seen of a job; an event costs the same for any number of files.

    Args:
        job: Not begun yet, so that no event is missed.
    """

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._tally = Tally(files=job.files, size=job.size)
        self._notes: dict[str, str] = {}
        self._failed: list[UploadResult] = []
        self._complete: list[UploadResult] = []

    def update(self, events: Iterable[UploadEvent]) -> None:
        """Take in what happened, in order."""
        for event in events:
            self._tally.update(event)
            if event.kind is EventKind.RETRYING:
                self._notes[event.transfer_id] = _note(event)
            elif event.result is not None:
                self._take_result(event.transfer_id, event.result)

    def _take_result(self, transfer_id: str, result: UploadResult) -> None:
        if self._job.files > 1:
            self._notes.pop(transfer_id, None)
        kept = self._complete if result.success else self._failed
        if len(kept) < _RESULTS:
            kept.append(result)

    def view(self) -> View:
        """Return the job as it stands now."""
        if self._job.files == 1:
            progress = self._job.progress
            return self._view(progress, note=next(iter(self._notes.values()), None))
        active = list(self._tally.active.values())
        rows = [
            Row(progress=event.progress, note=self._notes.get(event.transfer_id))
            for event in active[:_ROWS]
        ]
        total = self._tally.total()
        in_flight = sum(event.progress.in_flight for event in active)
        total = replace(total, sent=total.confirmed + in_flight)
        if self._tally.ended != self._job.files and self._job.is_paused:
            total = replace(total, status=self._job.progress.status, rate=0.0)
        return self._view(total, rows=rows, more_rows=max(0, len(active) - _ROWS))

    def _view(
        self,
        progress: UploadProgress,
        *,
        note: str | None = None,
        rows: Iterable[Row] = (),
        more_rows: int = 0,
    ) -> View:
        complete = sorted(self._complete, key=lambda result: result.name)
        results = (*self._failed, *complete)[:_RESULTS]
        return View(
            name=self._job.name,
            destination=self._job.destination,
            progress=progress,
            files=self._job.files,
            ended=self._tally.ended,
            complete=self._tally.complete,
            note=note,
            rows=tuple(rows),
            more_rows=more_rows,
            results=results,
            more_results=self._tally.ended - len(results),
        )


def _note(event: UploadEvent) -> str:
    what = "" if event.chunk is None else f"Chunk {event.chunk}: "
    return f"{what}{printable(event.error or 'it failed')}"
