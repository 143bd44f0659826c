"""Measurements as a table, and each target with what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from upload_kit.bench.page import draw, report_page
from upload_kit.bench.peers.cases import targets
from upload_kit.bench.report import load_pandas, machine
from upload_kit.units import GIB, MB

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import pandas as pd

    from upload_kit.bench.peers.cases import Target
    from upload_kit.bench.peers.run import PeerMeasurement

SCHEMA: Final = {
    "case": "string",
    "client": "string",
    "server": "string",
    "size_bytes": "Int64",
    "part_size": "Int64",
    "link": "string",
    "repeat": "Int64",
    "elapsed": "float64",
    "throughput_mb_s": "float64",
    "client_cpu_s_gib": "float64",
    "server_cpu_s_gib": "float64",
    "peak_rss_bytes": "Int64",
}
"""Columns of the rows and their dtypes; MB are 10^6 bytes, CPU is seconds a GiB."""

_MEDIANS: Final = (
    "throughput_mb_s",
    "client_cpu_s_gib",
    "server_cpu_s_gib",
    "peak_rss_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target, and the median of what was measured of it in each round."""

    target: Target
    value: float

    @property
    def held(self) -> bool:
        """Whether it is good enough."""
        if self.target.figure in {"cpu", "memory"}:
            return self.value <= self.target.bound
        return self.value >= self.target.bound

    def __str__(self) -> str:
        """Say it in a line."""
        unit = MB if self.target.figure == "memory" else 1
        bound = "at most" if self.target.figure in {"cpu", "memory"} else "at least"
        return (
            f"{'held  ' if self.held else 'MISSED'} {self.target.ours}:"
            f" {self.target.what}: {self.value / unit:.2f}"
            f" ({bound} {self.target.bound / unit:g})"
        )


_OWN: Final[dict[str, Callable[[PeerMeasurement], float | None]]] = {
    "link": lambda measured: measured.of_link,
    "memory": lambda measured: measured.peak_rss,
}
_RATIOS: Final[dict[str, Callable[[PeerMeasurement, PeerMeasurement], float]]] = {
    "rate": lambda ours, theirs: ours.rate / theirs.rate,
    "cpu": lambda ours, theirs: ours.client_cpu / theirs.client_cpu,
}


@dataclass(frozen=True, slots=True)
class PeerReport:
    """
    The figures of a run beside peers.

    Args:
        measurements: One for each upload.
    """

    measurements: Sequence[PeerMeasurement]

    @property
    def frame(self) -> pd.DataFrame:
        """
        Return tidy rows, one an upload, with the columns and dtypes of `SCHEMA`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        rows = [_row(measured) for measured in self.measurements]
        frame: pd.DataFrame = load_pandas().DataFrame(rows, columns=list(SCHEMA))
        frame = frame.astype(SCHEMA)
        frame.attrs.update(machine())
        return frame

    def summary(self) -> pd.DataFrame:
        """Return a row a case: medians and the spread; indexed by `case`."""
        groups = self.frame.groupby("case", sort=False, observed=True)
        rate = groups["throughput_mb_s"]
        summary = groups[list(_MEDIANS)].median(numeric_only=True)
        summary.insert(0, "runs", groups.size())
        summary.insert(2, "p10_mb_s", rate.quantile(0.1))
        summary.insert(3, "p90_mb_s", rate.quantile(0.9))
        return summary

    def verdicts(self) -> list[Verdict]:
        """
        Return every target of what was measured.

        A ratio is taken within each round, where the machine was the same for both; its
        median counts.
        """
        rounds: dict[str, dict[int, PeerMeasurement]] = {}
        for measured in self.measurements:
            rounds.setdefault(measured.case.name, {})[measured.repeat] = measured
        cases = {measured.case.name: measured.case for measured in self.measurements}
        found = []
        for target in targets(list(cases.values())):
            ours = rounds[target.ours]
            if target.theirs:
                ratio, theirs = _RATIOS[target.figure], rounds[target.theirs]
                both = [number for number in ours if number in theirs]
                values = [ratio(ours[number], theirs[number]) for number in both]
            else:
                own = _OWN[target.figure]
                values = [own(measured) or 0.0 for measured in ours.values()]
            if values:
                found.append(Verdict(target=target, value=median(values)))
        return found

    def to_text(self) -> str:
        """Return the table for a terminal, the targets, and the machine."""
        with load_pandas().option_context(
            "display.width", 250, "display.max_columns", 30, "display.precision", 3
        ):
            table = str(self.summary())
        facts = ", ".join(f"{name} {value}" for name, value in machine().items())
        verdicts = "\n".join(str(verdict) for verdict in self.verdicts())
        return (
            f"{table}\n\n{verdicts}\n\n"
            f"medians; MB = 10^6 bytes; CPU in seconds a GiB; {facts}"
        )

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """
        Write a page that needs nothing beside it: tables, plot, and the machine.

        Raises:
            MissingExtra: pandas or matplotlib is not installed.
        """
        summary = self.summary()
        page = report_page(summary, self.frame, draw(summary))
        Path(path).write_text(page, encoding="utf-8")


def _row(measured: PeerMeasurement) -> dict[str, Any]:
    case = measured.case
    gibs = case.size / GIB
    return {
        "case": case.name,
        "client": case.client,
        "server": case.server,
        "size_bytes": case.size,
        "part_size": case.chunk_size,
        "link": str(case.link or "loopback"),
        "repeat": measured.repeat,
        "elapsed": measured.seconds,
        "throughput_mb_s": measured.rate / MB,
        "client_cpu_s_gib": measured.client_cpu / gibs,
        "server_cpu_s_gib": measured.server_cpu / gibs,
        "peak_rss_bytes": measured.peak_rss,
    }
