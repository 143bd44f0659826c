"""The file that is uploaded, and what the server made of it: digests from the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Final

from upload_kit.config import ConnectionOptions
from upload_kit.demo.process import DemoFailed
from upload_kit.destinations.wire import Wire
from upload_kit.errors import ConfigurationError, SourceError
from upload_kit.threads import in_thread
from upload_kit.units import MIB, format_size

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.models import UploadResult

_BLOCK: Final = 4 * MIB


def make_file(path: Path, size: int) -> None:
    """Write a file of random bytes: nothing can be saved by compressing it; blocks."""
    with path.open("wb") as file:
        while size > 0:
            size -= file.write(os.urandom(min(_BLOCK, size)))


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file; blocks."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}.") from error


def require_space(folder: Path, size: int) -> None:
    """
    Make sure that the demonstration fits on the disk; blocks.

    Raises:
        ConfigurationError: It does not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ConfigurationError(
            f"The demonstration needs {format_size(size)} in {folder}, and"
            f" {format_size(free)} are free.",
            hint="Choose a smaller file, or name another folder in TMPDIR.",
        )


async def find_stored(result: UploadResult, store: Path) -> Path:
    """
    Ask the server where it stored an upload, and return the file below its folder.

    Raises:
        DemoFailed: It does not say, or nothing is there.
        RemoteError: It does not answer.
    """
    assert result.location is not None
    wire = Wire(ConnectionOptions())
    try:
        reply = await wire.request("GET", result.location)
    finally:
        await wire.aclose()
    if reply.status != 200:
        raise reply.error()
    stored_as = reply.json().get("stored_as")
    if not stored_as:
        raise DemoFailed(f"The server does not say where it stored {result.name}.")
    path = store / str(stored_as)
    if not await in_thread(path.is_file):
        raise DemoFailed(f"There is no file {path}, where the server says it is.")
    return path
