"""Which files the words of a command line name; standard input is one of them."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from upload_kit.api.gathering import Found, gather
from upload_kit.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

STDIN: Final = "-"
# What a pipe holds at most, unless it was told otherwise.
_PIECE: Final = 64 * 1024


def find_sources(words: Sequence[str], *, name: str | None = None) -> list[Found]:
    """
    Return what is to be uploaded, in the order of the words.

    Args:
        words: Paths, patterns and folders as `gather` takes them; or `-` alone, for
            standard input.

        name: What to call a single file.

    Raises:
        ConfigurationError: A name is missing or one too many, or two files would get
            the same one.
        SourceError: A folder holds no files.
    """
    if STDIN in words:
        return [_standard_input(words, name)]
    found = gather(words)
    if name is None:
        return found
    if len(found) != 1:
        raise ConfigurationError(f"--name is for one file, and there are {len(found)}.")
    return [replace(found[0], name=name)]


def _standard_input(words: Sequence[str], name: str | None) -> Found:
    if len(words) > 1:
        raise ConfigurationError("Standard input (-) cannot go with other sources.")
    if name is None:
        raise ConfigurationError(
            "What comes from standard input has no name.", hint="Give it one: --name."
        )
    # Python has no object for a descriptor that was closed when it started.
    if sys.stdin is None:
        raise SourceError("Standard input is closed.")
    descriptor = sys.stdin.fileno()
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or sys.platform == "win32":
        return Found(source=sys.stdin.buffer, name=name)
    return Found(source=read_stream(descriptor), name=name)


async def read_stream(descriptor: int) -> AsyncIterator[bytes]:
    """
    Yield what comes through a pipe, a socket or a terminal, as it comes.

    No thread waits in a read that nothing could end, so an interrupt comes through.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    while True:
        ready.clear()
        loop.add_reader(descriptor, ready.set)
        try:
            # No limit: whoever writes decides how long it takes.
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        # It does not block: there is something to read, or the other end is closed.
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return
        yield piece
