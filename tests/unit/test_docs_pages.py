"""The documentation is complete, in step with the code, and builds without warnings."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest

import upload_kit
from upload_kit import errors
from upload_kit.cli.main import cli
from upload_kit.destinations.registry import own_schemes

if TYPE_CHECKING:
    from types import ModuleType

ROOT: Final = Path(__file__).parent.parent.parent
DOCS: Final = ROOT / "docs"


def load_generator() -> ModuleType:
    """Import the script that writes pages; docs are no package."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    pages: dict[Path, str] = load_generator().pages()
    return pages


GENERATED: Final = ("api", "cli", "destinations", "http-api", "settings")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_up_to_date(name: str, generated: dict[Path, str]) -> None:
    """Whoever changes an option or a route is told to run docs/generate.py."""
    path = DOCS / "reference" / f"{name}.md"
    assert path.read_text() == generated[path], "run: python docs/generate.py"
    assert len(generated) == len(GENERATED)


def test_every_command_and_option_is_on_the_pages() -> None:
    """The command line's pages leave nothing out."""
    text = (DOCS / "reference" / "cli.md").read_text()
    settings = (DOCS / "reference" / "settings.md").read_text()
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        command = cli.get_command(ctx, name)
        assert command is not None
        assert f"\n## {name}\n" in text
        for option in command.params:
            if isinstance(option, click.Option) and option.expose_value:
                assert f"`{option.opts[0]}`" in text
                assert option.envvar is None or f"`{option.envvar}`" in settings


def test_every_public_name_is_on_a_page() -> None:
    """The reference has whatever can be imported from the package."""
    text = (DOCS / "reference" / "api.md").read_text()
    for name in upload_kit.__all__:
        if name != "__version__":
            assert f"\n### {name}\n" in text


def test_every_scheme_is_on_a_page() -> None:
    """The table of capabilities has every destination."""
    text = (DOCS / "reference" / "destinations.md").read_text()
    for scheme in own_schemes():
        if not scheme.endswith("https") and scheme != "http":
            assert f"`{scheme}://`" in text


def error_classes() -> list[str]:
    found = inspect.getmembers(errors, inspect.isclass)
    return [name for name, one in found if issubclass(one, errors.UploadKitError)]


def test_troubleshooting_knows_every_error() -> None:
    """Whoever gets an error finds its name, what it means, and what to do."""
    text = (DOCS / "troubleshooting.md").read_text()
    sections = {
        part.split("\n", 1)[0]: part
        for part in re.split(r"^## ", text, flags=re.MULTILINE)
    }
    assert set(error_classes()) <= set(sections)
    bases = {"UploadKitError", "RemoteError", "SessionError"}
    for name in set(error_classes()) - bases:
        assert "**Means:**" in sections[name], name
        assert "**Do:**" in sections[name], name
    known = set(error_classes())
    titles = {title for title in sections if re.fullmatch(r"[A-Z]\w+", title)}
    assert titles - known == set()


def names_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("page", ["threat-model.md", "dev/waits.md"])
def test_pages_name_tests_that_exist(page: str) -> None:
    """Every test that answers for a threat or for a limit is there."""
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / page).read_text())
    assert len(named) >= 20
    where = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [
        f"{file}::{name}"
        for file, name in named
        if file not in where or name not in names_of(where[file])
    ]
    assert missing == []


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of every row of every table, without their heads."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    heads = [n for n, row in enumerate(rows) if set(row[0]) <= set("-|")]
    return [row for n, row in enumerate(rows) if not {n, n + 1} & set(heads)]


def test_threats_are_answered_by_tests() -> None:
    """Each row names a test, but for the one thing that there is no code for."""
    text = (DOCS / "threat-model.md").read_text()
    rows = rows_of(text.partition("## Attacks")[2].partition("\n## ")[0])
    assert len(rows) >= 20
    assert [row[0] for row in rows if "`test_" not in row[-1]] == [
        "the server fetches for an attacker (SSRF)"
    ]


def test_waits_have_a_limit_that_a_test_reaches() -> None:
    """Or the row says why there is none."""
    rows = rows_of((DOCS / "dev" / "waits.md").read_text())
    assert len(rows) >= 35
    for wait, _where, limit, _ending, tests in rows:
        assert "`test_" in tests or limit == "none", wait


@pytest.mark.timeout(120)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """
    Every link leads somewhere, every page is in the navigation, every name is found.

    Nothing in the site is fetched from another host when it is read.
    """
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    fetched = re.compile(r"""(?:src|href)=["'](https?:)?//[^"']+\.(?:js|css|woff2?)""")
    for page in tmp_path.rglob("*.html"):
        assert fetched.search(page.read_text()) is None, page
    assert "class ResumableUploader" not in (tmp_path / "index.html").read_text()
    reference = (tmp_path / "reference" / "api.html").read_text()
    assert "session_ttl" in reference


def test_pages_are_one_sentence_a_line() -> None:
    """A change of one sentence changes one line; generated pages are left alone."""
    sentence = re.compile(r"[a-z\d`)*]\. [A-Z`*\[]")
    prose = re.compile(r"^[A-Za-z*`\[]")
    for page in DOCS.rglob("*.md"):
        if "reference" in page.parts or "dev" in page.parts:
            continue
        code = False
        for line in page.read_text().splitlines():
            code = code != line.lstrip().startswith("```")
            if code or not prose.match(line) or line.startswith(("*The", "**")):
                continue
            assert sentence.search(line) is None, f"{page}: {line}"


def test_figures_say_what_they_show() -> None:
    """Whoever cannot see a figure reads it."""
    for page in DOCS.rglob("*.md"):
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
            assert len(text) > 30, f"{page}: {target}"
            assert (page.parent / target).is_file(), f"{page}: {target}"
