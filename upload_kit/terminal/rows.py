"""Rows of the history as a table for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from upload_kit.terminal.table import Column, format_table
from upload_kit.terminal.words import printable
from upload_kit.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.sessions.history import HistoryRow

_COLUMNS: Final = (
    Column(title="STARTED"),
    Column(title="NAME"),
    Column(title="STATUS"),
    Column(title="LAYER"),
    Column(title="SIZE", right=True),
    Column(title="TIME", right=True),
    Column(title="SPEED", right=True),
    Column(title="RESUMED", right=True),
    Column(title="RETRIES", right=True),
    Column(title="VERIFIED"),
    Column(title="DESTINATION"),
)


def history_table(rows: Sequence[HistoryRow], *, short: bool = False) -> str:
    """
    Return a table with a line an upload.

    Args:
        rows: In their order.

        short: Leave out the day and the destination, where all have the same ones.
    """
    columns = _COLUMNS[:-1] if short else _COLUMNS
    moment = "%H:%M:%S" if short else "%Y-%m-%d %H:%M:%S"
    cells = [_cells(row, moment)[: len(columns)] for row in rows]
    return format_table(columns, cells)


def _cells(row: HistoryRow, moment: str) -> list[str]:
    return [
        time.strftime(moment, time.localtime(row.started_at)),
        printable(row.name),
        row.status.value,
        row.layer.value,
        "?" if row.size is None else format_size(row.size),
        format_duration(row.seconds),
        format_rate(row.rate) if row.rate else "-",
        format_size(row.bytes_resumed) if row.bytes_resumed else "-",
        str(row.retries),
        row.verified.value,
        printable(row.destination),
    ]
