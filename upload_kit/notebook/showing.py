"""How a job gets to its display, and in which thread that is drawn."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from upload_kit.api.jobs import WaitInterrupted
from upload_kit.bridge import bridge
from upload_kit.notebook.displays import HtmlDisplay, StaticDisplay
from upload_kit.notebook.places import is_kernel, put, shell
from upload_kit.notebook.renderers import Progress, Renderer, choose
from upload_kit.terminal.display import follow
from upload_kit.terminal.lines import PlainLines
from upload_kit.terminal.tally import Tally
from upload_kit.waiting import wait

if TYPE_CHECKING:
    import concurrent.futures

    from upload_kit.api.jobs import Job
    from upload_kit.terminal.display import Display

# What is shown is not logged as well: without this, Python writes every retry into
# whichever cell happens to run. Whoever sets up logging still gets it all.
logging.getLogger("upload_kit").addHandler(logging.NullHandler())

R = TypeVar("R")

_drawing: set[concurrent.futures.Future[None]] = set()

_PLACED: Final = frozenset({Renderer.WIDGET, Renderer.HTML})

# Seconds that a cell which waited gives its display to paint for the last time.
_LAST_PAINT: Final = 3.0


def run_shown(job: Job[R], progress: Progress) -> R:
    """
    Begin a job, show it while it runs, and return how it went.

    Raises:
        WaitInterrupted: The wait was interrupted; the job goes on, and is shown.
    """
    renderer = choose(progress, waiting=True)
    if renderer in {Renderer.TQDM, Renderer.TEXT}:
        _draw_here(job, _stream(job, renderer))
        return job.result()
    shown = begin_shown(job, progress, waiting=True)
    try:
        job.wait()
    except WaitInterrupted:
        if shown is not None:
            shown.set_waiting(waiting=False)
        raise
    if shown is not None:
        shown.settle()
    return job.result()


class Shown:
    """A job that is shown in the background."""

    def __init__(
        self, display: Display, drawn: concurrent.futures.Future[None]
    ) -> None:
        self._display = display
        self._drawn = drawn
        _drawing.add(drawn)
        drawn.add_done_callback(_drawing.discard)

    def set_waiting(self, *, waiting: bool) -> None:
        """Tell the display whether a cell waits."""
        tell = getattr(self._display, "set_waiting", None)
        if tell is not None:
            tell(waiting=waiting)

    def settle(self) -> None:
        """Wait until it has painted for the last time; not for ever."""
        try:
            wait(self._drawn, _LAST_PAINT)
        except TimeoutError:
            return


def begin_shown(
    job: Job[Any], progress: Progress, *, waiting: bool = False
) -> Shown | None:
    """
    Begin a job, and show it in the background.

    Args:
        job: Not begun yet, so that no event is missed.

        progress: Which display.

        waiting: Whether the caller waits for it.
    """
    renderer = choose(progress, waiting=waiting)
    shown = None
    if renderer is not Renderer.NONE:
        shown = _draw_elsewhere(job, renderer, waiting=waiting)
    if is_kernel():
        placed = shell().execution_count if renderer in _PLACED else None
        job.on_shown = partial(_show_value, job, placed)
    job.begin()
    return shown


async def _finish_drawing() -> None:
    """Let every display show how it ended before the program does."""
    for drawn in list(_drawing):
        # Limited by the bridge.
        await asyncio.wait({asyncio.wrap_future(drawn)})


bridge.at_close(_finish_drawing)


def _draw_elsewhere(job: Job[Any], renderer: Renderer, *, waiting: bool) -> Shown:
    feed = job.subscribe()
    display: Display
    if renderer is Renderer.WIDGET:
        # Imported when shown: it takes a third of a second, and not all have it.
        from upload_kit.notebook.panel import Panel

        panel = Panel(job, waiting=waiting)
        panel.display()
        display = panel
    elif renderer is Renderer.HTML:
        display = html = HtmlDisplay(job)
        html.display()
    elif renderer is Renderer.STATIC:
        display = StaticDisplay(job)
    else:
        display = _stream(job, renderer)
    shown = Shown(display, bridge.submit(follow(feed, display)))
    if renderer not in _PLACED:
        job.on_waited = partial(_tell, shown, display)
    return shown


def _tell(shown: Shown, display: Display) -> None:
    """Let whoever waited see the end before what comes next."""
    shown.settle()
    if isinstance(display, StaticDisplay):
        display.tell()


def _show_value(job: Job[Any], placed: int | None) -> None:
    """Show a job as a cell's value; nothing in the cell that it is shown in anyway."""
    if shell().execution_count != placed:
        put({"text/plain": repr(job)}, raw=True)


def _stream(job: Job[Any], renderer: Renderer) -> Display:
    tally = Tally(files=job.files, size=job.size)
    if renderer is Renderer.TEXT:
        return PlainLines(sys.stderr, tally)
    from upload_kit.terminal.bars import Bars

    return Bars(sys.stderr, tally)


def _draw_here(job: Job[Any], display: Display) -> None:
    """Draw in this thread, so that what is written lands in the cell that waits."""
    feed = job.subscribe()
    job.begin()
    try:
        while not job.wait(display.pause):
            display.show(feed.drain())
    finally:
        display.show(feed.drain())
        display.close()
