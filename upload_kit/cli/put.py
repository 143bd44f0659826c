"""`upload-kit put`: upload files, folders or a stream."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from upload_kit.cli.parameters import (
    RATE,
    SIZE,
    OneOf,
    Settings,
    common_options,
    connection_options,
    output_options,
    read_token,
    session_dir_option,
)
from upload_kit.config import DEFAULT_CHUNK_SIZE, DEFAULT_PARALLEL, Compression
from upload_kit.models import Layer

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.api.gathering import Found

# Which layer an option needs at least.
_NEEDS: Final = {
    "parallel": Layer.FEATURE,
    "limit": Layer.POLISH,
    "compress": Layer.POLISH,
    "compression": Layer.POLISH,
    "session_dir": Layer.POLISH,
}
_ORDER: Final = list(Layer)


@click.command
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("destination", metavar="DEST")
@click.option(
    "--layer",
    type=OneOf(Layer),
    default=Layer.POLISH.value,
    show_default=True,
    help="foundation: one chunk after another. feature: chunks in parallel. polish:"
    " also resumable, verified as a whole, limited and compressed.",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=DEFAULT_PARALLEL,
    show_default=True,
    help="Chunks on the wire at once.",
)
@click.option(
    "--chunk-size",
    type=SIZE,
    default=DEFAULT_CHUNK_SIZE,
    help="Such as 5MiB (default).",
)
@click.option("--limit", type=RATE, help="Bandwidth over all files, such as 10MB/s.")
@click.option(
    "--compress",
    type=OneOf(Compression),
    default=Compression.AUTO.value,
    show_default=True,
    help="auto: where it pays.",
)
@click.option("--name", help="Name at the destination, for a single file.")
@click.option(
    "--no-overwrite",
    is_flag=True,
    help="Fail where something stands at the destination already.",
)
@connection_options
@session_dir_option
@output_options
@common_options
@click.pass_context
def put(
    ctx: click.Context,
    /,
    *,
    sources: tuple[str, ...],
    destination: str,
    name: str | None,
    as_json: bool,
    quiet: bool,
    layer: Layer,
    parallel: int,
    session_dir: str | None,
    **options: Any,
) -> int:
    """
    Upload files, folders or a stream.

    SOURCE is a file, a pattern such as 'data/**/*.csv', a folder (every file in it, by
    its path below the folder), or - for standard input (then --name is needed).

    DEST is a URL: http://host:8000/, file:///folder, memory://name/.

    What was cut off is gone on with when the same command is given again, or by
    `upload-kit resume`.
    """
    from upload_kit.api.keywords import make_uploader
    from upload_kit.cli.gathering import find_sources
    from upload_kit.cli.uploading import READ_AHEAD, Output, upload_all

    _check_layer(ctx, layer)
    options |= {"parallel": parallel, "session_dir": session_dir}
    uploader = make_uploader(destination, _keywords(layer, **options))
    found = find_sources(sources, name=name)
    return asyncio.run(
        upload_all(
            [partial(uploader.start, one.source, name=one.name) for one in found],
            uploaders=[uploader],
            output=Output(
                json=as_json,
                quiet=quiet,
                debug=ctx.ensure_object(Settings).debug,
                session_dir=session_dir,
            ),
            at_once=1 if layer is Layer.FOUNDATION else parallel * READ_AHEAD,
            size=_total_size(found),
        )
    )


def _check_layer(ctx: click.Context, layer: Layer) -> None:
    """Refuse an option that the layer could only ignore."""
    for name, needed in _NEEDS.items():
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and _ORDER.index(layer) < _ORDER.index(needed):
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} needs --layer {needed.value}.", ctx)


def _keywords(
    layer: Layer,
    *,
    limit: float | None,
    compress: Compression,
    no_overwrite: bool,
    token: str | None,
    token_file: Path | None,
    headers: tuple[tuple[str, str], ...],
    **options: Any,
) -> dict[str, Any]:
    """Return the options as keywords of `make_uploader`, those that the layer has."""
    keywords = {
        "layer": layer,
        "limit": limit,
        "compression": compress,
        "overwrite": not no_overwrite,
        "token": read_token(token, token_file),
        "headers": dict(headers),
        **options,
    }
    return {
        name: value
        for name, value in keywords.items()
        if _ORDER.index(layer) >= _ORDER.index(_NEEDS.get(name, Layer.FOUNDATION))
    }


def _total_size(found: list[Found]) -> int | None:
    """Return the bytes of all files; one that is not there will fail, and has none."""
    if not all(isinstance(one.source, str) for one in found):
        return None
    return sum(one.size or 0 for one in found)
