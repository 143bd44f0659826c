"""`upload-kit bench --faults --before HOST:PORT`: a bad link to any server."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import click

from upload_kit.bench.cases import parse_link
from upload_kit.bench.faults import FaultKind, FaultPlan
from upload_kit.bench.link import ShapedLink
from upload_kit.errors import ConfigurationError
from upload_kit.server.process import stop_signal
from upload_kit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.bench.cases import LinkSpec
    from upload_kit.bench.link import LinkStats

T = TypeVar("T")

# Of the stalls, how many leave a connection half open for good.
_ENDLESS: Final = 0.2

_OPTIONS: Final = (
    click.option(
        "--before",
        metavar="HOST:PORT",
        help="Run no campaign, but a link with faults to this server, for whatever"
        " client you like, until Ctrl-C.",
    ),
    click.option(
        "--link",
        help='Of the link: "4MB/s per connection, 20MB/s in all, 50ms round trip".',
    ),
    click.option(
        "--share",
        type=click.FloatRange(0, 1),
        default=0.3,
        show_default=True,
        help="Of the link: how many of its connections suffer a fault.",
    ),
    click.option(
        "--kind",
        "kinds",
        multiple=True,
        type=click.Choice([kind.value for kind in FaultKind]),
        help="Of the link: only these faults; may be repeated.",
    ),
)


def link_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options of a link to any server."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_fault_link(
    before: str,
    link: str | None,
    share: float,
    kinds: Sequence[str],
    *,
    seed: int,
    minutes: float | None,
) -> FaultLink:
    """
    Make a link from the options of the command line.

    Raises:
        ConfigurationError: The link's description says nothing.
    """
    plan = FaultPlan(
        seed=seed,
        share=share,
        kinds=tuple(FaultKind(kind) for kind in kinds or FaultKind),
        endless=_ENDLESS,
    )
    return FaultLink(before=before, spec=parse_link(link), faults=plan, minutes=minutes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultLink:
    """A link to a server, and what happens on it."""

    before: str
    """`host:port` of the server."""

    spec: LinkSpec | None
    """What the link is like; None for one without limits."""

    faults: FaultPlan
    """What happens."""

    minutes: float | None
    """Until it is closed; None for as long as nobody ends it."""

    def run(self, *, as_json: bool) -> None:
        """
        Carry connections until the time is over or somebody ends it.

        Args:
            as_json: Print a JSON object in the beginning and one in the end.

        Raises:
            ConfigurationError: There is no such address.
        """
        stats = asyncio.run(self._run(as_json=as_json))
        if as_json:
            click.echo(stats.to_json())
            return
        click.echo(
            f"{stats.connections} connections, {format_size(stats.bytes_up)} up,"
            f" {format_size(stats.bytes_down)} down, {stats.faults} faults"
        )

    async def _run(self, *, as_json: bool) -> LinkStats:
        async with self._link() as link, stop_signal() as stop:
            address = f"{link.host}:{link.port}"
            if as_json:
                click.echo(json.dumps({"address": address}))
            else:
                click.echo(f"{address} leads to {self.before}; end it with Ctrl-C.")
            limit = None if self.minutes is None else 60 * self.minutes
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await stop.wait()
        return link.stats

    def _link(self) -> ShapedLink:
        host, colon, port = self.before.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigurationError(
                f"Not the address of a server: {self.before!r}.",
                hint="Write it like 127.0.0.1:8000.",
            )
        shape = self.spec
        return ShapedLink(
            host,
            int(port),
            rate_per_connection=None if shape is None else shape.rate_per_connection,
            total_rate=None if shape is None else shape.total_rate,
            latency=0.0 if shape is None else shape.latency,
            faults=self.faults,
        )
