"""Measures what a notebook adds to an upload, and takes from it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from upload_kit.bench.notebook.kernel import MeasuredKernel
from upload_kit.bench.notebook.past import write_past
from upload_kit.records import Record
from upload_kit.server.child import ServerProcess
from upload_kit.units import GIB, MB, format_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The second half runs backwards, so that a machine that slows down slows both alike.
_TURNS: Final = (False, True, True, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookFigure(Record):
    """One figure of one round."""

    name: str
    """What was measured."""

    repeat: int
    """Which round, from 0."""

    value: float
    """A share, or seconds."""

    bound: float
    """What it is held against."""

    at_most: bool
    """Whether the bound is one from above."""

    detail: str = ""
    """What it was computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookSettings(Record):
    """How much is measured."""

    size: int = 4 * GIB
    """Bytes of the file; it has no blocks, so that no disk is measured."""

    seconds: float = 3.0
    """How long a cell works beside an upload."""

    limit: float = 20.0 * MB
    """Bytes a second of that upload."""

    rows: int = 100_000
    """Uploads in the history."""


def measure(
    repeat: int, folder: Path | None, settings: NotebookSettings
) -> Iterator[NotebookFigure]:
    """
    Yield the figures of each round as soon as they are known.

    Args:
        repeat: Rounds.

        folder: Where files go; None for a temporary folder.

        settings: How much is measured.

    Raises:
        MissingExtra: There is no kernel to be had.
        UploadKitError: A cell failed, or the server did not start.
    """
    with tempfile.TemporaryDirectory(prefix="upload_kit-bench-", dir=folder) as made:
        place = Path(made)
        source = place / "sparse.bin"
        with source.open("wb") as file:
            file.truncate(settings.size)
        with (
            ServerProcess(place / "store", "--dir", "null:") as server,
            MeasuredKernel(place / "state") as kernel,
        ):
            past = place / "history.db"
            write_past(past, settings.rows)
            upload = _Upload(kernel, str(source), server.url)
            # The first one opens connections and imports.
            upload("upload", progress="widget")
            for number in range(repeat):
                yield from _panel(upload, number, settings)
                yield from _beside(upload, number, settings)
                yield _history(kernel, past, number, settings)


class _Upload:
    """Uploads the file in a cell, in one way or another."""

    def __init__(self, kernel: MeasuredKernel, path: str, url: str) -> None:
        self._kernel = kernel
        self._place = (path, url)

    def __call__(self, function: str, **options: object) -> dict[str, float]:
        return self._kernel.ask(function, *self._place, **options)


def _panel(
    upload: _Upload, number: int, settings: NotebookSettings
) -> Iterator[NotebookFigure]:
    cpu, seconds = {False: 0.0, True: 0.0}, {False: 0.0, True: 0.0}
    for shown in _TURNS:
        figures = upload("upload", progress="widget" if shown else None)
        cpu[shown] += figures["cpu"]
        seconds[shown] += figures["seconds"]
    rates = {shown: 2 * settings.size / seconds[shown] for shown in seconds}
    yield NotebookFigure(
        name="panel, share of the CPU time",
        repeat=number,
        value=cpu[True] / cpu[False] - 1,
        bound=0.02,
        at_most=True,
        detail=f"{cpu[True]:.2f} s CPU with it, {cpu[False]:.2f} s without",
    )
    yield NotebookFigure(
        name="panel, share of the throughput",
        repeat=number,
        value=1 - rates[True] / rates[False],
        bound=0.02,
        at_most=True,
        detail=f"{format_rate(rates[True])} with it, {format_rate(rates[False])}"
        " without",
    )


def _beside(
    upload: _Upload, number: int, settings: NotebookSettings
) -> Iterator[NotebookFigure]:
    for work, name, bound in (
        ("sleep", "limited upload beside time.sleep", 0.98),
        ("compute", "limited upload beside a Python loop", 0.7),
    ):
        figures = upload(
            "upload_beside",
            work=work,
            seconds=settings.seconds,
            limit=settings.limit,
        )
        yield NotebookFigure(
            name=f"{name}, share of the limit",
            repeat=number,
            value=figures["share"],
            bound=bound,
            at_most=False,
            detail=f"limit {format_rate(settings.limit)}",
        )


def _history(
    kernel: MeasuredKernel, past: Path, number: int, settings: NotebookSettings
) -> NotebookFigure:
    figures = kernel.ask("load_history", str(past))
    return NotebookFigure(
        name=f"history of {settings.rows:,} uploads, seconds to load",
        repeat=number,
        value=figures["seconds"],
        bound=1.0,
        at_most=True,
        detail=f"{figures['rows']:,} rows",
    )


def verdicts(figures: Sequence[NotebookFigure]) -> list[str]:
    """Return a line for each thing that was measured: its median, and its bound."""
    values: dict[str, list[float]] = {}
    for figure in figures:
        values.setdefault(figure.name, []).append(figure.value)
    lines = []
    for figure in {figure.name: figure for figure in figures}.values():
        value = median(values[figure.name])
        held = value <= figure.bound if figure.at_most else value >= figure.bound
        sign = "at most" if figure.at_most else "at least"
        lines.append(
            f"{'held  ' if held else 'MISSED'} {figure.name}: {value:.3f}"
            f" ({sign} {figure.bound:g})"
        )
    return lines
