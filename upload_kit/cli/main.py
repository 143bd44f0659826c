"""The group of all commands, and how each of them ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

import upload_kit
from upload_kit.cli.config_files import FILES, load_settings
from upload_kit.cli.lazy import VARIABLES, LazyCommand, LazyGroup, name_variables
from upload_kit.cli.parameters import Settings, common_options, common_values
from upload_kit.cli.running import (
    DONE,
    FAILED,
    INTERRUPTED,
    complain,
    exit_code_of,
    leave,
    show_traceback,
)
from upload_kit.errors import UploadKitError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "put": LazyCommand(
        target="upload_kit.cli.put:put", summary="Upload files, folders or a stream."
    ),
    "resume": LazyCommand(
        target="upload_kit.cli.resume:resume",
        summary="Go on with uploads that were cut off.",
    ),
    "sessions": LazyCommand(
        target="upload_kit.cli.sessions:sessions",
        summary="List the uploads that can be resumed.",
    ),
    "history": LazyCommand(
        target="upload_kit.cli.history:history",
        summary="List the uploads that were made here.",
    ),
    "cleanup": LazyCommand(
        target="upload_kit.cli.sessions:cleanup",
        summary="Remove expired sessions, and what they left behind.",
    ),
    "serve": LazyCommand(
        target="upload_kit.cli.serve:serve",
        summary="Run an upload server until Ctrl-C or SIGTERM.",
    ),
    "bench": LazyCommand(
        target="upload_kit.bench.command:bench",
        summary="Measure uploads on this machine.",
    ),
    "config": LazyCommand(
        target="upload_kit.cli.config:config",
        summary="Show which settings are in force.",
    ),
    "demo": LazyCommand(
        target="upload_kit.cli.demo:demo",
        summary="Show each layer at work, a kill -9, and the proof.",
    ),
}


def _read_files(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Have the files say what options are that are not given."""
    common_values(ctx)[ctx.command_path, param.name] = value
    files = load_settings(ctx, value)
    ctx.default_map = dict(files.defaults)
    ctx.meta[FILES] = files


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(upload_kit.__version__, prog_name="upload-kit")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_files,
    help="Read settings from this TOML file alone, instead of upload-kit.toml in this"
    " folder and in your configuration folder.",
)
@common_options
def cli() -> None:
    """
    Move big files to where they belong, and prove that they arrived.

    Exit codes: 0 done, 1 an upload failed, 2 wrong use, 130 interrupted.
    """


name_variables(cli, VARIABLES)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Run the command line and end the process.

    Args:
        arguments: The words after the program's name; None for those it was given.
    """
    settings = Settings()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(
            words, prog_name="upload-kit", standalone_mode=False, obj=settings
        )
    except click.ClickException as error:
        complain(f"{error.format_message()} {_help_for(error)}")
        code = error.exit_code
    except UploadKitError as error:
        if settings.debug:
            show_traceback(error)
        complain(str(error))
        code = exit_code_of(error)
    except (KeyboardInterrupt, click.Abort):
        complain("Interrupted.")
        code = INTERRUPTED
    except BrokenPipeError:
        code = FAILED
    leave(DONE if code is None else code)


def _help_for(error: click.ClickException) -> str:
    """Return where to read how it is done, on the same line."""
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return ""
    return f"See {error.ctx.command_path} --help."
