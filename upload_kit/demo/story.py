"""What happens in the demonstration, in order, and how it is told."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from upload_kit.demo.process import DemoFailed, UploadProcess
from upload_kit.demo.proof import digest_file, find_stored
from upload_kit.models import Layer
from upload_kit.progress.feeds import Feed
from upload_kit.sessions.history import History
from upload_kit.sessions.manager import SessionManager, open_store
from upload_kit.terminal import (
    Column,
    follow,
    format_table,
    history_table,
    make_display,
    printable,
)
from upload_kit.threads import in_thread
from upload_kit.units import MB, MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from upload_kit.models import UploadProgress, UploadResult, UploadSession
    from upload_kit.server.child import ServerProcess
    from upload_kit.sessions.history import HistoryRow

_CHUNK: Final = 5 * MIB
# The upload that is killed gets a limit with which it would take so many seconds, and
# at least so many chunks, so that the kill lands in its middle on any machine.
_SECONDS: Final = 6.0
_CHUNKS: Final = 40
_KILL_AT: Final = 0.4
_COLUMNS: Final = (
    Column(title="LAYER"),
    Column(title="SECONDS", right=True),
    Column(title="MB/s", right=True),
    Column(title="CHUNKS", right=True),
    Column(title="PARALLEL", right=True),
    Column(title="RESUMED", right=True),
    Column(title="VERIFIED"),
    Column(title="IDENTICAL"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One upload that was made, and compared with its source."""

    label: str
    """What the table calls it."""

    result: UploadResult
    """How it ended."""

    identical: bool
    """Whether what the server stored is what was sent."""


class Story:
    """
    Uploads a file through each layer, is killed, resumes, compares, and tells of it.

    Args:
        path: What is uploaded; it is only read.

        server: Runs already.

        folder: For sessions, history and logs.

        out: Where it is told.

        keep: Leave what the server stored where it is.
    """

    def __init__(
        self,
        path: Path,
        server: ServerProcess,
        folder: Path,
        *,
        out: TextIO,
        keep: bool,
    ) -> None:
        self._path = path
        self._server = server
        self._folder = folder
        self._out = out
        self._keep = keep
        self._size = 0
        self._sha256 = ""
        self._runs: list[Run] = []

    async def tell(self) -> None:
        """
        Do it all, in order.

        Raises:
            DemoFailed: Something differs, takes too long, or goes another way.
        """
        self._size = (await in_thread(self._path.stat)).st_size
        self._sha256 = await in_thread(digest_file, self._path)
        self._say(f"File    {self._path}, {format_size(self._size)}")
        self._say(f"        SHA-256 {self._sha256}")
        self._say(f"Server  {self._server.url}, process {self._server.pid}")
        for layer in Layer:
            await self._upload(layer.value, self._put(layer.value, "--layer", layer))
        await self._kill_and_resume()
        rows = await self._history()
        self._show_tables(rows)
        self._judge(rows)

    def _put(self, label: str, *options: str) -> UploadProcess:
        name = f"{label}-{self._path.name}"
        return UploadProcess(
            "put",
            *(str(self._path), self._server.url, "--name", name, *options),
            folder=self._folder,
        )

    async def _upload(self, label: str, process: UploadProcess) -> UploadResult:
        """Run an upload to its end, and compare what was stored."""
        self._say(f"\n$ {printable(str(process))}")
        async with process:
            await self._watch(process)
        result = process.result
        assert result is not None
        stored = await find_stored(result, self._server.folder)
        identical = await in_thread(digest_file, stored) == self._sha256
        self._runs.append(Run(label=label, result=result, identical=identical))
        verdict = "the same SHA-256" if identical else "ANOTHER SHA-256"
        self._say(f"  stored as {stored.name}, read back from the disk: {verdict}")
        if not self._keep:
            await in_thread(stored.unlink)
        return result

    async def _kill_and_resume(self) -> None:
        """Kill an upload in its middle, and go on with it in another process."""
        process = self._put("killed", *self._slowly())
        self._say(f"\n$ {printable(str(process))}")
        async with process:
            killed = await self._watch(process, kill_at=_KILL_AT)
            self._say(
                f"  {_red('killed')} with kill -9: process {process.pid}, when"
                f" {format_size(killed.confirmed)} were acknowledged"
            )
        session = await self._only_session()
        result = await self._upload(
            "polish, killed and resumed",
            UploadProcess("resume", session.session_id, folder=self._folder),
        )
        self._say(
            f"  {format_size(result.bytes_resumed)} were there, and not sent again"
        )
        if result.bytes_resumed < killed.confirmed:
            raise DemoFailed(
                f"{killed.confirmed} bytes were acknowledged before the kill, but only"
                f" {result.bytes_resumed} were there afterwards."
            )

    def _slowly(self) -> list[str]:
        """Return the options with which a kill finds the upload in its middle."""
        rate = self._size / _SECONDS
        limit = f"{rate / MB:.0f}MB/s" if rate >= 10 * MB else f"{rate:.0f}"
        chunk = min(_CHUNK, self._size // _CHUNKS)
        return ["--limit", limit, "--chunk-size", str(chunk), "--compress", "off"]

    async def _watch(
        self, process: UploadProcess, *, kill_at: float | None = None
    ) -> UploadProgress:
        """
        Show an upload to its end, or until it is killed.

        Args:
            process: What is shown.

            kill_at: Share of the file that has to be acknowledged; None: no kill.

        Raises:
            DemoFailed: It failed, or it was done before it could be killed.
        """
        feed = Feed()
        display = make_display(self._out, tells_results=False)
        shown = asyncio.create_task(follow(feed, display))
        last = None
        try:
            async with aclosing(process.events()) as events:
                async for event in events:
                    feed.put(event)
                    last = event.progress
                    if kill_at is not None and (last.fraction or 0.0) >= kill_at:
                        await process.kill()
                        break
        finally:
            feed.close()
            await shown
        if last is None or (kill_at is not None and last.status.is_final):
            raise DemoFailed(f"`{process}` ended before it could be killed.")
        return last

    async def _only_session(self) -> UploadSession:
        """Return the session that the killed process left behind."""
        store = open_store(self._folder / "state" / "sessions")
        async with aclosing(SessionManager(store)) as manager:
            found = await manager.list()
        if len(found) != 1:
            raise DemoFailed(
                f"There should be one session to resume, not {len(found)}."
            )
        return found[0]

    async def _history(self) -> list[HistoryRow]:
        path = self._folder / "state" / "history.db"
        async with aclosing(History(path)) as history:
            return await history.rows()

    def _show_tables(self, rows: Sequence[HistoryRow]) -> None:
        lanes = {row.transfer_id: row.max_parallel for row in rows}
        cells = [_cells(run, lanes) for run in self._runs]
        self._say(f"\n{_bold('What each layer did')}")
        self._say(format_table(_COLUMNS, cells))
        self._say(f"\n{_bold('What the history says')}")
        self._say(history_table(rows, short=True))

    def _judge(self, rows: Sequence[HistoryRow]) -> None:
        """
        Make sure that everything is as it should be.

        Raises:
            DemoFailed: It is not.
        """
        for run in self._runs:
            if not run.identical:
                raise DemoFailed(f"What {run.label} stored is not what was sent.")
        recorded = {row.transfer_id for row in rows}
        if any(run.result.transfer_id not in recorded for run in self._runs):
            raise DemoFailed("The history does not tell of every upload.")

    def _say(self, line: str) -> None:
        # Without its colours, where it is no terminal.
        click.echo(line, file=self._out)


def _cells(run: Run, lanes: dict[str, int]) -> list[str]:
    result = run.result
    return [
        run.label,
        f"{result.seconds:.2f}",
        f"{result.rate / MB:.1f}",
        str(len(result.chunks)),
        str(lanes.get(result.transfer_id or "", "?")),
        format_size(result.bytes_resumed) if result.bytes_resumed else "-",
        result.verified.value,
        "yes" if run.identical else "NO",
    ]


def _bold(text: str) -> str:
    return text if "NO_COLOR" in os.environ else click.style(text, bold=True)


def _red(text: str) -> str:
    return text if "NO_COLOR" in os.environ else click.style(text, fg="red")
