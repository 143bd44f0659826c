"""Sessions in a folder, a small JSON file each, for people who like to look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import msgspec

from upload_kit.errors import SessionError
from upload_kit.models import Receipt, UploadSession
from upload_kit.sessions.disk import LOCK_TIMEOUT
from upload_kit.sessions.records import (
    check_filters,
    check_id,
    scan_heads,
    warn,
)
from upload_kit.sessions.session_files import SessionFiles
from upload_kit.sessions.worker import Worker

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable

P = ParamSpec("P")
T = TypeVar("T")

_FORMAT: Final = 1
_LINES: Final = msgspec.json.Decoder(tuple[int, Receipt])
_ENCODER: Final = msgspec.json.Encoder()


class JsonFileStore:
    """
    A `SessionStore` in a folder, for one user and any number of processes.

    What `put` wrote is on the disk when it returns. A receipt is with the operating
    system when `record` returns: it survives the process, and after a power cut the
    remote is asked what it has.

    Args:
        folder: Where the files are; made for this user alone when it is first needed.

        lock_timeout: Seconds to wait for another process to let go of the folder.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, lock_timeout: float = LOCK_TIMEOUT
    ) -> None:
        self.folder = Path(folder)
        self._files = SessionFiles(self.folder, lock_timeout)
        self._worker = Worker("upload-kit-sessions", lock_timeout=lock_timeout)

    async def get(self, session_id: str) -> UploadSession | None:
        """Return the session with all its receipts, or None if there is none."""
        return await self._run(self._files.get, check_id(session_id))

    async def put(
        self,
        session: UploadSession,
        *,
        expected: int | None,
        keep_receipts: bool = True,
    ) -> int:
        """Write the session if nobody else did meanwhile."""
        check_id(session.session_id)
        return await self._run(
            self._files.put, session, expected=expected, keep_receipts=keep_receipts
        )

    async def record(self, session_id: str, receipt: Receipt, *, fence: int) -> None:
        """Add one receipt: one short line, whatever the number of chunks."""
        await self._run(self._files.record, check_id(session_id), receipt, fence=fence)

    async def delete(self, session_id: str, *, expected: int | None = None) -> None:
        """Remove the session and its receipts; nothing happens if there is none."""
        await self._run(self._files.delete, check_id(session_id), expected=expected)

    async def scan(
        self,
        *,
        on_corrupt: Callable[[SessionError], None] | None = None,
        **where: str,
    ) -> AsyncIterator[UploadSession]:
        """Yield every readable session that matches, oldest first."""
        check_filters(where)
        report = on_corrupt or warn
        heads, unreadable = await self._run(self._files.heads)
        for error in unreadable:
            report(error)
        async for session in scan_heads(heads, where, self.get, report):
            yield session

    async def aclose(self) -> None:
        """Let go of the thread; no file stays open between calls."""
        self._worker.close()

    async def _run(
        self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return await self._worker.run(job, *args, **kwargs)
        except OSError as error:
            raise SessionError(
                f"The session folder {self.folder} cannot be used: {error}.",
                hint="Free some space, or name another folder.",
            ) from error
