"""Which files the words of a command line name, and what they are called afterwards."""

from __future__ import annotations

import asyncio
import glob
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from upload_kit.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


STDIN: Final = "-"
# What a pipe holds at most, unless it was told otherwise.
_PIECE: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to upload."""

    source: str | BinaryIO | AsyncIterator[bytes]
    """What an uploader takes; paths are strings."""

    name: str
    """What it is called at the destination; parts separated by `/`."""

    size: int | None = None
    """Bytes, where that is known without opening it."""


def gather(words: Sequence[str], *, name: str | None = None) -> list[Item]:
    """
    Return what is to be uploaded, in the order of the words.

    A file goes by its own name, and the files of a folder by their paths below it. What
    a pattern found goes by the path below the last folder that the pattern names in
    full. What is not there is left for the upload to complain about.

    Args:
        words: Paths, patterns, folders; or `-` alone, for standard input.

        name: What to call a single file.

    Raises:
        ConfigurationError: A name is missing or one too many, or two files would get
            the same one.
        SourceError: A folder holds no files.
    """
    if STDIN in words:
        return [_standard_input(words, name)]
    items = [item for word in words for item in _find(word)]
    if name is not None:
        if len(items) != 1:
            raise ConfigurationError(
                f"--name is for one file, and there are {len(items)}."
            )
        return [Item(source=items[0].source, name=name, size=items[0].size)]
    return list(_without_doubles(items))


def _standard_input(words: Sequence[str], name: str | None) -> Item:
    if len(words) > 1:
        raise ConfigurationError("Standard input (-) cannot go with other sources.")
    if name is None:
        raise ConfigurationError(
            "What comes from standard input has no name.", hint="Give it one: --name."
        )
    if sys.stdin is None:
        raise SourceError("Standard input is closed.")
    descriptor = sys.stdin.fileno()
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) or sys.platform == "win32":
        return Item(source=sys.stdin.buffer, name=name)
    return Item(source=read_stream(descriptor), name=name)


async def read_stream(descriptor: int) -> AsyncIterator[bytes]:
    """
    Yield what comes through a pipe, a socket or a terminal, as it comes.

    No thread waits in a read that nothing could end, so an interrupt comes through.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    while True:
        ready.clear()
        loop.add_reader(descriptor, ready.set)
        try:
            # No limit: whoever writes decides how long it takes.
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        # It does not block: there is something to read, or the other end is closed.
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return
        yield piece


def _find(word: str) -> Iterator[Item]:
    path = Path(word)
    if path.is_dir():
        yield from _walk(path, path)
    elif glob.has_magic(word) and not os.path.lexists(path):
        yield from _match(word)
    else:
        yield _item(path, path.name)


def _match(pattern: str) -> Iterator[Item]:
    """Yield what a pattern finds; if nothing, itself, to be missed."""
    root = _fixed_part(pattern)
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute ones too)
    if not found:
        yield _item(Path(pattern), Path(pattern).name)
    seen = set()
    for path in map(Path, found):
        for item in _walk(path, root) if path.is_dir() else [_below(path, root)]:
            if item.source not in seen:
                seen.add(item.source)
                yield item


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _walk(folder: Path, root: Path) -> Iterator[Item]:
    """Yield the files of a folder and of those in it, in a fixed order."""

    def fail(error: OSError) -> None:
        raise SourceError(f"Cannot read {error.filename}: {error.strerror}.") from error

    empty = True
    for where, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for file in sorted(files):
            empty = False
            yield _below(Path(where, file), root)
    if empty:
        raise SourceError(f"There are no files in {folder}.")


def _below(path: Path, root: Path) -> Item:
    return _item(path, path.relative_to(root).as_posix())


def _item(path: Path, name: str) -> Item:
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        size = None
    return Item(source=str(path), name=name, size=size)


def _without_doubles(items: list[Item]) -> Iterator[Item]:
    """Yield each file once; two files of one name would overwrite each other."""
    taken: dict[str, Item] = {}
    for item in items:
        other = taken.setdefault(item.name, item)
        if other is item:
            yield item
        elif other.source != item.source:
            raise ConfigurationError(
                f"{other.source} and {item.source} would both be called {item.name}.",
                hint="Name the folder that holds both, or quote the pattern.",
            )
