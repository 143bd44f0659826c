"""What the protocols of the server, and what is behind them, work with."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from upload_kit.server.activity import Activities
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.digests import WholeDigests
    from upload_kit.server.ledger import Ledger
    from upload_kit.server.locks import Locker
    from upload_kit.server.opened import OpenUploads
    from upload_kit.server.outbox import Outbox
    from upload_kit.server.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the life of an upload is made of; shared by all who take part in it."""

    config: ServerConfig
    """Limits."""

    storage: Storage
    """Where uploads are."""

    uploads: OpenUploads
    """Those that are open in this process."""

    locker: Locker
    """Keeps requests from working on the same chunk."""

    ledger: Ledger
    """Counts bytes and uploads."""

    digests: WholeDigests
    """Computes digests of whole files."""

    activities: Activities
    """Tells watchers that something moves."""

    pool: Executor
    """Threads for files and hashes."""

    outbox: Outbox | None = None
    """What is to be forwarded; None if nothing is."""

    def publishing(self, upload_id: str) -> AbstractContextManager[None]:
        """Have an upload forwarded, where that is wanted, once it is published."""
        if self.outbox is None:
            return nullcontext()
        return self.outbox.publishing(upload_id)
