"""`upload-kit serve`: run an upload server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upload_kit.cli.parameters import (
    RATE,
    SECONDS,
    SIZE,
    OneOf,
    Settings,
    common_options,
    read_token,
    refuse_in_clear,
    refuse_secret_in_url,
)
from upload_kit.config import Secret
from upload_kit.server.config import (
    Durability,
    Forwarding,
    ForwardName,
    ServerConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="TCP port; 0 takes a free one.",
)
@click.option(
    "--dir",
    "directory",
    metavar="FOLDER",
    default="uploads",
    show_default=True,
    help="Where files go; null: counts, checks and throws away.",
)
@click.option("--prefix", default="", help="Path before every route, such as /store.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the port.",
)
@click.option(
    "--token",
    "tokens",
    multiple=True,
    metavar="TOKEN",
    help="Token, or name:token, that may upload; may be given many times. Better in a"
    " file: arguments can be read by every user of this machine.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Tokens, one a line; read again on SIGHUP.",
)
@click.option(
    "--allow-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Origin of web pages that may use a server without tokens.",
)
@click.option(
    "--durability",
    type=OneOf(Durability),
    default=Durability.FSYNC.value,
    show_default=True,
    help="What is acknowledged survives a loss of power (fsync), or the death of the"
    " server (page-cache).",
)
@click.option("--max-size", type=SIZE, help="Largest file.")
@click.option("--max-chunk", type=SIZE, default="64MiB", show_default=True)
@click.option(
    "--max-chunks", type=click.IntRange(min=1), default=100_000, show_default=True
)
@click.option("--quota", type=SIZE, help="Bytes of all files, finished or announced.")
@click.option("--max-sessions", type=click.IntRange(min=1), help="Unfinished, a token.")
@click.option("--rate-limit", type=RATE, help="Bytes a second of one client.")
@click.option("--request-limit", type=float, help="Requests a second of one client.")
@click.option("--idle-timeout", type=SECONDS, help="Give up a body that stands still.")
@click.option(
    "--expires-after",
    type=SECONDS,
    default="48h",
    show_default=True,
    help="Remove an upload that nobody went on with for so long.",
)
@click.option("--cleanup-interval", type=SECONDS, default="1h", show_default=True)
@click.option(
    "--forward",
    metavar="URL",
    callback=refuse_secret_in_url,
    help="Destination that every received file goes on to.",
)
@click.option(
    "--forward-token",
    metavar="TOKEN",
    callback=refuse_in_clear,
    help="The destination's bearer token or key; only in a settings file, or in the"
    " environment as UPLOAD_KIT_SERVE_FORWARD_TOKEN.",
)
@click.option(
    "--forward-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File whose first line is that token.",
)
@click.option(
    "--forward-names",
    type=OneOf(ForwardName),
    default=ForwardName.NAME.value,
    show_default=True,
    help="What forwarded files are called: as they came, never replacing another one"
    " (name), or ID/NAME (unique).",
)
@click.option(
    "--forward-remove",
    is_flag=True,
    help="Remove a file here once its digest was compared at the destination.",
)
@click.option(
    "--forward-limit",
    type=RATE,
    help="Bandwidth over all forwards, such as 10MB/s; each worker has its share.",
)
@click.option(
    "--grace",
    type=SECONDS,
    default="5s",
    show_default=True,
    help="How long open requests get when the server stops.",
)
@click.option("--memory-budget", type=SIZE, help="Bytes of bodies held in memory.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object once it is ready."
)
@common_options
def serve(*, directory: str, as_json: bool, **options: Any) -> None:
    """
    Run an upload server until Ctrl-C or SIGTERM.

    Without tokens everybody who reaches it may upload.
    """
    from upload_kit.server.process import serve as run_server

    click.get_current_context().ensure_object(Settings).set_up_server_logging()
    run_server(make_config(directory, **options), ready=_announce(directory, as_json))


def make_config(
    directory: str,
    *,
    tokens: tuple[str, ...],
    allowed_origins: tuple[str, ...],
    forward: str | None,
    forward_token: str | None,
    forward_token_file: Path | None,
    forward_names: ForwardName,
    forward_remove: bool,
    forward_limit: float | None,
    **options: Any,
) -> ServerConfig:
    """
    Return the settings that the options ask for.

    Raises:
        ConfigurationError: They cannot work together.
    """
    # What was not given keeps the default that the settings have.
    given = {name: value for name, value in options.items() if value is not None}
    if forward:
        token = read_token(forward_token, forward_token_file)
        given["forward"] = Forwarding(
            url=Secret(forward),
            token=None if token is None else Secret(token),
            names=forward_names,
            remove=forward_remove,
            limit=forward_limit,
        )
    return ServerConfig(
        directory=directory,
        tokens=tuple(Secret(token) for token in tokens),
        allowed_origins=frozenset(allowed_origins),
        **given,
    )


def _announce(directory: str, as_json: bool) -> Callable[[str], None]:  # noqa: FBT001 (an option's value)
    def announce(url: str) -> None:
        if as_json:
            click.echo(json.dumps({"url": url, "pid": os.getpid()}))
        else:
            click.echo(f"Keeps files in {directory}. Ready at {url}; Ctrl-C ends it.")

    return announce
