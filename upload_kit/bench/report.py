"""Measurements as DataFrames: tidy rows, medians, and the figure beside each."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import upload_kit
from upload_kit.bench.page import draw, figure_size, report_page, summary_html
from upload_kit.errors import MissingExtra
from upload_kit.units import MB

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from upload_kit.bench.run import Measurement

SCHEMA: Final = {
    "case": "string",
    "layer": "string",
    "size_bytes": "Int64",
    "files": "Int64",
    "part_size": "Int64",
    "concurrency": "Int64",
    "limit_mb_s": "float64",
    "link": "string",
    "storing": "string",
    "repeat": "Int64",
    "elapsed": "float64",
    "throughput_mb_s": "float64",
    "files_per_s": "float64",
    "ideal_mb_s": "float64",
    "of_ideal": "float64",
    "raw_mb_s": "float64",
    "of_raw": "float64",
    "client_cpu_s": "float64",
    "server_cpu_s": "float64",
    "peak_rss_bytes": "Int64",
    "retries": "Int64",
    "verified": "string",
    "ok": "boolean",
    "target": "string",
}
"""Columns of a report's rows and their dtypes; MB are 10^6 bytes, times are seconds."""

_SUMMARY: Final = (
    "throughput_mb_s",
    "ideal_mb_s",
    "of_ideal",
    "raw_mb_s",
    "of_raw",
    "files_per_s",
    "client_cpu_s",
    "server_cpu_s",
    "peak_rss_bytes",
)


def machine() -> dict[str, str | int]:
    """Return what the figures depend on: processor count, system, versions."""
    import aiohttp
    import psutil

    return {
        "cores": psutil.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "upload_kit": upload_kit.__version__,
    }


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """
    The figures of a benchmark.

    Args:
        measurements: One for each run of each case.
    """

    measurements: Sequence[Measurement]

    @property
    def frame(self) -> pd.DataFrame:
        """
        Return tidy rows, one a run, with the columns and dtypes of `SCHEMA`.

        `attrs` tells of the machine; it holds JSON types only.

        Raises:
            MissingExtra: pandas is not installed.
        """
        pandas = load_pandas()
        rows = [_row(measurement) for measurement in self.measurements]
        frame: pd.DataFrame = pandas.DataFrame(rows, columns=list(SCHEMA))
        frame = frame.astype(SCHEMA)
        frame.attrs.update(machine())
        return frame

    def summary(self, baseline: str | None = None) -> pd.DataFrame:
        """
        Return a row a case: medians, spread, and the speed-up against one of them.

        Args:
            baseline: Name of the case that counts as 1; by default the first one.

        Returns:
            Columns `runs`, `throughput_mb_s`, `p10_mb_s`, `p90_mb_s`, `speed_up`, then
            medians of the rest, and `target`; indexed by `case`, in the order of
            running.
        """
        frame = self.frame
        groups = frame.groupby("case", sort=False, observed=True)
        rate = groups["throughput_mb_s"]
        medians = groups[list(_SUMMARY)].median(numeric_only=True)
        first = baseline or (medians.index[0] if len(medians) else None)
        summary = medians.copy()
        summary.insert(0, "runs", groups.size())
        summary.insert(2, "p10_mb_s", rate.quantile(0.1))
        summary.insert(3, "p90_mb_s", rate.quantile(0.9))
        if first is not None:
            speed_up = medians["throughput_mb_s"] / medians["throughput_mb_s"][first]
            summary.insert(4, "speed_up", speed_up)
        summary["ok"] = groups["ok"].all()
        summary["target"] = groups["target"].first()
        return summary.dropna(axis="columns", how="all")

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """
        Draw the median throughput of each case, and the ideal or raw rate beside it.

        Args:
            ax: Where to draw; None for a new figure, which a notebook shows.

        Returns:
            The axes; unit MB/s (10^6 bytes a second), one bar a case, whiskers from the
            10th to the 90th percentile.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        summary = self.summary()
        if ax is None:
            try:
                from matplotlib import pyplot as plt
            except ModuleNotFoundError as error:
                raise MissingExtra("matplotlib", "bench") from error
            _, ax = plt.subplots(figsize=figure_size(summary), layout="constrained")
        return draw(summary, ax)

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return summary_html(self.summary())

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """
        Write a page that needs nothing beside it: tables, plot, and the machine.

        Raises:
            MissingExtra: pandas or matplotlib is not installed.
        """
        summary = self.summary()
        page = report_page(summary, self.frame, draw(summary))
        Path(path).write_text(page, encoding="utf-8")

    def to_text(self) -> str:
        """Return the summary as a table for a terminal, and the machine beneath it."""
        with load_pandas().option_context(
            "display.width", 250, "display.max_columns", 30, "display.precision", 3
        ):
            table = str(self.summary())
        facts = ", ".join(f"{name} {value}" for name, value in machine().items())
        return f"{table}\n\nmedians; MB = 10^6 bytes; {facts}"


def _row(measurement: Measurement) -> dict[str, Any]:
    case = measurement.case
    rate, raw, ideal = measurement.rate, measurement.raw_rate, case.ideal
    return {
        "case": case.name,
        "layer": case.layer.value,
        "size_bytes": case.size,
        "files": case.files,
        "part_size": case.chunk_size,
        "concurrency": case.parallel,
        "limit_mb_s": None if case.limit is None else case.limit / MB,
        "link": str(case.link or "loopback"),
        "storing": case.storing.value,
        "repeat": measurement.repeat,
        "elapsed": measurement.seconds,
        "throughput_mb_s": rate / MB,
        "files_per_s": measurement.files_rate if case.files > 1 else None,
        "ideal_mb_s": None if ideal is None else ideal / MB,
        "of_ideal": None if ideal is None else rate / ideal,
        "raw_mb_s": None if raw is None else raw / MB,
        "of_raw": None if raw is None else rate / raw,
        "client_cpu_s": measurement.client_cpu,
        "server_cpu_s": measurement.server_cpu,
        "peak_rss_bytes": measurement.peak_rss,
        "retries": measurement.retries,
        "verified": measurement.verified,
        "ok": measurement.ok,
        "target": case.target,
    }


def load_pandas() -> Any:
    """Return pandas; MissingExtra tells how to get it."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise MissingExtra("pandas", "bench") from error
    return pd
