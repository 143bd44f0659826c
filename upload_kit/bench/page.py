"""How a benchmark's summary looks: as bars, as a table, as a page of its own."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Final

from upload_kit.errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Told apart by everybody, also in grey. Source: Okabe and Ito, Color Universal Design.
_BAR: Final = "#0072b2"
_MARK: Final = "#d55e00"
_LABELS: Final = {
    "runs": "runs",
    "throughput_mb_s": "MB/s",
    "p10_mb_s": "p10",
    "p90_mb_s": "p90",
    "speed_up": "speed-up",
    "ideal_mb_s": "ideal MB/s",
    "of_ideal": "of ideal",
    "raw_mb_s": "raw socket MB/s",
    "of_raw": "of raw",
    "files_per_s": "files/s",
    "client_cpu_s": "client CPU s",
    "server_cpu_s": "server CPU s",
    "peak_rss_mb": "peak memory MB",
    "ok": "all arrived",
    "target": "held against",
}
_DECIMALS: Final = {"speed_up": 2, "of_ideal": 3, "of_raw": 2}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>upload_kit benchmark</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 14px; }}
td, th {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; }}
tbody th, td:last-child, th:last-child {{ text-align: left; font-weight: normal; }}
img {{ max-width: 100%; background: white; border-radius: 6px; }}
figcaption, .note {{ color: #888; font-size: 14px; }}
div {{ overflow-x: auto; }}
</style></head><body>
<h1>upload_kit benchmark</h1>
<p class="note">{machine}. Medians; MB = 10<sup>6</sup> bytes. Client and server share
these cores.</p>
<div>{summary}</div>
<figure><img alt="{caption}" src="data:image/png;base64,{plot}">
<figcaption>{caption}</figcaption></figure>
<details><summary>Every run</summary><div>{rows}</div></details>
</body></html>
"""


def figure_size(summary: pd.DataFrame) -> tuple[float, float]:
    """Return width and height of a figure with a bar a case, in inches."""
    return 9, 1.2 + 0.5 * len(summary)


def draw(summary: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """
    Draw bars of the median throughput, with the ideal or the raw socket as a mark.

    Args:
        summary: A row a case.

        ax: Where to; None for a figure of its own that no window shows.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtra("matplotlib", "bench") from error
    if ax is None:
        ax = Figure(figsize=figure_size(summary), layout="constrained").subplots()
    names = [str(name) for name in summary.index]
    rate = summary["throughput_mb_s"]
    low, high = rate - summary["p10_mb_s"], summary["p90_mb_s"] - rate
    ax.barh(names, rate, xerr=[low, high], color=_BAR, ecolor="#555", height=0.6)
    for column, label in (("ideal_mb_s", "ideal"), ("raw_mb_s", "raw socket")):
        if column in summary:
            ax.plot(
                summary[column], names, "|", color=_MARK, markersize=18, label=label
            )
    for row, value in enumerate(rate):
        ax.annotate(f" {value:.3g}", (value, row), va="center", fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel("MB/s (median; whiskers: 10th to 90th percentile)")
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def summary_html(summary: pd.DataFrame) -> str:
    """Return the summary as a table for people."""
    shown = summary.copy()
    if "peak_rss_bytes" in shown:
        shown["peak_rss_mb"] = (shown["peak_rss_bytes"] / 1e6).astype("float64")
    shown = shown[[name for name in _LABELS if name in shown]]
    formats = {
        column: f"{{:.{_DECIMALS.get(str(column), 1)}f}}".format
        for column in shown.select_dtypes("float").columns
    }
    text: str = shown.rename(columns=_LABELS).to_html(
        formatters={_LABELS[str(name)]: form for name, form in formats.items()},
        na_rep="",
        border=0,
        index_names=False,
    )
    return text


def report_page(summary: pd.DataFrame, rows: pd.DataFrame, plot: Axes) -> str:
    """Return a page that needs nothing beside it."""
    picture = io.BytesIO()
    figure = plot.get_figure(root=True)
    assert figure is not None
    figure.savefig(picture, format="png", dpi=120)
    machine = ", ".join(f"{name} {value}" for name, value in rows.attrs.items())
    best = summary["throughput_mb_s"].idxmax()
    caption = f"Median throughput of each case; the fastest is {best}."
    return _PAGE.format(
        machine=html.escape(machine),
        summary=summary_html(summary),
        caption=html.escape(caption),
        plot=base64.b64encode(picture.getvalue()).decode("ascii"),
        rows=rows.to_html(border=0, index=False, na_rep=""),
    )
