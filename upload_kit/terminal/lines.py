"""Progress for what is no terminal: plain lines for people, JSON for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from upload_kit.events import EventKind
from upload_kit.models import UploadStatus
from upload_kit.terminal.words import amount, describe_result, pace, printable
from upload_kit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadProgress
    from upload_kit.terminal.tally import Tally

# A log that is watched for silence must not take a slow upload for a dead one.
_MOST_OFTEN: Final = 2.0
_LEAST_OFTEN: Final = 60.0
_STEP: Final = 10
# More files than these are told of as one.
_TOLD_ONE_BY_ONE: Final = 5


class JsonLines:
    """
    Writes a `StreamingProgress` a line.

    Args:
        out: Where to.
    """

    pause = 0.0

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Write a line an event."""
        if events:
            lines = (event.to_streaming().to_json() for event in events)
            self._out.write("".join(f"{line}\n" for line in lines))
            self._out.flush()

    def close(self) -> None:
        """Nothing is left to be written."""


class PlainLines:
    """
    Writes a line when an upload starts, at each tenth of it, and when it ends.

    In between it writes no more than a line in 2 s, and no less than one a minute.

    Args:
        out: Where to.

        tally: Takes in every event.

        tells_results: Whether to write a line of each upload that is complete.

        clock: Monotonic seconds.
    """

    pause = 0.1

    def __init__(
        self,
        out: TextIO,
        tally: Tally,
        *,
        tells_results: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out
        self._tally = tally
        self._tells_results = tells_results
        self._clock = clock
        self._one_by_one = tally.files <= _TOLD_ONE_BY_ONE
        self._said: dict[str, tuple[float, int]] = {}

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Write what is worth a line."""
        for event in events:
            self._tally.update(event)
            if self._one_by_one:
                self._tell(event)
        if self._one_by_one:
            for event in self._tally.active.values():
                self._tell_progress(event.progress)
        else:
            self._tell_progress(self._tally.total())
        self._out.flush()

    def _tell(self, event: UploadEvent) -> None:
        name = printable(event.progress.name)
        if event.kind is EventKind.PLANNED:
            self._say(event.progress, f"{name}: {_plan(event.progress)}")
        elif event.kind is EventKind.RETRYING and self._is_due(event.progress):
            cause = printable(event.error or "")
            self._say(
                event.progress, f"{name}: tries again in {event.wait:.1f} s: {cause}"
            )
        elif self._tells_results and event.result and event.result.success:
            self._write(describe_result(event.result))
        if event.kind.is_final:
            self._said.pop(event.transfer_id, None)

    def _tell_progress(self, progress: UploadProgress) -> None:
        """Write where it stands, if a tenth is full or a minute over."""
        if progress.status is not UploadStatus.UPLOADING:
            return
        if progress.transfer_id not in self._said:
            self._said[progress.transfer_id] = (self._clock(), _tenths(progress))
            return
        said_at, tenths = self._said[progress.transfer_id]
        silent = self._clock() - said_at
        full = _tenths(progress) > tenths and silent >= _MOST_OFTEN
        if full or silent >= _LEAST_OFTEN:
            share = "" if progress.percent is None else f"{int(progress.percent)}%, "
            self._say(
                progress,
                f"{printable(progress.name)}: {share}{amount(progress)},"
                f" {pace(progress)}",
            )

    def _is_due(self, progress: UploadProgress) -> bool:
        said_at, _ = self._said.get(progress.transfer_id, (-_MOST_OFTEN, 0))
        return self._clock() - said_at >= _MOST_OFTEN

    def _say(self, progress: UploadProgress, line: str) -> None:
        self._said[progress.transfer_id] = (self._clock(), _tenths(progress))
        self._write(line)

    def _write(self, line: str) -> None:
        self._out.write(f"{line}\n")

    def close(self) -> None:
        """Nothing is left to be written."""


def _plan(progress: UploadProgress) -> str:
    if progress.total is None:
        return "uploading, size not known yet"
    chunks = progress.chunks_total
    what = "chunk" if chunks == 1 else "chunks"
    return f"uploading {format_size(progress.total)} in {chunks:,} {what}"


def _tenths(progress: UploadProgress) -> int:
    return int((progress.percent or 0.0) // _STEP)
