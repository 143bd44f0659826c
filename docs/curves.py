"""
Measure what the performance page shows, and draw it.

    python docs/curves.py             some minutes, on a machine that does nothing else
    python docs/curves.py --quick     a minute, to see that it works

Writes docs/assets/curves/*.svg, and the tables in docs/reference/curves.md. Needs the
extra `bench`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.bench.cases import Case, LinkSpec, Storing
from upload_kit.bench.report import BenchmarkReport, machine
from upload_kit.bench.run import Bench
from upload_kit.models import Layer
from upload_kit.units import KIB, MB, MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

DOCS: Final = Path(__file__).parent
CURVES: Final = DOCS / "assets" / "curves"
PAGE: Final = DOCS / "reference" / "curves.md"
SLOW: Final = LinkSpec(rate_per_connection=4 * MB)
"""One connection makes 4 MB/s, and there may be many."""
FAR: Final = LinkSpec(rate_per_connection=8 * MB, latency=0.05)
"""A round trip takes 100 ms."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One figure: a row of measurements, and one thing that differs between them."""

    name: str
    title: str
    axis: str
    points: Sequence[tuple[str, Case]]


def curves(*, quick: bool) -> list[Curve]:
    """Return what is measured; less of it when it has to be quick."""
    size = 16 * MB if quick else 64 * MB
    big = 128 * MIB if quick else 1024 * MIB
    one = Case(name="", layer=Layer.FEATURE, size=size, parallel=4, link=FAR)
    near = replace(one, size=big, link=None, parallel=3)
    polish = replace(near, layer=Layer.POLISH)
    times = 2 if quick else 10
    chunk_sizes = [256 * KIB, MIB, 2 * MIB, 5 * MIB, 8 * MIB, 16 * MIB]
    return [
        Curve(
            name="chunk-size",
            title="Chunk size, 4 lanes of 8 MB/s, round trip 100 ms",
            axis="chunk size",
            points=[
                (_binary(chunk), replace(one, chunk_size=chunk))
                for chunk in chunk_sizes
            ],
        ),
        Curve(
            name="parallelism",
            title="Chunks at once, 4 MB/s a connection",
            axis="max_parallel",
            points=[
                (str(lanes), replace(one, parallel=lanes, link=SLOW, chunk_size=MIB))
                for lanes in (1, 2, 3, 4, 6, 8)
            ],
        ),
        Curve(
            name="bandwidth",
            title="A bandwidth limit, and what comes of it",
            axis="bandwidth_limit",
            points=[
                (
                    f"{limit // MB} MB/s",
                    replace(polish, size=times * limit, limit=float(limit)),
                )
                for limit in (5 * MB, 10 * MB, 20 * MB, 50 * MB)
            ],
        ),
        Curve(
            name="verification",
            title="What proof and durability cost, on loopback",
            axis="layer and server",
            points=[
                ("feature\nchunks", near),
                ("polish\nwhole file", polish),
                ("polish\nfsync", replace(polish, storing=Storing.FSYNC)),
                ("feature\ndiscarded", replace(near, storing=Storing.DISCARD)),
            ],
        ),
    ]


def _binary(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def measure(curve: Curve, *, repeat: int) -> pd.DataFrame:
    """Return medians and spread in MB/s, a row a point, in their order."""
    cases = [replace(case, name=label) for label, case in curve.points]
    with Bench(repeat=repeat) as bench:
        report = BenchmarkReport(list(bench.run(cases)))
    return report.summary()


def draw(curve: Curve, summary: pd.DataFrame) -> None:
    """Write the figure; its text stays text, and no date makes it differ."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "upload_kit"})
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    labels = list(summary.index)
    middle = summary["throughput_mb_s"].to_numpy()
    low, high = summary["p10_mb_s"].to_numpy(), summary["p90_mb_s"].to_numpy()
    axes.errorbar(
        labels, middle, yerr=[middle - low, high - middle], marker="o", capsize=3
    )
    axes.set(title=curve.title, xlabel=curve.axis, ylabel="MB/s", ylim=(0, None))
    axes.grid(axis="y", alpha=0.3)
    CURVES.mkdir(parents=True, exist_ok=True)
    path = CURVES / f"{curve.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def page(measured: Sequence[tuple[Curve, pd.DataFrame]], *, quick: bool) -> str:
    """Return the table of all figures."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    how = "a quick look, on a busy machine" if quick else "a machine of its own"
    lines = [
        "<!-- Written by docs/curves.py. -->",
        "",
        "# Measured",
        "",
        f"{datetime.now(tz=UTC):%Y-%m-%d}, {how}: {facts}.",
        "Client and server share its cores.",
        "MB are 10^6 bytes; medians of all rounds, with the 10th and 90th percentile.",
        "[Performance](../performance.md) says what to make of it.",
    ]
    for curve, summary in measured:
        lines += ["", f"## {curve.title}", ""]
        lines += [f"| {curve.axis} | file | MB/s | 10 % | 90 % | client CPU s |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for (label, case), (_, row) in zip(
            curve.points, summary.iterrows(), strict=True
        ):
            cells = [
                label.replace("\n", ", "),
                format_size(case.size),
                f"{row['throughput_mb_s']:.1f}",
                f"{row['p10_mb_s']:.1f}",
                f"{row['p90_mb_s']:.1f}",
                f"{row['client_cpu_s']:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> None:
    """Measure, draw and write everything."""
    quick = "--quick" in words
    measured = []
    for curve in curves(quick=quick):
        print(curve.title, flush=True)
        summary = measure(curve, repeat=1 if quick else 5)
        draw(curve, summary)
        measured.append((curve, summary))
    PAGE.write_text(page(measured, quick=quick), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
