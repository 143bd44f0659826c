"""From what people name to files: folders, patterns, lists, dictionaries."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from upload_kit.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upload_kit.sources.factory import SourceLike

    SourcesLike: TypeAlias = (
        SourceLike | Iterable[SourceLike] | Mapping[str, SourceLike]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing to upload."""

    source: SourceLike
    """What an uploader takes."""

    name: str | None
    """What it is called at the destination; None for its own name."""

    size: int | None = None
    """Bytes, where that is known without opening it."""


def gather(sources: SourcesLike) -> list[Found]:
    """
    Return what is to be uploaded, in the order in which it was named.

    A file goes by its own name, and the files of a folder by their paths below it, with
    `/` between the parts. What a pattern found goes by the path below the last folder
    that the pattern names in full. What is not there is left for the upload to complain
    about.

    Args:
        sources: A folder, a pattern such as `data/**/*.parquet`, a list of those and of
            anything else that can be uploaded, or a dictionary by names.

    Raises:
        SourceError: A folder holds no files, or cannot be read.
        ConfigurationError: Two files would get the same name at the destination.
    """
    if isinstance(sources, Mapping):
        return [_found(source, name) for name, source in sources.items()]
    if not isinstance(sources, Iterable) or isinstance(
        sources, str | bytes | bytearray | memoryview
    ):
        sources = [sources]
    found = [one for source in sources for one in _find(source)]
    return list(_without_doubles(found))


def _find(source: SourceLike) -> Iterator[Found]:
    if not isinstance(source, str | os.PathLike):
        yield _found(source, None)
    elif Path(source).is_dir():
        yield from _walk(Path(source), Path(source))
    elif glob.has_magic(os.fspath(source)) and not os.path.lexists(source):
        yield from _match(os.fspath(source))
    else:
        yield _found(source, Path(source).name)


def _match(pattern: str) -> Iterator[Found]:
    """Yield what a pattern finds; if nothing, itself, to be missed."""
    root = _fixed_part(pattern)
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute ones too)
    if not paths:
        yield _found(pattern, Path(pattern).name)
    seen = set()
    for path in map(Path, paths):
        for one in _walk(path, root) if path.is_dir() else [_below(path, root)]:
            if one.source not in seen:
                seen.add(one.source)
                yield one


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _walk(folder: Path, root: Path) -> Iterator[Found]:
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


def _below(path: Path, root: Path) -> Found:
    return _found(str(path), path.relative_to(root).as_posix())


def _found(source: SourceLike, name: str | None) -> Found:
    size = None
    if isinstance(source, bytes | bytearray | memoryview):
        size = memoryview(source).nbytes
    elif isinstance(source, str | os.PathLike):
        try:
            size = Path(source).stat().st_size
        except (OSError, ValueError):
            size = None
    return Found(source=source, name=name, size=size)


def _without_doubles(found: list[Found]) -> Iterator[Found]:
    """Yield each file once; two files of one name would overwrite each other."""
    taken: dict[str, Found] = {}
    for one in found:
        if one.name is None:
            yield one
            continue
        other = taken.setdefault(one.name, one)
        if other is one:
            yield one
        elif other.source != one.source:
            raise ConfigurationError(
                f"{other.source!r} and {one.source!r} would both be called {one.name}.",
                hint="Name the folder that holds both, or give a dictionary of names.",
            )
