"""A source for whatever a caller hands in."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from upload_kit.errors import ConfigurationError
from upload_kit.sources.file import FileSource
from upload_kit.sources.memory import BytesSource
from upload_kit.sources.streams import FileObjectSource, IteratorSource

if TYPE_CHECKING:
    from upload_kit.sources.base import Source

SourceLike: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | AsyncIterable[bytes]
)
"""What callers may hand in."""


def make_source(
    source: SourceLike, *, name: str | None = None, size: int | None = None
) -> Source:
    """
    Wrap whatever a caller may hand in.

    Args:
        source: A path, bytes, a binary file object, or an async iterator of bytes.

        name: File name at the destination; by default the path's last part, the file
            object's name, or `upload.bin`.

        size: Bytes, where the caller knows them and the source cannot tell.

    Raises:
        ConfigurationError: It is nothing that can be uploaded.
    """
    if size is not None and size < 0:
        raise ConfigurationError(f"A size cannot be negative: {size}.")
    if isinstance(source, str | os.PathLike):
        return FileSource(source, name=name)
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesSource(source, name=name or "upload.bin")
    if isinstance(source, AsyncIterable):
        return IteratorSource(source, name=name or "upload.bin", size=size)
    if hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise ConfigurationError(
                "A text file cannot be uploaded.", hint="Open it in binary mode."
            )
        named = getattr(source, "name", None)
        known = Path(named).name if isinstance(named, str) else "upload.bin"
        return FileObjectSource(source, name=name or known, size=size)
    raise ConfigurationError(
        f"Cannot upload a {type(source).__name__}.",
        hint="Hand in a path, bytes, a binary file object or an async iterator.",
    )
