"""Tables of plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    """What stands above it."""

    right: bool = False
    """Whether its cells stand to the right, as numbers do."""


def format_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Return the table as lines, without a line end behind the last one."""
    lines = [[column.title for column in columns], *map(list, rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )
