"""What a terminal, a pipe or a program sees of uploads; readers of events only."""

from __future__ import annotations

from upload_kit.terminal.display import Display, Silent, follow, make_display
from upload_kit.terminal.rows import history_table
from upload_kit.terminal.table import Column, format_table
from upload_kit.terminal.words import describe_result, printable

__all__ = [
    "Column",
    "Display",
    "Silent",
    "describe_result",
    "follow",
    "format_table",
    "history_table",
    "make_display",
    "printable",
]
