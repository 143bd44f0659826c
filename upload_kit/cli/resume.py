"""`upload-kit resume`: go on with uploads that were cut off."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from upload_kit.cli.parameters import (
    RATE,
    Settings,
    common_options,
    connection_options,
    output_options,
    read_token,
    session_dir_option,
)
from upload_kit.cli.running import DONE, run
from upload_kit.config import DEFAULT_PARALLEL
from upload_kit.models import UploadStatus
from upload_kit.terminal.words import printable, short_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from upload_kit.cli.uploading import Output
    from upload_kit.models import UploadSession
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.resumable import ResumableUploader

# Sessions that are told of one by one; the rest is counted.
_SHOWN: Final = 10


@click.command
@click.argument("session_ids", nargs=-1, metavar="[ID...]")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All but those that were cancelled, or that another process works on.",
)
@click.option("--limit", type=RATE, help="Bandwidth over all files, such as 10MB/s.")
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=DEFAULT_PARALLEL,
    show_default=True,
    help="Chunks on the wire at once.",
)
@connection_options
@session_dir_option
@output_options
@common_options
@click.pass_context
def resume(
    ctx: click.Context,
    /,
    *,
    session_ids: tuple[str, ...],
    everything: bool,
    limit: float | None,
    parallel: int,
    token: str | None,
    token_file: Path | None,
    headers: tuple[tuple[str, str], ...],
    session_dir: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """
    Go on with uploads that were cut off.

    ID is that of a session, or how it begins; `upload-kit sessions` lists them. What
    arrived before is not sent again.
    """
    from upload_kit.api.lookup import can_resume
    from upload_kit.cli.finding import find_sessions, load_sessions
    from upload_kit.cli.uploading import READ_AHEAD, Output, upload_all
    from upload_kit.throttle import BandwidthThrottle
    from upload_kit.uploaders.resumable import ResumableUploader

    if bool(session_ids) == everything:
        raise click.UsageError("Name sessions, or give --all.", ctx)
    known = run(load_sessions(session_dir, expired=everything))
    chosen = (
        [session for session in known if can_resume(session)]
        if everything
        else find_sessions(session_ids, known)
    )
    output = Output(
        json=as_json,
        quiet=quiet,
        debug=ctx.ensure_object(Settings).debug,
        session_dir=session_dir,
    )
    if not chosen:
        _say_why_nothing(known, output)
        return DONE
    throttle = BandwidthThrottle(limit)
    uploaders = {
        destination: ResumableUploader(
            destination,
            session_dir=session_dir,
            throttle=throttle,
            max_parallel=parallel,
            token=read_token(token, token_file),
            headers=dict(headers),
        )
        for destination in dict.fromkeys(session.destination for session in chosen)
    }
    sizes = [session.size for session in chosen if session.size is not None]
    return asyncio.run(
        upload_all(
            _starts(chosen, uploaders),
            uploaders=list(uploaders.values()),
            output=output,
            at_once=parallel * READ_AHEAD,
            size=sum(sizes) if len(sizes) == len(chosen) else None,
        )
    )


def _say_why_nothing(known: Sequence[UploadSession], output: Output) -> None:
    """Tell why each session is left alone; programs read that from standard error."""
    from upload_kit.api.lookup import why_left_alone
    from upload_kit.cli.uploading import resume_command

    if output.quiet:
        return
    if not output.json:
        click.echo("There is nothing to resume.")
    for session in known[-_SHOWN:]:
        which = f"{short_id(session.session_id)} ({printable(session.name)})"
        click.echo(f"Left alone: {which}: {why_left_alone(session)}.", err=output.json)
    if len(known) > _SHOWN:
        click.echo(f"And {len(known) - _SHOWN:,} older ones.", err=output.json)
    cancelled = [one for one in known if one.status is UploadStatus.CANCELLED]
    for session in cancelled[-1:]:
        command = resume_command([session.session_id], output)
        click.echo(f"Go on with what was cancelled: {command}", err=output.json)


def _starts(
    sessions: Sequence[UploadSession], uploaders: dict[str, ResumableUploader]
) -> list[Callable[[], Transfer]]:
    return [
        partial(
            uploaders[session.destination].start_resumable,
            session.source,
            session.session_id,
            name=session.name,
            content_type=session.content_type,
            metadata=session.metadata,
        )
        for session in sessions
        if session.source is not None
    ]
