"""Live progress on the wire: server-sent events, or a JSON document a line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    from upload_kit.models import StreamingProgress

_NDJSON: Final = "application/x-ndjson"
_SSE: Final = "text/event-stream"

_encode: Final = msgspec.json.Encoder().encode


class LineStream:
    """
    An answer that is written line by line.

    A reader that takes nothing for too long gets no more lines; what the lines are
    about goes on without it.

    Args:
        request: Asks for NDJSON by `Accept: application/x-ndjson`, or gets events.

        timeout: Seconds in which the reader has to take a line.
    """

    def __init__(self, request: web.Request, timeout: float) -> None:
        self._request = request
        self._timeout = timeout
        self._ndjson = _NDJSON in request.headers.get("Accept", "")
        self._deaf = False
        self.response = web.StreamResponse(
            headers={
                "Content-Type": _NDJSON if self._ndjson else _SSE,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Content-Type-Options": "nosniff",
            }
        )

    @property
    def is_deaf(self) -> bool:
        """Whether the reader took nothing for too long."""
        return self._deaf

    async def open(self) -> None:
        """Send the headers."""
        await self.response.prepare(self._request)

    async def send(self, line: StreamingProgress | None) -> None:
        """
        Send a line, or a sign of life.

        Raises:
            ConnectionError: The reader went away.
        """
        if line is None:
            data = b"" if self._ndjson else b":\n\n"
        elif self._ndjson:
            data = _encode(line) + b"\n"
        else:
            data = b"data: " + _encode(line) + b"\n\n"
        if data and not self._deaf:
            await self._write(data)

    async def close(self) -> web.StreamResponse:
        """End the answer."""
        if not self._deaf:
            await self.response.write_eof()
        return self.response

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self.response.write(data)
        except TimeoutError:
            self._deaf = True
            self.response.force_close()
