"""The demonstration as a call, for a notebook or a prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.bridge import bridge
from upload_kit.demo.stage import DemoOptions, run_demo
from upload_kit.units import MIB, parse_size

if TYPE_CHECKING:
    import os

# What the disk and the memory of a small machine in the cloud bear.
_SIZE: Final = 64 * MIB


def demo(
    file: str | os.PathLike[str] | None = None,
    *,
    size: int | str = _SIZE,
    keep: bool = False,
) -> None:
    """
    Upload a real file through every layer, kill one with -9, resume it, and compare.

    The server and the uploads are processes of their own, and gone afterwards.

    Args:
        file: What to upload; None for a file of random bytes.

        size: Bytes of that file, or for example `64MiB`.

        keep: Leave everything that was made, to be looked at.

    Raises:
        DemoFailed: Something differs, takes too long, or does not do what it should.
        ConfigurationError: The file is too small, or the disk too full.
        SourceError: The file cannot be read.
    """
    options = DemoOptions(
        file=None if file is None else Path(file), size=parse_size(size), keep=keep
    )
    # No limit: it is up to the size of the file, and an interrupt ends it.
    bridge.run(run_demo(options, sys.stdout))
