"""
Every snippet of README and docs works: Python and shell run, settings are read.

A page's Python blocks run one after another in one namespace, its shell blocks in the
same folder, against a real server at the address that the pages use. A block after
`<!-- not run: why -->` is only parsed, and so is a shell block that begins something
that no test should, such as `docker`; but the options of every `upload-kit` in it have
to exist.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pytest
import yaml

from tests.servers.process import ServerProcess
from upload_kit.cli.config_files import load_settings
from upload_kit.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parent.parent.parent
ADDRESS: Final = "http://127.0.0.1:8000/"
PAGES: Final = [
    ROOT / "README.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
# What a shell block may call to be run.
_HARMLESS: Final = frozenset(
    """
    upload-kit cat cd cmp cp curl echo export grep head kill ls mkdir openssl printf
    python rm seq sha256sum sleep sort tail test wait
    """.split()  # noqa: SIM905 (a word a command reads better than a line a command)
)
_FENCE: Final = re.compile(
    r"(?P<before><!-- not run:[^>]*-->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)"
    r"(?: title=\"(?P<title>[\w.]+)\")?[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    runs: bool
    title: str | None
    """File that the code is written to instead of being run."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(page: Path, *languages: str) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(
            page=page,
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"],
            code=textwrap.dedent(match["code"]),
            runs=match["before"] is None,
            title=match["title"],
        )
        for match in _FENCE.finditer(text)
        if match["language"] in languages
    ]


def with_snippets(*languages: str) -> pytest.MarkDecorator:
    """Have a test called with every page that has blocks of these languages."""
    pages = [page for page in PAGES if snippets(page, *languages)]
    ids = [str(page.relative_to(ROOT)) for page in pages]
    return pytest.mark.parametrize("page", pages, ids=ids)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run what stands at the address of the pages."""
    with ServerProcess(tmp_path_factory.mktemp("server") / "store") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a working folder that has the files which the pages speak of."""
    for name in list(os.environ):
        if name.startswith("UPLOAD_KIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("UPLOAD_KIT_PROGRESS", "none")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    work = tmp_path / "work"
    (work / "data" / "deep").mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    Path("big.bin").write_bytes(os.urandom(12_000_000))
    Path("small.txt").write_bytes(b"a line\n" * 1000)
    Path("data/a.parquet").write_bytes(os.urandom(100_000))
    Path("data/deep/b.parquet").write_bytes(os.urandom(100_000))
    Path("my.token").write_text("open-sesame\n")
    ours = logging.getLogger("upload_kit")
    handlers, level = list(ours.handlers), ours.level
    yield work
    ours.handlers[:] = handlers
    ours.setLevel(level)


def here(code: str, server: ServerProcess, folder: Path) -> str:
    """Return a page's code with the addresses and places of this test in it."""
    code = code.replace(ADDRESS, server.url)
    code = code.replace(ADDRESS.removesuffix("/"), server.url.removesuffix("/"))
    return code.replace("/srv/store", str(folder / "srv"))


@contextmanager
def blamed(snippet: Snippet) -> Iterator[None]:
    """Say which block of which page failed."""
    try:
        yield
    except (Exception, SystemExit) as error:
        error.add_note(f"in {snippet.place}")
        raise


@with_snippets("python")
def test_python_runs(page: Path, server: ServerProcess, folder: Path) -> None:
    """A page's Python does what a reader would do with it, from top to bottom."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with asyncio.Runner() as runner:
        for snippet in snippets(page, "python"):
            with blamed(snippet):
                tree = ast.parse(snippet.code)
                if snippet.title is not None:
                    Path(snippet.title).write_text(snippet.code)
                if snippet.title is not None or not snippet.runs:
                    continue
                code = compile(
                    here(snippet.code, server, folder),
                    snippet.place,
                    "exec",
                    flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                )
                assert tree.body
                if code.co_flags & inspect.CO_COROUTINE:
                    runner.run(_awaited(code, namespace))
                else:
                    exec(code, namespace)


async def _awaited(code: Any, namespace: dict[str, Any]) -> None:
    await eval(code, namespace)


@with_snippets("sh")
def test_shell_runs(page: Path, server: ServerProcess, folder: Path) -> None:
    """A page's commands work; those that nobody may run here have known options."""
    for snippet in snippets(page, "sh"):
        code = here(snippet.code, server, folder)
        with blamed(snippet):
            for words in commands(snippet.code):
                check_words(words)
            flag = "-eu" if may_run(snippet) else "-n"
            done = subprocess.run(
                ["bash", flag, "-c", code],
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
            assert done.returncode == 0, done.stderr


def may_run(snippet: Snippet) -> bool:
    """Return whether everything that a shell block begins is harmless."""
    return snippet.runs and all(
        words[0] in _HARMLESS and words[:2] != ["upload-kit", "serve"]
        for words in commands(snippet.code)
    )


def commands(code: str) -> list[list[str]]:
    """Return the commands of a shell block, as words, without what surrounds them."""
    joined = re.sub(r"\\\n\s*", " ", code)
    found = []
    for line in joined.splitlines():
        for command in re.split(r"&&|\|\||;|\||&(?=\s|$)", _uncommented(line)):
            words = shlex.split(command)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line)


def check_words(words: list[str]) -> None:
    """Fail if a command of ours has an option that it does not know."""
    if Path(words[0]).name != "upload-kit":
        return
    known = set(options_of(cli))
    command: click.Command = cli
    ctx = click.Context(cli)
    for word in words[1:]:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(ctx, word)
            if found is not None:
                command, ctx = found, click.Context(found, parent=ctx)
                known |= set(options_of(found))
        elif word.startswith("-") and word != "-" and not word.startswith(">"):
            assert word.partition("=")[0] in known, f"{word} in {shlex.join(words)}"
    assert command is not cli or "-" in words[1][:1], shlex.join(words)


def options_of(command: click.Command) -> list[str]:
    return ["--help", "-h", "-vv"] + [o for p in command.params for o in p.opts]


@with_snippets("toml")
def test_settings_are_known(page: Path, tmp_path: Path) -> None:
    """A page's settings are read without a complaint."""
    for snippet in snippets(page, "toml"):
        with blamed(snippet):
            path = tmp_path / "upload-kit.toml"
            path.write_text(snippet.code)
            if snippet.runs:
                assert load_settings(click.Context(cli), path).defaults


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "json": json.loads,
    "yaml": lambda code: list(yaml.safe_load_all(code)),
    "text": str,
    "diff": str,
    "ini": str,
    "nginx": str,
    "toml": str,
    "python": ast.parse,
    "sh": str,
}


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_blocks_are_of_a_language_that_is_checked(page: Path) -> None:
    """No block escapes these tests by being of a language that they do not know."""
    found = re.findall(r"^ *```(\w*)", page.read_text(), re.MULTILINE)
    assert set(found[::2]) <= set(_PARSERS), page
    assert set(found[1::2]) <= {""}, page
    for snippet in snippets(page, *_PARSERS):
        with blamed(snippet):
            _PARSERS[snippet.language](snippet.code)
