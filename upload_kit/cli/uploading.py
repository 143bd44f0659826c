"""Many uploads under one display; one that fails stops no other, an interrupt all."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from upload_kit.cli.running import (
    DONE,
    FAILED,
    INTERRUPTED,
    Interruption,
    complain,
    interruptible,
    show_traceback,
)
from upload_kit.errors import UploadCancelled, UploadKitError
from upload_kit.progress.feeds import Feed
from upload_kit.terminal import follow, make_display, printable
from upload_kit.terminal.words import count_files
from upload_kit.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadResult
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.chunked import ChunkedUploader

# Files that are opened and read ahead while as many as allowed are on the wire.
READ_AHEAD: Final = 2
# More hints than these are no help.
_HINTS: Final = 5
# The same upload would fail in the same way again.
_HOPELESS: Final = frozenset(
    {"ConfigurationError", "SessionExpired", "SessionNotFound", "SourceChanged"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is printed."""

    json: bool
    """One JSON object a line, and nothing else on standard output."""

    quiet: bool
    """Nothing but errors."""

    debug: bool
    """Tracebacks of errors."""

    session_dir: str | None = None
    """What the commands that go on have to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one upload ended."""

    result: UploadResult
    """As its last event told it; of a cancelled one with the error too."""

    error: UploadKitError | None = None
    """Why it failed."""


class Batch:
    """
    Runs uploads, a few at a time, until all are done or it is interrupted.

    Args:
        starts: Each begins one upload, when its turn comes.

        feed: Gets all their events.

        at_once: Uploads under way at once.
    """

    def __init__(
        self, starts: Sequence[Callable[[], Transfer]], feed: Feed, *, at_once: int
    ) -> None:
        self._starts = starts
        self._feed = feed
        self._at_once = at_once
        self._running: set[Transfer] = set()
        self._interrupted = False

    def interrupt(self) -> None:
        """End for now what runs, so that it can be resumed; begin nothing more."""
        self._interrupted = True
        for transfer in self._running:
            transfer.interrupt()

    async def run(self) -> list[Outcome]:
        """Return how each upload ended that was begun, in their order."""
        outcomes: dict[int, Outcome] = {}
        turns = iter(enumerate(self._starts))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._at_once, len(self._starts))):
                group.create_task(self._work(turns, outcomes))
        return [outcomes[index] for index in sorted(outcomes)]

    async def _work(
        self,
        turns: Iterator[tuple[int, Callable[[], Transfer]]],
        outcomes: dict[int, Outcome],
    ) -> None:
        for index, start in turns:
            if self._interrupted:
                return
            outcomes[index] = await self._one(start())

    async def _one(self, transfer: Transfer) -> Outcome:
        self._running.add(transfer)
        last: UploadEvent | None = None
        try:
            async for event in transfer:
                self._feed.put(event)
                last = event
        finally:
            self._running.discard(transfer)
        error = None
        try:
            result = await transfer
        except UploadKitError as failure:
            # A failure that is none of ours is a defect, and its traceback is wanted.
            transfer.task.result()
            if last is None or last.result is None:
                raise
            result, error = last.result, failure
        return Outcome(result=result, error=error)


async def upload_all(
    starts: Sequence[Callable[[], Transfer]],
    *,
    uploaders: Sequence[ChunkedUploader],
    output: Output,
    at_once: int,
    size: int | None = None,
) -> int:
    """
    Upload, show how it goes and how it ended, and return the exit code.

    Args:
        starts: Each begins one upload.

        uploaders: Kept open until the last upload has ended.

        output: What is printed.

        at_once: Uploads under way at once.

        size: Bytes of all of them; None if that is not known.
    """
    display = make_display(
        sys.stdout,
        json=output.json,
        quiet=output.quiet,
        files=len(starts),
        size=size,
    )
    feed = Feed()
    batch = Batch(starts, feed, at_once=at_once)
    began = time.monotonic()
    with interruptible(batch.interrupt) as interruption:
        shown = asyncio.create_task(follow(feed, display))
        try:
            async with AsyncExitStack() as stack:
                for uploader in uploaders:
                    await stack.enter_async_context(uploader)
                outcomes = await batch.run()
        finally:
            feed.close()
            # No limit: it is up to whoever reads. An interrupt has one.
            await shown
    report(outcomes, output=output, files=len(starts), seconds=time.monotonic() - began)
    return _exit_code(outcomes, interruption, files=len(starts), output=output)


def report(
    outcomes: Sequence[Outcome], *, output: Output, files: int, seconds: float
) -> None:
    """Print the results: as JSON, or the failures and a sum."""
    _report_failures(outcomes, output, one=files == 1)
    results = [outcome.result for outcome in outcomes]
    # Whoever read that may have gone away; the exit code still tells.
    with suppress(OSError):
        if output.json:
            for result in results:
                click.echo(result.to_json())
        elif files > 1 and not output.quiet:
            click.echo(_sum(results, files=files, seconds=seconds))


def _sum(results: Sequence[UploadResult], *, files: int, seconds: float) -> str:
    complete = [result for result in results if result.success]
    moved = sum((result.size or 0) - result.bytes_resumed for result in complete)
    return (
        f"{len(complete):,} of {count_files(files)},"
        f" {format_size(sum(result.size or 0 for result in complete))}"
        f" in {format_duration(seconds)} ({format_rate(moved / seconds)})"
    )


def _report_failures(outcomes: Sequence[Outcome], output: Output, *, one: bool) -> None:
    """Print why uploads failed, once for all that failed for the same reason."""
    names: dict[str, list[str]] = {}
    kept = []
    for outcome in outcomes:
        result, error = outcome.result, outcome.error
        if error is None or isinstance(error, UploadCancelled):
            continue
        if output.debug:
            show_traceback(error)
        names.setdefault(str(error), []).append(printable(result.name))
        if result.session_id is not None and result.error_type not in _HOPELESS:
            kept.append(result.session_id)
    for reason, failed in names.items():
        which = "" if one else f"{_shorten(failed)}: "
        complain(f"{which}{printable(reason)}")
    if kept:
        _hint(f"Go on with: {resume_command(kept, output)}")


def _shorten(names: Sequence[str]) -> str:
    if len(names) <= _HINTS:
        return ", ".join(names)
    return f"{', '.join(names[:_HINTS])} and {len(names) - _HINTS:,} more"


def _exit_code(
    outcomes: Sequence[Outcome],
    interruption: Interruption,
    *,
    files: int,
    output: Output,
) -> int:
    complete = sum(outcome.result.success for outcome in outcomes)
    if interruption.happened and complete < files:
        _report_interruption(outcomes, files=files, output=output)
        return INTERRUPTED
    return DONE if complete == files else FAILED


def _report_interruption(
    outcomes: Sequence[Outcome], *, files: int, output: Output
) -> None:
    cancelled = [outcome.result for outcome in outcomes if not outcome.result.success]
    kept = [result.session_id for result in cancelled if result.session_id is not None]
    complain("Interrupted.")
    if files > 1:
        _hint("Go on with the same command again: what arrived is not sent again.")
    if kept:
        _hint(f"Go on with: {resume_command(kept, output)}")
    elif files == 1:
        _hint("Nothing was kept: only --layer polish can go on, and only with a file.")


def resume_command(session_ids: Sequence[str], output: Output) -> str:
    """Return the command that goes on with these sessions."""
    which = session_ids if len(session_ids) <= _HINTS else ["--all"]
    words = ["upload-kit", "resume", *which]
    if output.session_dir is not None:
        words += ["--session-dir", output.session_dir]
    return shlex.join(words)


def _hint(line: str) -> None:
    click.echo(line, err=True)
