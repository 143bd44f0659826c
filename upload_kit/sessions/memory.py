"""Sessions that last as long as the process: for tests, demos and single runs."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from upload_kit.sessions.records import (
    check_fence,
    check_filters,
    check_id,
    next_version,
    scan_heads,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from upload_kit.errors import SessionError
    from upload_kit.models import Receipt, UploadSession


class MemoryStore:
    """A `SessionStore` without files; may be shared by threads and event loops."""

    def __init__(self) -> None:
        self._heads: dict[str, UploadSession] = {}
        self._receipts: dict[str, dict[int, Receipt]] = {}
        self._lock = threading.Lock()

    async def get(self, session_id: str) -> UploadSession | None:
        """Return the session with all its receipts, or None if there is none."""
        check_id(session_id)
        with self._lock:
            head = self._heads.get(session_id)
            if head is None:
                return None
            receipts = sorted(self._receipts[session_id].items())
        return replace(head, receipts=tuple(receipt for _, receipt in receipts))

    async def put(
        self,
        session: UploadSession,
        *,
        expected: int | None,
        keep_receipts: bool = True,
    ) -> int:
        """Write the session if nobody else did meanwhile."""
        session_id = check_id(session.session_id)
        with self._lock:
            version = next_version(session_id, self._version(session_id), expected)
            self._heads[session_id] = replace(session, version=version, receipts=())
            if expected is None or not keep_receipts:
                self._receipts[session_id] = {}
        return version

    async def record(self, session_id: str, receipt: Receipt, *, fence: int) -> None:
        """Add one receipt; it does not outlive this process."""
        check_id(session_id)
        with self._lock:
            head = self._heads.get(session_id)
            check_fence(session_id, head.fence if head else None, fence)
            self._receipts[session_id][receipt.index] = receipt

    async def delete(self, session_id: str, *, expected: int | None = None) -> None:
        """Remove the session and its receipts; nothing happens if there is none."""
        check_id(session_id)
        with self._lock:
            stored = self._version(session_id)
            if stored is None:
                return
            if expected is not None:
                next_version(session_id, stored, expected)
            del self._heads[session_id], self._receipts[session_id]

    def scan(
        self,
        *,
        on_corrupt: Callable[[SessionError], None] | None = None,
        **where: str,
    ) -> AsyncIterator[UploadSession]:
        """Yield every session that matches, oldest first."""
        check_filters(where)
        with self._lock:
            heads = tuple(self._heads.values())
        return scan_heads(heads, where, self.get, on_corrupt or warn)

    async def aclose(self) -> None:
        """Do nothing: the sessions stay as long as the store."""

    def _version(self, session_id: str) -> int | None:
        head = self._heads.get(session_id)
        return head.version if head else None
