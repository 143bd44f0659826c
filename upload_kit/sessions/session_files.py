"""
The files of sessions; everything here blocks.

`<id>.json` is the head: everything but the receipts, replaced in one atomic step.
`<id>.receipts` has a line a receipt, `[version, receipt]`, where `version` is that of
the head when the line was written. The head names the oldest version whose lines count,
so that replacing it forgets all receipts in the same step, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.errors import ConfigurationError, SessionCorrupt, SessionError
from upload_kit.models import Receipt, UploadSession
from upload_kit.sessions.disk import (
    locked,
    make_private_folder,
    open_private,
    replace_file,
    set_aside,
)
from upload_kit.sessions.records import (
    check_fence,
    encode_session,
    is_session_id,
    logger,
    next_version,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMAT: Final = 1
_LINES: Final = msgspec.json.Decoder(tuple[int, Receipt])
_ENCODER: Final = msgspec.json.Encoder()


class _LeftAlone(SessionError):
    """A file that cannot be used, though nothing says that it is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """What every version of a head file starts with."""

    format: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What a head file holds."""

    session: UploadSession
    since: int
    """Lines with an older version do not count."""

    def encode(self) -> bytes:
        head = f'{{"format":{_FORMAT},"since":{self.since},"session":'
        return (head + encode_session(self.session) + "}\n").encode()

    @classmethod
    def decode(cls, content: bytes, session_id: str) -> _Head:
        plain = json.loads(content)
        if msgspec.convert(plain, _Format).format > _FORMAT:
            raise _LeftAlone(
                f"Session {session_id} was written by a newer upload_kit.",
                hint="Upgrade this one.",
                session_id=session_id,
            )
        head = msgspec.convert(plain, cls)
        if head.session.session_id != session_id:
            raise ValueError(f"it is that of session {head.session.session_id}")
        return head


class SessionFiles:
    """
    A folder of sessions.

    Args:
        folder: Made for this user alone when it is first needed.

        lock_timeout: Seconds to wait for another process to let go of it.
    """

    def __init__(self, folder: Path, lock_timeout: float) -> None:
        self._folder = folder
        self._lock_timeout = lock_timeout

    def get(self, session_id: str) -> UploadSession | None:
        """Read the session with its receipts, or set it aside."""
        with self._locked():
            head = self._read_head(session_id)
            if head is None:
                return None
            receipts = self._read_receipts(session_id, head.since)
        return replace(head.session, receipts=receipts)

    def put(
        self, session: UploadSession, *, expected: int | None, keep_receipts: bool
    ) -> int:
        """Write the head if the stored version is the expected one."""
        session_id = session.session_id
        with self._locked():
            head = self._read_head(session_id)
            stored = head.session.version if head else None
            version = next_version(session_id, stored, expected)
            session = replace(session, version=version, receipts=())
            since = head.since if head and keep_receipts else version
            if head is None:
                self._receipts(session_id).unlink(missing_ok=True)
            content = _Head(session=session, since=since).encode()
            replace_file(self._head(session_id), content)
            if head is not None and not keep_receipts:
                self._forget_receipts(session_id)
        return version

    def record(self, session_id: str, receipt: Receipt, *, fence: int) -> None:
        """Append a line if nobody took the session over."""
        # No lock: the head is replaced in one step, a line is appended in one step, and
        # a line that comes too late carries a version that no longer counts.
        head = self._load_head(session_id)
        check_fence(session_id, head.session.fence if head else None, fence)
        assert head is not None
        line = _ENCODER.encode((head.session.version, receipt)) + b"\n"
        path = self._receipts(session_id)
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            self._repair(descriptor, path)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(descriptor)

    def delete(self, session_id: str, *, expected: int | None) -> None:
        """Remove both files, if the stored version is the expected one."""
        with self._locked():
            if expected is not None:
                head = self._read_head(session_id)
                if head is None:
                    return
                next_version(session_id, head.session.version, expected)
            # In this order a kill in between leaves only a file that `heads` removes.
            self._head(session_id).unlink(missing_ok=True)
            self._receipts(session_id).unlink(missing_ok=True)

    def heads(self) -> tuple[list[UploadSession], list[SessionError]]:
        """Return every head that can be read, and why the others cannot."""
        found: list[UploadSession] = []
        unreadable: list[SessionError] = []
        with self._locked():
            for session_id in self._session_ids():
                try:
                    head = self._read_head(session_id)
                except (SessionCorrupt, _LeftAlone) as error:
                    unreadable.append(error)
                else:
                    if head is not None:
                        found.append(head.session)
        return found, unreadable

    def _session_ids(self) -> list[str]:
        files = list(self._folder.iterdir())
        heads = {file.stem for file in files if file.suffix == ".json"}
        for file in files:
            orphan = file.suffix == ".receipts" and file.stem not in heads
            if orphan and is_session_id(file.stem):
                file.unlink(missing_ok=True)
        return sorted(filter(is_session_id, heads))

    def _load_head(self, session_id: str) -> _Head | None:
        path = self._head(session_id)
        try:
            return _Head.decode(path.read_bytes(), session_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _LeftAlone(
                f"Session {session_id} cannot be read: {error}.", session_id=session_id
            ) from error
        except (ValueError, RecursionError, ConfigurationError) as error:
            raise SessionCorrupt(
                f"The session file {path} is broken: {error}.", session_id=session_id
            ) from error

    def _read_head(self, session_id: str) -> _Head | None:
        """Load the head, or set the session aside; the folder is locked."""
        try:
            return self._load_head(session_id)
        except SessionCorrupt as error:
            aside = set_aside(self._head(session_id))
            with contextlib.suppress(FileNotFoundError):
                set_aside(self._receipts(session_id))
            error.hint = f"It was moved to {aside}."
            raise

    def _read_receipts(self, session_id: str, since: int) -> tuple[Receipt, ...]:
        path = self._receipts(session_id)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return ()
        # What follows the last newline is a line that was never finished.
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = _LINES.decode_lines(whole)
        except (msgspec.DecodeError, UnicodeError, ConfigurationError) as error:
            # The session lives on: what the remote holds can be asked for.
            logger.warning(
                "The receipts of session %s are broken (%s). They were moved to %s, "
                "and the remote will be asked what it has.",
                session_id,
                error,
                set_aside(path),
            )
            return ()
        counting = {
            receipt.index: receipt for version, receipt in lines if version >= since
        }
        return tuple(counting[index] for index in sorted(counting))

    def _forget_receipts(self, session_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self._receipts(session_id), 0)

    def _repair(self, descriptor: int, path: Path) -> None:
        """Cut off a line that was never finished, before another one follows it."""
        if _ends_with_newline(descriptor):
            return
        with self._locked():
            os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_private_folder(self._folder)
        with locked(self._folder / ".lock", timeout=self._lock_timeout):
            yield

    def _head(self, session_id: str) -> Path:
        return self._folder / f"{session_id}.json"

    def _receipts(self, session_id: str) -> Path:
        return self._folder / f"{session_id}.receipts"


def _ends_with_newline(descriptor: int) -> bool:
    if os.fstat(descriptor).st_size == 0:
        return True
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) == b"\n"
