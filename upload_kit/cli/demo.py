"""`upload-kit demo`: each layer at work, a kill -9, and the proof."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from upload_kit.cli.parameters import SIZE, common_options
from upload_kit.cli.running import run


@click.command
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--size",
    type=SIZE,
    default="256MiB",
    show_default=True,
    help="Size of the file that is made if none is named.",
)
@click.option("--keep", is_flag=True, help="Leave everything that was made.")
@common_options
@click.pass_context
def demo(ctx: click.Context, /, *, file: Path | None, size: int, keep: bool) -> None:
    """
    Show each layer at work, a kill -9, and the proof.

    It starts a server, uploads FILE (or one that it makes) through each of the three
    layers, kills an upload in its middle, goes on with it in another process, and
    compares what was stored with the file. It ends with a code other than 0 if anything
    differs.
    """
    from upload_kit.demo import DemoOptions, run_demo

    given = ctx.get_parameter_source("size") is ParameterSource.COMMANDLINE
    if file is not None and given:
        raise click.UsageError("--size is for a file that is made.", ctx)
    run(run_demo(DemoOptions(file=file, size=size, keep=keep), sys.stdout))
