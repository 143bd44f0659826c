"""The limits of a request: how long it may take to be connected, sent and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import aiohttp

from upload_kit.deadline import Deadline
from upload_kit.errors import RemoteUnavailable
from upload_kit.units import KIB

if TYPE_CHECKING:
    from types import SimpleNamespace

LEAST_RATE: Final = 8 * KIB
"""Bytes a second, the least at which a request that is no chunk is sent and answered; a
chunk's own lane watches how fast that moves."""


class Clock:
    """
    Ends a request that takes too long to be connected, sent or answered.

    aiohttp has a limit on the silence between two pieces of an answer, and none on the
    resolver, on a peer that does not read, or on one that answers a byte at a time.

    Args:
        connect: Seconds to resolve, connect and shake hands.

        answer: Seconds from then on; None where somebody else watches.
    """

    def __init__(self, connect: float, answer: float | None) -> None:
        self._connect = connect
        self._answer = answer
        self._is_connecting = False
        self._deadline = Deadline()

    def running(self) -> Deadline:
        """Return the context that ends with a TimeoutError."""
        return self._deadline

    def connecting(self) -> None:
        """Say that a connection is being made; waiting for others has no limit."""
        self._is_connecting = True
        self._deadline.allow(self._connect)

    def connected(self) -> None:
        """Say that there is a connection."""
        self._is_connecting = False
        self._deadline.allow(self._answer)

    def received(self, size: int) -> None:
        """Give an answer of this size more time, for its next piece."""
        self._deadline.extend(size / LEAST_RATE)

    def failure(self, url: str) -> RemoteUnavailable | None:
        """Return the error of a connection that took too long."""
        if not (self._is_connecting and self._deadline.has_passed):
            return None
        return RemoteUnavailable(
            f"Cannot connect to {url}: not within {self._connect:g} s.",
            hint="Does the name resolve, and does a firewall let this through?",
        )


def tracing() -> aiohttp.TraceConfig:
    """Have aiohttp tell the clock of each request where it stands."""

    async def connecting(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connecting()

    async def connected(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connected()

    config = aiohttp.TraceConfig()
    config.on_connection_create_start.append(connecting)
    config.on_connection_create_end.append(connected)
    config.on_connection_reuseconn.append(connected)
    return config
