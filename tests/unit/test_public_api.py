"""What `upload_kit` offers: complete, lazy, typed, documented, with examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import upload_kit

NAMES: Final = [name for name in upload_kit.__all__ if name != "__version__"]
ROOT: Final = Path(upload_kit.__file__).parent


def imported_for_type_checkers() -> set[str]:
    """Return the names that the package's own source shows to type checkers."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_names_are_the_same_in_every_list() -> None:
    """What can be imported, what type checkers see, and what `*` means: one list."""
    assert set(NAMES) == imported_for_type_checkers()
    assert set(NAMES) == set(upload_kit._HOMES)
    assert list(upload_kit.__all__) == sorted(upload_kit.__all__)
    assert len(set(upload_kit.__all__)) == len(upload_kit.__all__)
    assert set(NAMES) <= set(dir(upload_kit))


@pytest.mark.parametrize("name", NAMES)
def test_name_can_be_used_and_is_documented(name: str) -> None:
    """It is there, has the name it is known by, and says what it is."""
    value = getattr(upload_kit, name)
    assert getattr(value, "__name__", name) == name
    assert inspect.getdoc(value)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_method_is_documented(name: str) -> None:
    """Also those that a class inherits from ours."""
    value = getattr(upload_kit, name)
    if not inspect.isclass(value):
        return
    for method, member in inspect.getmembers(value):
        if method.startswith("_") or not callable(member):
            continue
        if (getattr(member, "__module__", None) or "").startswith("upload_kit"):
            assert inspect.getdoc(member), f"{name}.{method}"


def test_unknown_name_is_an_attribute_error() -> None:
    """As of any module; `hasattr` works."""
    name = "no_such_thing"
    assert not hasattr(upload_kit, name)
    with pytest.raises(AttributeError, match=name):
        getattr(upload_kit, name)


def test_importing_it_imports_little() -> None:
    """Neither pandas nor a notebook's packages nor a cloud's, nor the wire."""
    script = """
import sys
before = set(sys.modules)
import upload_kit
after = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"aiohttp", "pandas", "numpy", "ipywidgets", "IPython", "botocore", "google"}
heavy |= {"nest_asyncio", "tqdm", "click", "puremagic", "zstandard", "sqlite3"}
print(*sorted(after & heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


def test_an_uploader_imports_no_extra() -> None:
    """The three layers work without any extra of the package."""
    script = """
import asyncio, sys
import upload_kit
for name in ("pandas", "ipywidgets", "IPython", "botocore", "google", "nest_asyncio"):
    sys.modules[name] = None
uploader = upload_kit.ResumableUploader("memory://x/", session_dir="memory:")
print(asyncio.run(uploader.upload_file(b"hello")).success)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True"


def test_package_says_that_it_is_typed() -> None:
    """Type checkers of those who use it look at its annotations."""
    assert (ROOT / "py.typed").is_file()


def modules_with_examples() -> list[str]:
    """Return every module that shows something at work."""
    found = []
    for module in pkgutil.walk_packages([str(ROOT)], "upload_kit."):
        path = ROOT.parent / Path(*module.name.split("."))
        source = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
        if ">>> " in source.read_text():
            found.append(module.name)
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_do_what_they_say(name: str) -> None:
    """Each is run, and its output compared."""
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_there_are_examples() -> None:
    """Of each layer at least."""
    assert {
        f"upload_kit.uploaders.{layer}" for layer in ("chunked", "parallel")
    } <= set(modules_with_examples())
