"""How far an upload is, and its forward, for whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upload_kit.server.documents import status_document
from upload_kit.server.replies import json_response

if TYPE_CHECKING:
    from aiohttp import web

    from upload_kit.server.config import ServerConfig
    from upload_kit.server.documents import Snapshot
    from upload_kit.server.forward import Forwarder


class Reporter:
    """
    Answers with status documents.

    Args:
        config: Limits.

        forwarder: Knows how far forwards are; None if nothing is forwarded.
    """

    def __init__(self, config: ServerConfig, forwarder: Forwarder | None) -> None:
        self._config = config
        self._forwarder = forwarder

    async def answer(
        self, snapshot: Snapshot, *, status: int = 200, with_chunks: bool = False
    ) -> web.Response:
        """
        Answer with the status document of an upload.

        Args:
            snapshot: How far the upload is.

            status: The answer's HTTP status.

            with_chunks: Whether every chunk is to be listed.
        """
        document = await self.document(snapshot, with_chunks=with_chunks)
        return json_response(document, status=status)

    async def document(
        self, snapshot: Snapshot, *, with_chunks: bool = False
    ) -> dict[str, object]:
        """
        Return the status document of an upload.

        Args:
            snapshot: How far the upload is.

            with_chunks: Whether every chunk is to be listed.
        """
        forward = None
        if snapshot.is_complete and self._forwarder is not None:
            forward, _progress = await self._forwarder.look(snapshot.info.upload_id)
        return status_document(
            snapshot, self._config, with_chunks=with_chunks, forward=forward
        )
