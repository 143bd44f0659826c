"""What `upload-kit bench notebook` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from upload_kit.bench.notebook.run import NotebookSettings, measure, verdicts
from upload_kit.bench.report import machine

if TYPE_CHECKING:
    from pathlib import Path


def run_notebook(repeat: int, folder: Path | None, *, as_json: bool) -> None:
    """
    Measure what a notebook costs, and print the figures and what they are held against.

    Raises:
        MissingExtra: There is no kernel to be had.
        UploadKitError: A cell failed, or the server did not start.
    """
    figures = []
    for figure in measure(repeat, folder, NotebookSettings()):
        figures.append(figure)
        line = f"round {figure.repeat + 1}: {figure.name}: {figure.value:.3f}"
        text = figure.to_json() if as_json else f"{line} ({figure.detail})"
        click.echo(text, err=not as_json)
    if not as_json:
        facts = ", ".join(f"{name} {value}" for name, value in machine().items())
        click.echo("\n".join(["", *verdicts(figures), "", f"medians; {facts}"]))
