"""Where the demonstration plays: a folder, a file and a server, gone afterwards."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.demo.proof import make_file, require_space
from upload_kit.demo.story import Story
from upload_kit.errors import ConfigurationError, SourceError
from upload_kit.server.child import ServerProcess
from upload_kit.threads import in_thread
from upload_kit.units import KIB, MIB, format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TextIO

_SMALLEST: Final = 64 * KIB
# Uploads whose copies stand on the disk at once, if they are kept.
_UPLOADS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What is shown."""

    file: Path | None = None
    """What to upload; None for a file of random bytes."""

    size: int = 256 * MIB
    """Bytes of that file."""

    keep: bool = False
    """Leave everything that was made, to be looked at."""


async def run_demo(options: DemoOptions, out: TextIO) -> None:
    """
    Upload a real file through every layer to a real server, kill, resume, compare.

    Server and uploads are processes of their own. Whatever happens they end, and
    nothing is left behind, unless it is to be kept.

    Args:
        options: What is shown.

        out: Where it is told; bars need a terminal.

    Raises:
        DemoFailed: Something differs, takes too long, or does not do what it should.
        ConfigurationError: The file is too small, or the disk too full.
        SourceError: The file cannot be read.
    """
    folder = Path(await in_thread(tempfile.mkdtemp, prefix="upload-kit-demo-"))
    try:
        path = await _prepare(options, folder, out)
        async with _serving(folder / "store") as server:
            await Story(path, server, folder, out=out, keep=options.keep).tell()
    finally:
        if not options.keep:
            await in_thread(shutil.rmtree, folder, ignore_errors=True)
    left = f"Kept in {folder}." if options.keep else "Nothing was left behind."
    out.write(f"\nEvery copy is identical to the file. {left}\n")
    out.flush()


async def _prepare(options: DemoOptions, folder: Path, out: TextIO) -> Path:
    """Return the file that is uploaded; make it, if none is given."""
    path = options.file
    size = options.size if path is None else await in_thread(_size_of, path)
    if size < _SMALLEST:
        raise ConfigurationError(
            f"A file of {size} bytes cannot be cut off in its middle.",
            hint=f"Take one of at least {format_size(_SMALLEST)}.",
        )
    copies = (_UPLOADS if options.keep else 1) + (path is None)
    await in_thread(require_space, folder, copies * size)
    if path is not None:
        return path.absolute()
    out.write(f"Makes a file of {format_size(size)} of random bytes.\n")
    out.flush()
    await in_thread(make_file, folder / "demo.bin", size)
    return folder / "demo.bin"


def _size_of(path: Path) -> int:
    try:
        facts = path.stat()
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}.") from error
    if not path.is_file():
        raise SourceError(f"{path} is no file.", hint="Name a single file.")
    return facts.st_size


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[ServerProcess]:
    """Run a server as long as the context lasts."""
    server = ServerProcess(folder)
    starting = asyncio.ensure_future(in_thread(server.start))
    try:
        await asyncio.shield(starting)
        yield server
    except BaseException:
        # Limited: the start is. What the server has not saved goes with its folder.
        await asyncio.wait({starting})
        await in_thread(server.kill)
        raise
    await in_thread(server.stop)
