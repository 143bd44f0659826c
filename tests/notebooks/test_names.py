"""The public names: complete, light, and not in the way of the modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

import upload_kit as uk


def test_every_public_name_can_be_had() -> None:
    """`__all__` is what the lazy table knows, and each of it can be imported."""
    assert sorted({*uk._HOMES, "__version__"}) == uk.__all__
    for name in uk.__all__:
        assert getattr(uk, name) is not None


def test_the_issue_s_names_are_there() -> None:
    """What the notebook face promises is public."""
    promised = {"start", "upload", "upload_many", "resume", "sessions", "history"}
    assert promised | {"serve", "allow_nested", "doctor", "demo"} <= set(uk.__all__)


def test_importing_is_light() -> None:
    """Neither the import nor an upload without a notebook needs its packages."""
    code = """
import sys, upload_kit as uk
heavy = {"pandas", "ipywidgets", "IPython", "matplotlib", "numpy"}
assert not heavy & set(sys.modules)
assert "aiohttp" not in sys.modules
uk.upload(b"x", "memory://x/", progress=None)
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "module"), [("sessions", "sessions.manager"), ("demo", "demo.stage")]
)
def test_a_function_that_has_the_name_of_a_package(name: str, module: str) -> None:
    """Importing the package does not put it in the function's place."""
    code = f"""
import upload_kit as uk
import upload_kit.{module}
from upload_kit import {name}
assert callable(uk.{name}) and {name} is uk.{name}
assert upload_kit.{name} is uk.{name}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name() -> None:
    """A name that does not exist is no import error of something else."""
    with pytest.raises(AttributeError, match="no attribute 'uplaod'"):
        uk.uplaod  # type: ignore[attr-defined] # noqa: B018 (misspelt on purpose)
