"""Which display fits, and how events get to it without ever holding up an upload."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.terminal.lines import JsonLines, PlainLines
from upload_kit.terminal.tally import Tally
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from upload_kit.events import UploadEvent
    from upload_kit.progress.feeds import Feed

# Seconds without events after which a display may say that nothing moves.
_QUIET: Final = 1.0


class Display(Protocol):
    """Shows events; called by one thread at a time, and it may block."""

    pause: float
    """Seconds that events are collected for between two calls of `show`."""

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Show what happened; nothing at all when there are no events."""
        ...

    def close(self) -> None:
        """Leave the screen as it should stay."""
        ...


class Silent:
    """Shows nothing."""

    pause = 0.0

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing was shown."""


def make_display(
    out: TextIO,
    *,
    json: bool = False,
    quiet: bool = False,
    files: int = 1,
    size: int | None = None,
    tells_results: bool = True,
) -> Display:
    """
    Return bars for a terminal, plain lines for anything else.

    Args:
        out: Where to.

        json: JSON lines, whatever `out` is.

        quiet: Nothing.

        files: How many uploads there will be.

        size: Bytes of all of them; None if that is not known.

        tells_results: Whether to write a line of each upload that is complete.
    """
    if json:
        return JsonLines(out)
    if quiet:
        return Silent()
    tally = Tally(files=files, size=size)
    if not out.isatty():
        return PlainLines(out, tally, tells_results=tells_results)
    from upload_kit.terminal.bars import Bars

    return Bars(out, tally, tells_results=tells_results)


async def follow(feed: Feed, display: Display) -> None:
    """
    Show what comes through a feed until it ends, then close the display.

    Drawing happens in a thread: a terminal that is stopped, or a pipe that nobody
    reads, holds up nothing but this. A reader that went away is no reason
    to stop an upload.
    """
    try:
        await _follow(feed, display)
        await in_thread(display.close)
    except OSError:
        # Emptied to the end, so that what nobody sees does not fill the memory.
        async for _ in feed:
            feed.drain()


async def _follow(feed: Feed, display: Display) -> None:
    while True:
        events = []
        try:
            async with asyncio.timeout(_QUIET):
                events.append(await anext(feed))
        except TimeoutError:
            pass
        except StopAsyncIteration:
            return
        events += feed.drain()
        await in_thread(display.show, events)
        await asyncio.sleep(display.pause)
