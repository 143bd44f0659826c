"""An answer in the server's place: 429 or 5xx to whoever asks, as a proxy gives it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from upload_kit.bench.faults import Fault

_MOST_HEAD: Final = 64 * 1024
_PIECE: Final = 64 * 1024
# Seconds for a request's head to come, and for its sender to read the answer.
_PATIENCE: Final = 5.0


async def answer_busy(client: socket.socket, fault: Fault) -> None:
    """
    Answer one request of a connection, and end the connection.

    The rest of the request is read and dropped: a reset would overtake the answer.

    Args:
        client: Non-blocking; the caller closes it.

        fault: What to answer.
    """
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_PATIENCE):
            if not await _read_head(client):
                return
            await loop.sock_sendall(client, reply(fault))
            client.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(client, _PIECE):
                pass


async def _read_head(client: socket.socket) -> bool:
    """Read to the end of a request's head; False if there is none."""
    loop = asyncio.get_running_loop()
    head = b""
    while b"\r\n\r\n" not in head:
        data = await loop.sock_recv(client, _PIECE)
        head += data
        if not data or len(head) > _MOST_HEAD:
            return False
    return True


def reply(fault: Fault) -> bytes:
    """Return the whole answer of a fault."""
    try:
        reason = HTTPStatus(fault.status).phrase
    except ValueError:
        reason = "Failed"
    lines = [f"HTTP/1.1 {fault.status} {reason}", "Content-Length: 0"]
    if fault.retry_after is not None:
        lines.append(f"Retry-After: {fault.retry_after}")
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode("ascii")
