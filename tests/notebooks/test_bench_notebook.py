"""The benchmark of the notebook face: a real kernel, and figures with their bounds."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from click.testing import CliRunner

from upload_kit.bench.command import bench
from upload_kit.bench.notebook.run import NotebookFigure, NotebookSettings, verdicts
from upload_kit.units import MB

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from upload_kit.bench.notebook.run import NotebookSettings, measure
settings = NotebookSettings.from_json(sys.argv[2])
for figure in measure(1, Path(sys.argv[1]), settings):
    print(figure.to_json())
"""


def test_every_promise_is_measured(tmp_path: Path) -> None:
    """What a panel costs, what is left beside busy cells, how fast a history loads."""
    settings = NotebookSettings(size=20 * MB, seconds=0.3, limit=4.0 * MB, rows=300)
    # In a process of its own: Jupyter's client blocks the loop that it runs in.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path, settings.to_json()],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = [NotebookFigure.from_json(line) for line in done.stdout.splitlines()]
    by_name = {figure.name: figure for figure in figures}
    assert list(by_name) == [
        "panel, share of the CPU time",
        "panel, share of the throughput",
        "limited upload beside time.sleep, share of the limit",
        "limited upload beside a Python loop, share of the limit",
        "history of 300 uploads, seconds to load",
    ]
    # A limit that held nothing back would give many times as much.
    assert 0 < by_name["limited upload beside time.sleep, share of the limit"].value < 3
    assert figures[-1].value > 0
    assert figures[-1].detail == "300 rows"
    assert list(tmp_path.iterdir()) == []


def test_medians_are_held_against_the_bounds() -> None:
    """One bad round is no miss, and the side of the bound counts."""
    rows = [
        ("cost", True, 0.02, (0.01, 0.5, 0.01)),
        ("share", False, 0.7, (0.6, 0.9, 0.6)),
    ]
    figures = [
        NotebookFigure(name=name, repeat=index, value=value, bound=bound, at_most=side)
        for name, side, bound, values in rows
        for index, value in enumerate(values)
    ]
    assert verdicts(figures) == [
        "held   cost: 0.010 (at most 0.02)",
        "MISSED share: 0.600 (at least 0.7)",
    ]


def test_it_is_measured_by_itself() -> None:
    """Beside other suites its figures would mean nothing."""
    done = CliRunner().invoke(bench, ["notebook", "small"])
    assert done.exit_code == 2
    assert "Measure notebook by itself." in done.output
