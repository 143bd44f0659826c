"""tqdm bars on a terminal: one a file, a few at most, and a total for many."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import click
from tqdm.std import tqdm
from tqdm.utils import disp_len

from upload_kit.events import EventKind
from upload_kit.models import UploadProgress, UploadStatus
from upload_kit.terminal.words import (
    amount,
    count_retries,
    describe_result,
    pace,
    percent,
    printable,
)
from upload_kit.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadResult
    from upload_kit.terminal.tally import Tally

_ROWS: Final = 5
_NAME: Final = 24
_BAR: Final = 10
_NOTE: Final = 26
_WIDE: Final = 100
_USUAL: Final = 80
_FORMAT: Final = "{upload_name} {upload_percent} |{bar}| {upload_facts}"
# Seconds without news after which a speed is no news either.
_STALE: Final = 2.0
_COLOURS: Final = {
    UploadStatus.COMPLETE: "green",
    UploadStatus.FAILED: "red",
    UploadStatus.CANCELLED: "yellow",
}


class Row(tqdm):  # type: ignore[type-arg]  # generic only in its stubs
    """One line of the screen: a tqdm bar whose words are ours."""

    # tqdm's monitor would be a thread that outlives the bars.
    monitor_interval = 0

    upload_name = ""
    upload_percent = ""
    upload_facts = ""

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar's format may name."""
        return {
            **super().format_dict,
            "upload_name": self.upload_name,
            "upload_percent": self.upload_percent,
            "upload_facts": self.upload_facts,
        }

    def draw(self, progress: UploadProgress, facts: str, *, name_width: int) -> None:
        """Show an upload in this row."""
        total, confirmed = progress.total, progress.confirmed
        if not total:
            # tqdm takes a total of 0 for one that is not known.
            total = 1
            confirmed = int(progress.status is UploadStatus.COMPLETE)
        self.total = total
        self.n = min(confirmed, total)
        self.colour = _colour(progress.status)
        self.upload_name = fit(printable(progress.name), name_width)
        self.upload_percent = percent(progress)
        self.upload_facts = facts
        self.refresh()


# One lock between threads is enough; tqdm's own would be shared between processes too.
Row.set_lock(threading.RLock())


class Bars:
    """
    Draws the uploads under way, at most five of them, and the total of many.

    Args:
        out: A terminal.

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
        self._few = tally.files <= _ROWS
        self._total = self._row(0) if tally.files > 1 else None
        self._rows: dict[str, Row] = {}
        self._notes: dict[str, str] = {}
        self._seen: dict[str, float] = {}
        self._ended: dict[str, UploadProgress] = {}
        self._results: list[UploadResult] = []
        self._name_width = 1

    def _row(self, position: int) -> Row:
        row = Row(
            bar_format=_FORMAT,
            position=position,
            file=self._out,
            dynamic_ncols=True,
            leave=True,
            total=1,
            # A new bar would be drawn at once, without its words.
            delay=1e-9,
        )
        row.delay = 0
        return row

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Draw what changed, each row once."""
        for event in events:
            self._take(event)
        for progress in self._visible():
            self._draw(progress)
        if self._total is not None:
            total = self._tally.total()
            if self._tally.failed:
                self._notes["total"] = f"{_doing(total)}, {self._tally.failed:,} failed"
            width = max(self._name_width, len(total.name))
            self._name_width = min(width, _NAME)
            self._total.draw(total, self._facts(total), name_width=self._name_width)

    def _take(self, event: UploadEvent) -> None:
        """Remember what the rows need to know."""
        self._tally.update(event)
        key, progress = event.transfer_id, event.progress
        self._seen[key] = self._clock()
        width = disp_len(printable(progress.name))
        self._name_width = min(max(self._name_width, width), _NAME)
        if event.kind is EventKind.RETRYING:
            cause = printable(event.error or "")
            retry = f"retry {progress.retries} in {event.wait:.1f} s"
            self._notes[key] = f"{retry}: {cause}"
        elif event.kind is not EventKind.BYTES:
            self._notes.pop(key, None)
        if event.kind.is_final:
            self._seen.pop(key, None)
            if key in self._rows or self._few:
                self._ended[key] = progress
            if event.result is not None and event.result.success and self._few:
                self._results.append(event.result)

    def _visible(self) -> Iterator[UploadProgress]:
        """Yield what has a row, or gets one now."""
        for key, progress in list(self._ended.items()):
            if key not in self._rows:
                self._give_row(key)
            yield progress
            if not self._few:
                self._notes.pop(key, None)
        for key, event in self._tally.active.items():
            if key in self._rows or self._give_row(key):
                yield event.progress

    def _give_row(self, key: str) -> bool:
        """Give an upload a new row, or that of one that has ended."""
        if len(self._rows) < _ROWS:
            first = 0 if self._total is None else 1
            self._rows[key] = self._row(first + len(self._rows))
            return True
        for old in self._ended:
            if old in self._rows:
                self._rows[key] = self._rows.pop(old)
                del self._ended[old]
                return True
        return False

    def _draw(self, progress: UploadProgress) -> None:
        row = self._rows.get(progress.transfer_id)
        if row is not None:
            row.draw(progress, self._facts(progress), name_width=self._name_width)

    def _facts(self, progress: UploadProgress) -> str:
        """Return what stands to the right of a bar, and leaves room for one."""
        columns = _columns(self._out)
        room = columns - self._name_width - len(" 100% || ") - _BAR
        return _styled(cut(self._words(progress, columns), room), progress.status)

    def _words(self, progress: UploadProgress, columns: int) -> str:
        note = self._notes.get(progress.transfer_id)
        seen = self._seen.get(progress.transfer_id)
        if note is None:
            stale = seen is not None and self._clock() - seen > _STALE
            note = "no answer yet" if stale and progress.sent else pace(progress)
            if progress.retries:
                note += f", {count_retries(progress.retries)}"
        done = f"{amount(progress):>22}"
        if columns >= _WIDE:
            flight = progress.in_flight
            done += f" {f'+{format_size(flight)}' if flight else '':>10}"
        return f"{done}  {note:<{_NOTE}}"

    def close(self) -> None:
        """Leave the last state of a few files on the screen, of many only the total."""
        rows = sorted(self._rows.values(), key=lambda row: abs(row.pos))
        total = [] if self._total is None else [self._total]
        if not self._few:
            # Cleared while the cursor still stands where they count their lines from.
            for row in rows:
                row.leave = False
        for row in [*total, *rows] if self._few else [*rows, *total]:
            row.close()
        for result in self._results if self._tells_results else ():
            self._out.write(describe_result(result) + "\n")
        self._out.flush()


def _doing(total: UploadProgress) -> str:
    over = total.status.is_final
    return f"done in {format_duration(total.elapsed)}" if over else pace(total)


def cut(text: str, width: int) -> str:
    """Return as much of the beginning of a text as fits into so many columns."""
    used = 0
    for position, char in enumerate(text):
        used += disp_len(char)
        if used > width:
            return text[:position]
    return text


def fit(text: str, width: int) -> str:
    """Return text of exactly so many columns, cut in its middle if it is longer."""
    if disp_len(text) > width:
        tail = cut(text[::-1], width // 2)[::-1]
        text = f"{cut(text, width - disp_len(tail) - 1)}\N{HORIZONTAL ELLIPSIS}{tail}"
    return text + " " * (width - disp_len(text))


def print_above(line: str, out: TextIO) -> None:
    """Write a line above the bars that are on the screen."""
    Row.write(line, file=out)


def _colour(status: UploadStatus) -> str | None:
    return None if "NO_COLOR" in os.environ else _COLOURS.get(status)


def _styled(text: str, status: UploadStatus) -> str:
    colour = _colour(status)
    return click.style(text, fg=colour) if colour else text


def _columns(out: TextIO) -> int:
    try:
        # Some pseudo-terminals have a size of 0 by 0.
        return os.get_terminal_size(out.fileno()).columns or _USUAL
    except (OSError, ValueError):
        return _USUAL
