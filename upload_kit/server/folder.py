"""
Uploads in a folder.

    DIR/incoming/ID/data.part       the bytes, written in place; sparse until they came
                    .info.json      what is known of the upload
                    .journal        a line for every chunk that counts
                    .lock           byte ranges of it are held by requests
                    .waiters        IDs of uploads that wait for this part of theirs
    DIR/files/ID/NAME               a published file, beside its .info.json and .journal
    DIR/keys/SHA256                 which upload an idempotency key stands for
    DIR/outbox/ID                   how far it is forwarded; see outbox.py

Publishing is one rename of the upload's folder. Names of sidecars begin with a dot,
which a safe name never does.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.server.config import Durability
from upload_kit.server.folder_files import (
    LOCK,
    TRASH,
    FolderUploadPaths,
    read_info,
    remove,
    sync_folder,
)
from upload_kit.server.folder_upload import FolderUpload
from upload_kit.server.ledger import Usage
from upload_kit.server.storage import UploadMissing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upload_kit.server.storage import UploadInfo

_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class FolderStorage:
    """
    A `Storage` in one folder, which several processes may share.

    Args:
        root: The folder; it is made, for its owner only, if it is not there.

        durability: What an acknowledged chunk survives.

    Raises:
        OSError: The folder cannot be made or used.
    """

    def __init__(self, root: Path, durability: Durability = Durability.FSYNC) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root.resolve()
        self._durability = durability
        for name in ("incoming", "files", "keys"):
            mode = 0o777 if name == "files" else 0o700
            with suppress(FileExistsError):
                (self._root / name).mkdir(mode)

    @property
    def is_readable(self) -> bool:
        """Whatever was written can be read."""
        return True

    @property
    def durability(self) -> Durability:
        """What an acknowledged chunk survives."""
        return self._durability

    @property
    def ledger_path(self) -> str:
        """The file of the ledger."""
        return f"{self._root}/.ledger"

    def lock_path(self, upload_id: str) -> str:
        """Return the file whose byte ranges stand for the chunks of an upload."""
        return f"{self._paths(upload_id).incoming}/{LOCK}"

    def _key_path(self, key: str) -> str:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not a key: {key!r}")
        return f"{self._root}/keys/{key}"

    def create(self, info: UploadInfo, *, resumable: bool = True) -> FolderUpload:
        """Begin an upload."""
        paths = self._paths(info.upload_id)
        if not resumable:
            # Two requests may send the same file; the first one to publish it counts.
            paths = replace(paths, incoming_id=secrets.token_hex(16))
        return FolderUpload.create(
            paths,
            info,
            resumable=resumable,
            durable=self._durability is Durability.FSYNC,
        )

    def open(self, upload_id: str) -> FolderUpload:
        """Open an upload, unfinished or published."""
        if _ID.fullmatch(upload_id) is None:
            raise UploadMissing
        durable = self._durability is Durability.FSYNC
        return FolderUpload.open(self._paths(upload_id), durable=durable)

    def find(self, key: str) -> str | None:
        """Return the published upload that `remember` was told of, or None."""
        try:
            with Path(self._key_path(key)).open("rb") as file:
                upload_id = file.read(32).decode("ascii", errors="replace")
        except FileNotFoundError:
            return None
        if _ID.fullmatch(upload_id) is None:
            return None
        published = Path(self._paths(upload_id).files).exists()
        return upload_id if published else None

    def remember(self, key: str, upload_id: str) -> None:
        """Have `find` return this upload for the key, once it is published."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._key_path(key), flags, 0o600)
        try:
            os.pwrite(fd, upload_id.encode(), 0)
            if self._durability is Durability.FSYNC:
                os.fsync(fd)
        finally:
            os.close(fd)
        if self._durability is Durability.FSYNC:
            sync_folder(f"{self._root}/keys")

    def scan(self, owner: str) -> Iterator[str]:
        """Yield the ID of every unfinished resumable upload of an owner."""
        for entry in self._entries("incoming"):
            info = read_info(entry.path)
            if info is not None and info.owner == owner:
                yield entry.name

    def expire(self, upload_id: str, before: float) -> int | None:
        """Remove an unfinished upload, or what is left of one."""
        paths = self._paths(upload_id)
        if not 0 < _newest(paths.incoming) < before:
            return None
        size = _folder_size(paths.incoming)
        remove(paths, paths.incoming)
        return size

    def remains(self, before: float) -> Iterator[str]:
        """Yield the ID of everything unfinished that nothing was written to since."""
        for entry in self._entries("incoming"):
            if 0 < _newest(entry.path) < before:
                yield entry.name

    def forget(self, before: float) -> None:
        """Let go of old keys, and end what was killed as it began or was removed."""
        for entry in os.scandir(self._root / "incoming"):
            if entry.name.startswith(TRASH):
                shutil.rmtree(entry.path, ignore_errors=True)
        for entry in self._entries("incoming"):
            if _is_bare(entry.path, before):
                remove(self._paths(entry.name), entry.path)
        for entry in os.scandir(self._root / "keys"):
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    Path(entry.path).unlink()

    def usage(self, *, with_sizes: bool) -> Usage:
        """Count what there is."""
        usage = Usage()
        for entry in self._entries("incoming"):
            if (info := read_info(entry.path)) is not None:
                usage.add(info.owner, 0, 1)
        if with_sizes:
            for place in ("incoming", "files"):
                for entry in self._entries(place):
                    usage.add(None, _folder_size(entry.path))
        return usage

    def check(self) -> None:
        """See whether anything can be stored now."""
        probe = (
            self._root / "incoming" / f".probe-{os.getpid()}-{threading.get_ident()}"
        )
        try:
            probe.write_bytes(b"a byte")
        finally:
            probe.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held open."""

    def _paths(self, upload_id: str) -> FolderUploadPaths:
        if _ID.fullmatch(upload_id) is None:
            raise ValueError(f"not an upload ID: {upload_id!r}")
        return FolderUploadPaths(
            root=str(self._root), upload_id=upload_id, incoming_id=upload_id
        )

    def _entries(self, place: str) -> Iterator[os.DirEntry[str]]:
        for entry in os.scandir(self._root / place):
            if _ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry


def _newest(folder: str) -> float:
    """
    Return when anything in a folder was last written; 0 when nothing is there.

    Locks do not count: whoever wants to remove an upload makes one as well.
    """
    try:
        # What is removed meanwhile ends the look, and must not leave the folder open.
        with os.scandir(folder) as entries:
            times = [
                entry.stat(follow_symlinks=False).st_mtime
                for entry in entries
                if entry.name != LOCK
            ]
    except FileNotFoundError:
        return 0.0
    return max(times, default=0.0)


def _is_bare(folder: str, before: float) -> bool:
    """Return whether an old folder never got a file: whoever made it was killed."""
    try:
        is_old = Path(folder).lstat().st_mtime < before
        with os.scandir(folder) as entries:
            return is_old and all(entry.name == LOCK for entry in entries)
    except FileNotFoundError:
        return False


def _folder_size(folder: str) -> int:
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                total += entry.stat(follow_symlinks=False).st_size
    return total
