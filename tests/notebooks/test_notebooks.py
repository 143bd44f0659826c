"""The notebooks: each runs from top to bottom and says what it said when committed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

_ROOT: Final = Path(__file__).parent.parent.parent
_SANITIZE: Final = Path(__file__).parent / "nbval.cfg"
NOTEBOOKS: Final = sorted((_ROOT / "notebooks").glob("*.ipynb"))

every_notebook = pytest.mark.parametrize(
    "notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS]
)


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return cells


@pytest.mark.timeout(180)
@every_notebook
def test_it_runs_and_says_the_same(notebook: Path, tmp_path: Path) -> None:
    """`pytest --nbval`, strictly: durations, rates, ports and IDs may differ."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env"),
            *("--nbval-sanitize-with", str(_SANITIZE), "--nbval-cell-timeout", "60"),
            *("-q", "-p", "no:cacheprovider", "-W", "default", str(notebook)),
        ],
        cwd=_ROOT,
        env={
            **os.environ,
            "UPLOAD_KIT_PROGRESS": "static",
            "UPLOAD_KIT_SESSION_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


@every_notebook
def test_it_was_committed_as_it_ran(notebook: Path) -> None:
    """Every cell ran once, in order, and its outputs need no kernel to be read."""
    code = [cell for cell in cells_of(notebook) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    text = notebook.read_text()
    assert "widget-view" not in text
    assert str(Path.home()) not in text
    assert len(text) < 400_000
    for cell in code:
        failed = any(output["output_type"] == "error" for output in cell["outputs"])
        assert failed == ("raises-exception" in cell["metadata"].get("tags", []))


@every_notebook
def test_it_leaves_nothing_behind(notebook: Path) -> None:
    """Sessions go elsewhere, servers are closed, folders removed; all is local."""
    source = "\n".join("".join(cell["source"]) for cell in cells_of(notebook))
    assert 'os.environ["UPLOAD_KIT_SESSION_DIR"] = str(folder' in source
    assert source.count("uk.serve(") == source.count("server.close()")
    assert "shutil.rmtree(folder)" in source
    assert not re.search(r"https?://(?!127\.0\.0\.1)", source)


def test_the_notebooks_are_there() -> None:
    """The five that the documentation names."""
    names = [path.stem for path in NOTEBOOKS]
    assert names == [
        "01_first_upload",
        "02_the_three_layers",
        "03_resume_after_a_crash",
        "04_history_and_plots",
        "05_benchmark_report",
    ]
