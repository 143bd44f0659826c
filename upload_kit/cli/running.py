"""From a coroutine to an exit code: interrupts, errors, and an end that is prompt."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import click

from upload_kit.errors import ConfigurationError, UploadKitError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType
    from typing import Any

T = TypeVar("T")

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130

# Seconds to clear up after an interrupt, and for the process to end by itself.
_CLEAR_UP: Final = 5.0
_LEAVE: Final = 3.0


@dataclass(slots=True)
class Interruption:
    """Whether somebody interrupted."""

    happened: bool = False


@contextmanager
def interruptible(cancel: Callable[[], object]) -> Iterator[Interruption]:
    """
    Cancel at the first Ctrl-C or SIGTERM, and end the process at the second.

    It also ends if clearing up takes longer than five seconds. Only in the main thread,
    while its event loop runs.

    Args:
        cancel: Called in the event loop.
    """
    loop = asyncio.get_running_loop()
    interruption = Interruption()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interruption.happened:
            os._exit(INTERRUPTED)
        interruption.happened = True
        leave_within(_CLEAR_UP, INTERRUPTED)
        loop.call_soon_threadsafe(cancel)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {which: signal.signal(which, handle) for which in signals}
    try:
        yield interruption
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def leave_within(seconds: float, code: int) -> None:
    """End the process after so many seconds, whatever a thread still waits for."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def run(main: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine that an interrupt cancels.

    Raises:
        click.Abort: It was interrupted.
    """

    async def interrupted_by_signals() -> T:
        task = asyncio.ensure_future(main)
        with interruptible(task.cancel) as interruption:
            try:
                return await task
            except asyncio.CancelledError:
                if interruption.happened:
                    raise click.Abort from None
                raise

    return asyncio.run(interrupted_by_signals())


def exit_code_of(error: UploadKitError) -> int:
    """Return the exit code that an error stands for."""
    return WRONG_USE if isinstance(error, ConfigurationError) else FAILED


def complain(message: str) -> None:
    """Write one line to standard error, red on a terminal."""
    plain = "NO_COLOR" in os.environ
    line = f"upload-kit: {message}"
    click.echo(line if plain else click.style(line, fg="red"), err=True)


def show_traceback(error: BaseException) -> None:
    """Write an error's traceback to standard error."""
    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def leave(code: int) -> NoReturn:
    """
    End the process with this code.

    Output that nobody reads any more is dropped; a thread that hangs is left behind.

    Raises:
        SystemExit: Always.
    """
    with suppress(OSError):
        sys.stdout.flush()
    leave_within(_LEAVE, code)
    sys.exit(code)
