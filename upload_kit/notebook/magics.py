"""`%upload SOURCE DEST` and `%%upload DEST`, after `%load_ext upload_kit`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from IPython.core.error import UsageError

from upload_kit.models import Layer
from upload_kit.notebook.face import start, start_many, upload, upload_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

_KEYWORDS: Final = ("name", "layer", "parallel", "chunk_size", "limit", "progress")


class _Parser(argparse.ArgumentParser):
    """Tells of wrong use as magics do, instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def _parser(program: str, *, source: bool) -> _Parser:
    parser = _Parser(prog=program, add_help=False, allow_abbrev=False)
    if source:
        parser.add_argument("source", help="A path, or the name of a variable.")
    parser.add_argument("dest", help="URL of where it goes.")
    if source:
        parser.add_argument("--name", help="File name at the destination.")
    parser.add_argument("--layer", choices=[layer.value for layer in Layer])
    parser.add_argument("--parallel", type=int, help="Chunks on the wire at once.")
    parser.add_argument("--chunk-size", help="For example 5MiB.")
    parser.add_argument("--limit", help="For example 10MB/s.")
    parser.add_argument("--progress", help="How it is shown.")
    parser.add_argument("--start", action="store_true", help="Do not wait for the end.")
    return parser


_LINE: Final = _parser("%upload", source=True)
_CELL: Final = _parser("%%upload", source=False)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Make `%upload` and `%%upload` known; IPython calls it for `%load_ext`."""

    def line_magic(line: str) -> object:
        """Upload a file, or what a variable holds."""
        options = _read(_LINE, line)
        source = _find(options.source, shell.user_ns)
        call = start if options.start else upload
        return call(source, options.dest, **_keywords(options))

    def cell_magic(line: str, cell: str) -> object:
        """Upload each line of the cell: paths, patterns, folders."""
        options = _read(_CELL, line)
        sources = [one.strip() for one in cell.splitlines()]
        named = [one for one in sources if one and not one.startswith("#")]
        if not named:
            raise UsageError("Write what to upload below, a path or pattern a line.")
        call = start_many if options.start else upload_many
        return call(named, options.dest, **_keywords(options))

    # Its annotations are of another time.
    register: Callable[..., None] = shell.register_magic_function
    register(line_magic, "line", "upload")
    register(cell_magic, "cell", "upload")


def _read(parser: _Parser, line: str) -> argparse.Namespace:
    try:
        words = shlex.split(line)
    except ValueError as error:
        parser.error(f"{error}.")
    return parser.parse_args(words)


def _keywords(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name, None) for name in _KEYWORDS}
    return {name: value for name, value in given.items() if value is not None}


def _find(word: str, variables: dict[str, Any]) -> Any:
    """Return the path that a word is; else the variable of that name."""
    if word in variables and not Path(word).exists():
        return variables[word]
    return word
