"""What stands in the folder of an upload, and how it is written, read and removed."""

# Small files cost a dozen of these calls and little else, so paths are plain strings.
# ruff: noqa: PTH104, PTH123

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from upload_kit.server.storage import UploadInfo

DATA: Final = "data.part"
INFO: Final = ".info.json"
JOURNAL: Final = ".journal"
LOCK: Final = ".lock"
WAITERS: Final = ".waiters"
TRASH: Final = ".gone-"

SAFELY: Final = os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of whatever is opened in there."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UploadInfo).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderUploadPaths:
    """Where one upload's folder is, before and after it is published."""

    root: str
    upload_id: str
    incoming_id: str

    @property
    def incoming(self) -> str:
        """The folder while bytes arrive."""
        return f"{self.root}/incoming/{self.incoming_id}"

    @property
    def files(self) -> str:
        """The folder once it is published."""
        return f"{self.root}/files/{self.upload_id}"


def read_info(folder: str) -> UploadInfo | None:
    """Return the info in an upload's folder; None where there is none to read."""
    try:
        fd = os.open(f"{folder}/{INFO}", os.O_RDONLY | SAFELY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        try:
            return _decode(file.read())
        except (msgspec.DecodeError, UnicodeError):
            return None


def remove(paths: FolderUploadPaths, folder: str) -> None:
    """
    Take an upload away in one step, then remove it at leisure.

    Args:
        paths: Those of the upload.

        folder: Which of its two folders.
    """
    trash = f"{paths.root}/incoming/{TRASH}{paths.incoming_id}"
    with suppress(FileNotFoundError):
        os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def sync_folder(path: str) -> None:
    """Make the names in a folder survive loss of power."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_info(
    folder: str, info: UploadInfo, *, durable: bool, new: bool = False
) -> None:
    """
    Write the info; in one step, so that who reads it meanwhile finds it whole.

    Args:
        folder: Where it belongs.

        info: What to write.

        durable: Whether it has to survive loss of power.

        new: Nobody knows of the folder yet, so there is nobody to read it.
    """
    path = f"{folder}/{INFO}"
    draft = path if new else f"{path}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFELY, 0o600)
    try:
        data = _encode(info)
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    if not new:
        os.rename(draft, path)
