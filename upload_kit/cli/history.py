"""`upload-kit history`: the uploads that were made here."""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import click

from upload_kit.cli.parameters import MOMENT, OneOf, common_options, session_dir_option
from upload_kit.cli.running import run
from upload_kit.models import Layer, UploadStatus
from upload_kit.terminal.rows import history_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.sessions.history import HistoryRow


class Filters(TypedDict):
    """Which rows are asked for."""

    since: float | None
    status: UploadStatus | None
    layer: Layer | None
    destination: str | None
    limit: int | None


@click.command
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="parquet needs the extra 'notebook'.",
)
@click.option(
    "--since",
    type=MOMENT,
    help="Started then or later: 2026-11-23, or 2d for a while ago.",
)
@click.option(
    "--status",
    type=OneOf([status for status in UploadStatus if status.is_final]),
    help="Only those that ended so.",
)
@click.option("--layer", type=OneOf(Layer), help="Only those of this layer.")
@click.option("--destination", metavar="URL", help="Only those to exactly this URL.")
@click.option(
    "--limit-rows", "limit", type=click.IntRange(min=1), help="Only the newest."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write to this file instead of standard output.",
)
@session_dir_option
@common_options
def history(
    *,
    form: str,
    output: Path | None,
    session_dir: str | None,
    **filters: Unpack[Filters],
) -> None:
    """List the uploads that were made here."""
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text: give --output, or redirect it.")
    rows = run(load_history(session_dir, **filters))
    content = _WRITERS[form](rows)
    if output is not None:
        output.write_bytes(content)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


async def load_history(
    session_dir: str | None, **filters: Unpack[Filters]
) -> list[HistoryRow]:
    """Return the rows that are asked for, oldest first."""
    from upload_kit.sessions.history import History
    from upload_kit.sessions.places import history_path

    path = history_path(session_dir)
    if not path.exists():
        return []
    async with aclosing(History(path)) as found:
        return await found.rows(**filters)


def _write_table(rows: Sequence[HistoryRow]) -> bytes:
    text = history_table(rows) if rows else "No upload was made here yet."
    return f"{text}\n".encode()


def _write_csv(rows: Sequence[HistoryRow]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, _names(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = row.to_dict()
        writer.writerow({**plain, "retry_causes": json.dumps(plain["retry_causes"])})
    return text.getvalue().encode(errors="surrogateescape")


def _write_json(rows: Sequence[HistoryRow]) -> bytes:
    lines = ",\n".join(json.dumps(row.to_dict()) for row in rows)
    return f"[\n{lines}\n]\n".encode() if rows else b"[]\n"


def _write_parquet(rows: Sequence[HistoryRow]) -> bytes:
    from upload_kit.errors import MissingExtra

    try:
        return _parquet(rows)
    except ImportError as error:
        # What pandas misses it says in words of its own.
        raise MissingExtra(error.name or "pyarrow", "notebook") from error


def _parquet(rows: Sequence[HistoryRow]) -> bytes:
    import pandas as pd

    plain: list[dict[str, Any]] = [row.to_dict() for row in rows]
    for record in plain:
        # A column of structs would have other fields in every file.
        record["retry_causes"] = json.dumps(record["retry_causes"])
    frame = pd.DataFrame(plain, columns=_names())
    for name in ("started_at", "finished_at"):
        frame[name] = pd.to_datetime(frame[name], unit="s", utc=True)
    content: bytes = frame.to_parquet(engine="pyarrow", index=False)
    return content


def _names() -> list[str]:
    from upload_kit.sessions.history import HistoryRow

    return [field.name for field in fields(HistoryRow)]


_WRITERS: Final[dict[str, Callable[[Sequence[HistoryRow]], bytes]]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
