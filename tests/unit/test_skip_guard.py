"""A run in CI fails when a test was skipped, and says which."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_TESTS: Final = Path(__file__).parent.parent
_SUITE: Final = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="no such server")
def test_left_out():
    pass

@pytest.mark.xfail(strict=True)
def test_known_to_fail():
    assert False
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a little project with our conftest and one skipped test."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "allowed-skips.txt").touch()
    (tmp_path / "tests").mkdir()
    shutil.copy(_TESTS / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_suite.py").write_text(_SUITE)
    return tmp_path


def run(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if k not in {"CI", "PYTEST_ADDOPTS"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests"],
        cwd=project,
        env={**outside, **environment, "PYTHONPATH": str(_TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_skip_fails_the_run_in_ci(project: Path) -> None:
    """With CI set the run ends with 1 and names the test and its reason."""
    done = run(project, CI="true")
    assert done.returncode == 1
    assert "tests/test_suite.py::test_left_out: Skipped: no such server" in done.stdout


def test_skip_of_a_whole_module_fails_the_run_in_ci(project: Path) -> None:
    """A module that skips itself while it is collected counts too."""
    (project / "tests" / "test_suite.py").write_text(
        "import pytest\npytest.skip('no browser', allow_module_level=True)\n"
    )
    (project / "tests" / "test_other.py").write_text("def test_runs():\n    pass\n")
    done = run(project, CI="true")
    assert done.returncode == 1
    assert "tests/test_suite.py: Skipped: no browser" in done.stdout


def test_allowed_skip_passes_in_ci(project: Path) -> None:
    """A test that the list names may be skipped."""
    (project / ".ci" / "allowed-skips.txt").write_text(
        "# Because.\ntests/test_suite.py::test_left_out\n"
    )
    assert run(project, CI="true").returncode == 0


def test_skip_passes_on_a_developers_machine(project: Path) -> None:
    """Without CI a missing server is no failure."""
    assert run(project).returncode == 0
