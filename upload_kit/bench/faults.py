"""What can happen to a connection on a bad link, planned so that it can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from upload_kit.errors import ConfigurationError
from upload_kit.records import Record
from upload_kit.units import MIB

# A random fault on the way back strikes within the head of a short reply.
_REPLY_BYTES: Final = 512


class FaultKind(StrEnum):
    """What happens."""

    CUT = "cut"
    """Both ends see the connection closed in the middle of things."""

    RESET = "reset"
    """Both ends see the connection reset."""

    STALL = "stall"
    """Nothing moves in that direction for a while; for ever, it is half open."""

    LOSE_REPLY = "lose-reply"
    """The server gets everything and acts; its answer is lost with the connection."""

    CORRUPT = "corrupt"
    """One bit of one byte arrives turned over."""

    REFUSE = "refuse"
    """The connection is reset, and new ones are refused for a while."""

    BUSY = "busy"
    """For a while, new connections get 429 or 5xx for an answer (HTTP only)."""


class Direction(StrEnum):
    """Which way."""

    UP = "up"
    """From the client to the server."""

    DOWN = "down"
    """From the server to the client."""


_AT_ONCE: Final = frozenset({FaultKind.REFUSE, FaultKind.BUSY})
_UP_ONLY: Final = frozenset({FaultKind.LOSE_REPLY}) | _AT_ONCE
_BUSY_STATUSES: Final = (429, 500, 502, 503)
_RETRY_AFTER: Final = (None, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Record):
    """One thing that happens to one connection, once."""

    kind: FaultKind
    """What happens."""

    direction: Direction = Direction.UP
    """The way whose bytes are counted; a lost reply, a refusal and an answer in the
    server's place know only `up`."""

    after: int = 0
    """
    It strikes when so many bytes were carried that way, before the next one is.

    A refusal strikes at once, and so does an answer in the server's place.
    """

    seconds: float | None = None
    """How long a stall, a refusal or a busy time lasts; None for as long as the
    link."""

    status: int = 503
    """What a busy server is made to answer."""

    retry_after: int | None = None
    """Seconds that it asks to wait; None for no such field."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.after < 0 or (self.seconds is not None and self.seconds < 0):
            raise ConfigurationError(f"A fault cannot have a negative number: {self}.")
        if self.kind in _UP_ONLY and self.direction is not Direction.UP:
            raise ConfigurationError(f"A {self.kind} counts the bytes up only.")
        if self.kind in _AT_ONCE and self.after:
            raise ConfigurationError(
                f"A {self.kind} strikes at once, not after {self.after}."
            )
        if not 400 <= self.status <= 599:
            raise ConfigurationError(f"Not the status of a failure: {self.status}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan(Record):
    """
    Which connections suffer what, by their number from 0.

    The same plan gives the same faults.

    Example:
        >>> plan = FaultPlan(seed=7, share=0.5, within=1000)
        >>> plan.for_connection(3) == plan.for_connection(3)
        True
    """

    script: tuple[tuple[Fault, ...], ...] = ()
    """What the first connections suffer, one entry each; `()` for nothing."""

    seed: int = 0
    """Another seed, other random faults."""

    share: float = 0.0
    """Of the connections after the script, how many suffer a random fault: 0 to 1."""

    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    """What a random fault is drawn from, each as likely as the others."""

    within: int = 8 * MIB
    """Bytes up; a random fault strikes before so many were carried."""

    max_seconds: float = 1.0
    """A random stall, refusal or busy time lasts no longer."""

    endless: float = 0.0
    """Of the random stalls, how many never end: 0 to 1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for share in (self.share, self.endless):
            if not 0 <= share <= 1:
                raise ConfigurationError(f"A share goes from 0 to 1, not {share}.")
        if self.within < 1 or self.max_seconds < 0 or not self.kinds:
            raise ConfigurationError(f"No random fault can be drawn from {self}.")

    def for_connection(self, index: int) -> tuple[Fault, ...]:
        """Return what a connection suffers, in no particular order."""
        if index < len(self.script):
            return self.script[index]
        # Each connection has a generator of its own, so that the order in which they
        # come and the bytes that they carry change nothing for the others.
        draw = random.Random(f"{self.seed}/{index}")  # noqa: S311 (to be repeated)
        if draw.random() >= self.share:
            return ()
        return (self._random_fault(draw),)

    def _random_fault(self, draw: random.Random) -> Fault:
        kind = draw.choice(self.kinds)
        direction = Direction.UP if kind in _UP_ONLY else draw.choice(tuple(Direction))
        reach = self.within if direction is Direction.UP else _REPLY_BYTES
        fault = Fault(
            kind=kind,
            direction=direction,
            after=0 if kind in _AT_ONCE else draw.randrange(reach),
            seconds=draw.uniform(0, self.max_seconds),
        )
        if kind is FaultKind.STALL and draw.random() < self.endless:
            return replace(fault, seconds=None)
        if kind is FaultKind.BUSY:
            return replace(
                fault,
                status=draw.choice(_BUSY_STATUSES),
                retry_after=draw.choice(_RETRY_AFTER),
            )
        return fault
