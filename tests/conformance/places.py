"""What the suites of destinations look at: what is published, what is half done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a destination keeps things, and how to look there without it."""

    url: str
    """The destination."""

    files: Callable[[], list[tuple[str, bytes]]]
    """Returns what was published: names and bytes."""

    litter: Callable[[], list[str]]
    """Returns what is half done."""

    one_name_one_file: bool = True
    """Whether a second file of the same name takes the place of the first."""


def published(root: Path) -> Callable[[], list[tuple[str, bytes]]]:
    """Return what looks into the folder of our own server."""

    def files() -> list[tuple[str, bytes]]:
        return sorted(
            (path.name, path.read_bytes())
            for path in root.rglob("*")
            if path.is_file()
            and "incoming" not in path.parts
            and not path.name.startswith(".")
            and "keys" not in path.parts
        )

    return files


def visible(folder: Path) -> list[tuple[str, bytes]]:
    """Return the files below a folder that `file://` has published there."""
    return sorted(
        (str(path.relative_to(folder)), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".upload_kit-")
    )
