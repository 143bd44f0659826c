"""
What is still to be forwarded, and how far that is: a small file an upload.

    DIR/outbox/ID                 a forward that is not done, or failed for good
              /.lock              a byte of it is held by whoever forwards an upload
              /.sessions/         how to go on with half-done forwards
              /.server-id         who forwards from here; see `upload_kit.via`
    DIR/files/ID/.forwarded.json  a forward that is done

An upload enters before it is published, so that a kill in between forgets no file. It
leaves by one rename once it is done, so that no kill makes it go a second time.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.server.config import Durability
from upload_kit.server.file_locks import HAS_FILE_LOCKS, try_lock
from upload_kit.server.folder_files import (
    FolderUploadPaths,
    read_info,
    remove,
    sync_folder,
)
from upload_kit.server.forward_record import Forward
from upload_kit.via import new_server_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upload_kit.server.storage import UploadInfo

DONE: Final = ".forwarded.json"
_LOCK: Final = ".lock"
_SERVER_ID: Final = ".server-id"
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
# Hexadecimal digits of an ID that say which byte stands for it: below 2**60, where file
# offsets end. Two that share a byte wait for one another, and nothing else.
_DIGITS: Final = 15
# Seconds after which an entry whose upload is not there is no longer waited for; from
# entering to being published it takes as long as the disk does.
_STALE: Final = 3600.0
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Forward).decode


@dataclass(slots=True)
class _Seen:
    """A record as it was read, and what its file looked like then."""

    stamp: tuple[int, int]
    forward: Forward


@dataclass(frozen=True, slots=True)
class Hold:
    """One forward that this process alone may work on."""

    fd: int
    """Of the lock file, opened for this alone."""

    def close(self) -> None:
        """Let go of it; takes no time."""
        os.close(self.fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A forward that is held, and all that is needed to work on it."""

    info: UploadInfo
    """What is known of the upload."""

    path: Path
    """Where its file is."""

    forward: Forward
    """How far it is."""

    hold: Hold
    """To be closed in the end."""


class Outbox:
    """
    The forwards of a server's folder, which several processes share.

    Its methods block, and are called in threads.

    Args:
        root: The server's folder.

        durability: What an entry survives.

    Raises:
        OSError: The folder cannot be made or used.
    """

    def __init__(self, root: Path, durability: Durability) -> None:
        self._root = root.resolve()
        self._folder = self._root / "outbox"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._durable = durability is Durability.FSYNC
        self._seen: dict[str, _Seen] = {}
        self.server_id = _read_server_id(self._folder / _SERVER_ID)
        self.wake: Callable[[], None] | None = None

    @property
    def sessions(self) -> Path:
        """Where the sessions of half-done forwards are."""
        return self._folder / ".sessions"

    @contextmanager
    def publishing(self, upload_id: str) -> Iterator[None]:
        """Have an upload forwarded that is published while the context lasts."""
        self._enter(upload_id)
        yield
        if self.wake is not None:
            # The event loop may end meanwhile; the next start looks by itself.
            with suppress(RuntimeError):
                self.wake()

    def waiting(self) -> dict[str, Forward]:
        """Return what has entered and not left, failed ones too."""
        seen = {}
        for entry in os.scandir(self._folder):
            if _ID.fullmatch(entry.name) is None:
                continue
            with suppress(FileNotFoundError):
                seen[entry.name] = self._look(entry)
        self._seen = seen
        return {upload_id: one.forward for upload_id, one in seen.items()}

    def read(self, upload_id: str) -> Forward | None:
        """Return how far the forward of an upload is; None if there is none."""
        done, entry = self._done(upload_id), self._folder / upload_id
        # One that is done between the two looks is in the first place.
        for path in (done, entry, done):
            with suppress(FileNotFoundError):
                return _read(path)
        return None

    def take(self, upload_id: str) -> Taken | None:
        """
        Hold a forward that is due, to work on it.

        Returns:
            None if another process has it, or there is nothing to be done: the upload
            is not published yet, was thrown away, or is forwarded already.
        """
        found = self.source(upload_id)
        if found is None:
            self._drop_if_stale(upload_id)
            return None
        hold = self.hold(upload_id)
        if hold is None:
            return None
        if self._done(upload_id).exists():
            # The same file came again, under the same key, and is what it was.
            self.drop(upload_id)
        else:
            with suppress(FileNotFoundError):
                forward = _read(self._folder / upload_id)
                info, path = found
                return Taken(info=info, path=path, forward=forward, hold=hold)
        hold.close()
        return None

    def write(self, upload_id: str, forward: Forward, *, durable: bool = True) -> None:
        """
        Remember how far a forward is; only by whoever holds it.

        Args:
            upload_id: Whose forward it is.

            forward: How far it is.

            durable: Whether losing this with the power would matter.
        """
        durable = durable and self._durable
        entry = self._folder / upload_id
        draft = self._folder / f".new-{upload_id}"
        _write(draft, forward, durable=durable, flags=os.O_TRUNC)
        draft.replace(entry)
        if durable:
            sync_folder(str(self._folder))

    def settle(self, upload_id: str, forward: Forward) -> None:
        """Remember that a forward is done, for good; only by whoever holds it."""
        self.write(upload_id, forward)
        done = self._done(upload_id)
        try:
            (self._folder / upload_id).replace(done)
        except FileNotFoundError:
            # The upload was thrown away meanwhile.
            self.drop(upload_id)
            return
        if self._durable:
            sync_folder(str(done.parent))
            sync_folder(str(self._folder))

    def drop(self, upload_id: str) -> None:
        """Have an upload not forwarded any more."""
        (self._folder / upload_id).unlink(missing_ok=True)

    def hold(self, upload_id: str) -> Hold | None:
        """
        Hold a forward until this is closed, or until this process ends.

        Returns:
            None if another process has it.
        """
        flags = os.O_RDWR | os.O_CREAT | _OPEN
        hold = Hold(os.open(self._folder / _LOCK, flags, 0o600))
        # Without such locks there is one process only.
        if not HAS_FILE_LOCKS or try_lock(hold.fd, int(upload_id[:_DIGITS], 16), 1):
            return hold
        hold.close()
        return None

    def source(self, upload_id: str) -> tuple[UploadInfo, Path] | None:
        """Return a published upload, and where its file is; None if there is none."""
        info = read_info(str(self._published(upload_id)))
        if info is None or info.stored_as is None:
            return None
        return info, self._root / info.stored_as

    def forget(self, before: float) -> None:
        """Let go of what is left of files that were forwarded and removed by then."""
        for entry in os.scandir(self._root / "files"):
            if _ID.fullmatch(entry.name) is None:
                continue
            with suppress(FileNotFoundError):
                done = _read(self._done(entry.name))
                if done.removed and done.updated_at < before:
                    self._remove(entry.name)

    def _remove(self, upload_id: str) -> None:
        paths = FolderUploadPaths(
            root=str(self._root), upload_id=upload_id, incoming_id=upload_id
        )
        remove(paths, paths.files)

    def _drop_if_stale(self, upload_id: str) -> None:
        entry = self._folder / upload_id
        with suppress(FileNotFoundError):
            if entry.stat().st_mtime < time.time() - _STALE:
                self.drop(upload_id)

    def _enter(self, upload_id: str) -> None:
        entry = self._folder / upload_id
        new = Forward(queued_at=time.time(), updated_at=time.time())
        try:
            _write(entry, new, durable=self._durable, flags=os.O_EXCL)
        except FileExistsError:
            # It was to be published before, and is no older than this attempt.
            with suppress(FileNotFoundError):
                os.utime(entry)
                return
            self._enter(upload_id)
            return
        if self._durable:
            sync_folder(str(self._folder))

    def _look(self, entry: os.DirEntry[str]) -> _Seen:
        facts = entry.stat(follow_symlinks=False)
        stamp = facts.st_mtime_ns, facts.st_ino
        known = self._seen.get(entry.name)
        if known is not None and known.stamp == stamp:
            return known
        return _Seen(stamp, _read(Path(entry.path)))

    def _published(self, upload_id: str) -> Path:
        if _ID.fullmatch(upload_id) is None:
            raise ValueError(f"not an upload ID: {upload_id!r}")
        return self._root / "files" / upload_id

    def _done(self, upload_id: str) -> Path:
        return self._published(upload_id) / DONE


def _read_server_id(path: Path) -> str:
    """
    Return the ID that stands there; have one stand there first, if need be.

    The first worker does so before there are others. Two servers that share a folder
    and start for the first time at once may take two IDs until one of them starts anew;
    then a file goes in a circle once more before it is refused.
    """
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        made = new_server_id()
    draft = path.with_name(f"{path.name}-{made}")
    draft.write_text(f"{made}\n", "ascii")
    draft.replace(path)
    return made


def _read(path: Path) -> Forward:
    data = path.read_bytes()
    try:
        return _decode(data)
    except msgspec.DecodeError:
        # Killed in the middle of its first write: nothing was forwarded then.
        return Forward(queued_at=path.stat().st_mtime)


def _write(path: Path, forward: Forward, *, durable: bool, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | _OPEN | flags, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(_encode(forward))
        file.flush()
        if durable:
            os.fsync(fd)
