"""`upload-kit sessions` and `upload-kit cleanup`: what is unfinished, and its end."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import click

from upload_kit.cli.parameters import (
    SECONDS,
    common_options,
    connection_options,
    read_token,
    session_dir_option,
)
from upload_kit.cli.running import run
from upload_kit.config import ConnectionOptions, Secret
from upload_kit.errors import ConfigurationError
from upload_kit.locations import redact
from upload_kit.terminal.table import Column, format_table
from upload_kit.terminal.words import printable, short_id
from upload_kit.units import format_duration, format_size

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.models import UploadSession
    from upload_kit.sessions.manager import CleanupReport

# Seconds that one destination gets to throw something away.
_THROW_AWAY: Final = 10.0
_COLUMNS: Final = (
    Column(title="ID"),
    Column(title="NAME"),
    Column(title="DONE", right=True),
    Column(title="SIZE", right=True),
    Column(title="STATUS"),
    Column(title="UPDATED", right=True),
    Column(title="EXPIRES", right=True),
    Column(title="DESTINATION"),
)


@click.command
@session_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@common_options
def sessions(*, session_dir: str | None, as_json: bool) -> None:
    """List the uploads that can be resumed."""
    from upload_kit.cli.finding import load_sessions

    found = run(load_sessions(session_dir))
    if as_json:
        for session in found:
            click.echo(json.dumps(describe_session(session)))
    elif found:
        now = time.time()
        click.echo(format_table(_COLUMNS, [_row(session, now) for session in found]))
    else:
        click.echo("Nothing is unfinished.")


def describe_session(session: UploadSession) -> dict[str, Any]:
    """
    Return a session as plain JSON types.

    The token that reopens it at the destination is left out, as every secret is, and
    the receipts are counted.
    """
    plain = session.to_dict()
    del plain["remote_token"], plain["receipts"]
    plain["chunks_completed"] = session.chunks_completed
    plain["bytes_completed"] = session.bytes_completed
    return plain


def _row(session: UploadSession, now: float) -> list[str]:
    expires = session.expires_at
    size = session.size
    share = 100 * session.bytes_completed // size if size else None
    return [
        short_id(session.session_id),
        printable(session.name),
        format_size(session.bytes_completed) if share is None else f"{share}%",
        "?" if size is None else format_size(size),
        session.status.value,
        f"{format_duration(max(0.0, now - session.updated_at))} ago",
        "never" if expires is None else f"in {format_duration(expires - now)}",
        printable(session.destination),
    ]


@click.command
@click.argument("destination", metavar="[DEST]", required=False)
@click.option(
    "--older-than",
    type=SECONDS,
    default="7d",
    show_default=True,
    help="Of uploads that were begun at DEST, only those begun so long ago.",
)
@connection_options
@session_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common_options
def cleanup(
    *,
    destination: str | None,
    older_than: float,
    token: str | None,
    token_file: Path | None,
    headers: tuple[tuple[str, str], ...],
    session_dir: str | None,
    as_json: bool,
) -> None:
    """
    Remove expired sessions, and what they left behind.

    With DEST, such as s3://bucket/prefix/, abort what was begun there long ago and has
    no session here either: parts that cost money. Uploads of other programs below that
    prefix are aborted too.
    """
    secret = read_token(token, token_file)
    options = ConnectionOptions(
        token=Secret(secret) if secret else None,
        headers=tuple((name, Secret(value)) for name, value in headers),
    )
    report = run(_cleanup(session_dir, options))
    aborted: tuple[str, ...] = ()
    if destination is not None:
        aborted = run(_abort_old(destination, options, older_than))
    if as_json:
        click.echo(json.dumps({**report.to_dict(), "aborted": aborted}))
        return
    for line in report.corrupt:
        click.echo(f"Set aside: {printable(line)}")
    count = len(report.removed)
    click.echo(f"Removed {count} expired session{'' if count == 1 else 's'}.")
    for name in aborted:
        click.echo(f"Aborted: {printable(name)}")
    if destination is not None and not aborted:
        click.echo(f"Nothing is left at {printable(redact(destination))}.")


async def _cleanup(
    session_dir: str | None, options: ConnectionOptions
) -> CleanupReport:
    from upload_kit.cli.finding import open_sessions

    async def throw_away(session: UploadSession) -> None:
        async with asyncio.timeout(_THROW_AWAY):
            await _abort(session, options)

    async with aclosing(open_sessions(session_dir)) as manager:
        return await manager.cleanup(on_expired=throw_away)


async def _abort(session: UploadSession, options: ConnectionOptions) -> None:
    """Have the destination throw away what it holds of a session."""
    from upload_kit.destinations.registry import make_destination
    from upload_kit.errors import RemoteGone
    from upload_kit.models import UploadSpec
    from upload_kit.planning import Plan

    if session.remote_token is None:
        return
    spec = UploadSpec(name=session.name, size=session.size)
    plan = Plan(size=session.size, chunk_size=session.chunk_size)
    async with aclosing(make_destination(session.destination, options)) as destination:
        try:
            remote = await destination.reopen(spec, plan, session.remote_token)
        except RemoteGone:
            return
        await remote.abort()


async def _abort_old(
    url: str, options: ConnectionOptions, older_than: float
) -> tuple[str, ...]:
    """Abort what was begun at a destination and left there; return the names."""
    from upload_kit.destinations.base import Cleanable
    from upload_kit.destinations.registry import make_destination

    async with aclosing(make_destination(url, options)) as destination:
        if not isinstance(destination, Cleanable):
            raise ConfigurationError(
                f"{redact(url)} has nothing to clean up: what is half done there"
                " expires by itself.",
                hint="Leave the destination out.",
            )
        return await destination.clean_up(older_than=older_than)
