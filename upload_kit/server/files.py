"""The life of a file that comes in one request. Knows no HTTP."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from upload_kit.logs import note
from upload_kit.server import rules
from upload_kit.server.core import superseded
from upload_kit.server.documents import Snapshot
from upload_kit.server.intake import FileSink
from upload_kit.server.locks import LocalLocker
from upload_kit.server.receive import pump, run
from upload_kit.server.storage import UploadMissing, whole_chunk
from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from upload_kit.server.intake import Expected
    from upload_kit.server.parts import Parts
    from upload_kit.server.receive import Body
    from upload_kit.server.rules import NewUpload
    from upload_kit.server.storage import UploadInfo

# Hexadecimal digits of an upload's ID.
_ID_LENGTH: Final = 32
# Bytes that come in one batch.
_SMALL: Final = 64 * KIB

log: Final = logging.getLogger("upload_kit.server")


class FileCore:
    """
    Stores files that come in one request.

    Args:
        parts: What it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._receiving = LocalLocker(parts.config.busy_timeout)

    def describe(self, owner: str, new: NewUpload) -> UploadInfo:
        """
        Give a file its ID before it comes.

        Raises:
            UploadProblem: It is larger than may be.
        """
        return rules.begin(self._parts.config, owner, new, max(1, new.size or 0))

    async def store(
        self,
        info: UploadInfo,
        *,
        body: Body,
        expected: Expected,
        key: str | None = None,
        arrived: Callable[[int], None] = lambda _size: None,
    ) -> Snapshot:
        """
        Store a file, and publish it in one atomic step.

        A file with a key gets its ID from the key. So the same key again meets the
        first file where it stands, in whatever process that came; nothing has to be
        remembered, and nothing is locked but what this process receives itself.

        Args:
            info: What `describe` returned.

            body: Its bytes.

            expected: Digests that it has to have.

            key: Hexadecimal digits; the same key again returns the first file instead
                of a second one.

            arrived: Told of the bytes of every batch.

        Raises:
            UploadProblem: It was refused; nothing is left of it then.
        """
        take = partial(self._take, body=body, expected=expected, arrived=arrived)
        if key is None:
            return await take(info)
        info = replace(info, upload_id=key[:_ID_LENGTH])
        evict = partial(body.stop, superseded())
        async with self._receiving.hold(info.upload_id, None, evict):
            return await self._first(info, body) or await take(info)

    async def _first(self, info: UploadInfo, body: Body) -> Snapshot | None:
        """Return what was stored with this key before, if it is worth looking first."""
        if body.size is not None and body.size <= _SMALL:
            # It is received as soon as looked for, and publishing it looks anyway.
            return None
        with suppress(UploadMissing):
            async with self._parts.uploads.use(info.upload_id) as upload:
                if upload.info.completed_at is not None:
                    return Snapshot.of(upload)
        return None

    async def _take(
        self,
        info: UploadInfo,
        *,
        body: Body,
        expected: Expected,
        arrived: Callable[[int], None],
    ) -> Snapshot:
        parts = self._parts
        note(upload=info.upload_id)
        sink = FileSink(
            parts.storage,
            info,
            expected,
            ledger=parts.ledger,
            publishing=parts.publishing,
        )
        try:
            stored = await pump(body, sink, parts.pool, arrived)
        except BaseException:
            await run(parts.pool, sink.abort)
            raise
        log.info("%s is complete, %s bytes", stored.name, stored.size)
        chunks = {0: whole_chunk(stored)}
        touched_at = stored.completed_at or 0.0
        return Snapshot(info=stored, chunks=chunks, touched_at=touched_at)
