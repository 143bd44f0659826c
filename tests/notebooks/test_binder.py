"""Binder's configuration, checked by what builds it, without a container."""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

_ROOT: Final = Path(__file__).parent.parent.parent


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(_ROOT)
    with warnings.catch_warnings():
        # It imports a module that one of its packages has renamed.
        warnings.simplefilter("ignore", DeprecationWarning)
        buildpacks = import_module("repo2docker.buildpacks")
    pack = buildpacks.PythonBuildPack("docker.io/library/buildpack-deps:jammy")
    pack.platform = "linux/amd64"
    return pack


def test_the_build_takes_our_configuration(build: Any) -> None:
    """repo2docker finds binder/, its Python fits, and the file can be written."""
    assert build.detect()
    assert build.binder_dir == "binder"
    assert build.python_version == "3.12"
    rendered = build.render()
    assert "binder/requirements.txt" in rendered
    # The project itself is installed, so it must be there before pip runs.
    copied = rendered.index("COPY --chown=1000:1000 src/ ${REPO_DIR}/")
    assert copied < rendered.index("pip install --no-cache-dir -r")


def test_only_one_style_of_configuration() -> None:
    """An environment.yml would win over the requirements; scripts must be runnable."""
    files = {path.name for path in (_ROOT / "binder").iterdir()}
    assert files == {"runtime.txt", "requirements.txt"}


def test_the_requirements_are_those_of_the_notebooks() -> None:
    """The extra that brings panels, tables and plots is asked for."""
    lines = (_ROOT / "binder" / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted[0] == ".[notebook,bench]"


def test_demos_stay_small() -> None:
    """Binder has little memory and disk: no notebook writes a file above 64 MiB."""
    for notebook in (_ROOT / "notebooks").glob("*.ipynb"):
        sizes = re.findall(r"(?:randbytes|urandom)\((\d[\d_]*)\)", notebook.read_text())
        assert all(int(size.replace("_", "")) <= 64 * 2**20 for size in sizes)


def test_every_notebook_can_be_opened_there() -> None:
    """The page that says how names each of them, and its address is a real file's."""
    page = (_ROOT / "docs" / "notebook.md").read_text()
    for notebook in (_ROOT / "notebooks").glob("*.ipynb"):
        assert notebook.stem in page
    urls = re.findall(r"https://mybinder\.org/v2/\S+?ipynb", page)
    assert [(_ROOT / url.partition("lab/tree/")[2]).exists() for url in urls] == [True]
