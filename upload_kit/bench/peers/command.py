"""What `upload-kit bench peers` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from upload_kit.bench.peers.cases import PEERS, select, sized
from upload_kit.errors import ConfigurationError
from upload_kit.units import GIB, format_rate, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from upload_kit.bench.peers.run import PeerMeasurement


def run_peers(
    words: Sequence[str],
    repeat: int,
    folder: Path | None,
    *,
    size: str | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """
    Measure the rows that the words stand in, and print figures and targets.

    Raises:
        ConfigurationError: A word stands in no row, or nothing of it is installed.
        UploadKitError: A server did not start, or a client did not upload.
    """
    from upload_kit.bench.peers.report import PeerReport
    from upload_kit.bench.peers.run import PeerBench, possible

    cases, why = possible(
        sized(select(PEERS, words), None if size is None else parse_size(size))
    )
    for name, reason in why.items():
        click.echo(f"{name} is left out: {reason}", err=True)
    if not cases:
        raise ConfigurationError("None of these rows can be measured here.")
    done = []
    with PeerBench(repeat=repeat, folder=folder) as bench:
        for measured in bench.run(cases):
            done.append(measured)
            click.echo(
                measured.to_json() if as_json else _line(measured), err=not as_json
            )
    if not as_json:
        click.echo(f"\n{PeerReport(done).to_text()}\n")
    if report is not None:
        PeerReport(done).to_html(report)
        click.echo(f"Written to {report}.", err=True)


def _line(measured: PeerMeasurement) -> str:
    gibs = measured.case.size / GIB
    parts = [
        f"round {measured.repeat + 1}: {measured.case.name}:",
        format_rate(measured.rate),
        f"in {measured.seconds:.2f} s,",
        f"client {measured.client_cpu / gibs:.2f} s CPU a GiB",
        f"and {format_size(measured.peak_rss)},",
        f"server {measured.server_cpu / gibs:.2f} s CPU a GiB",
    ]
    if measured.of_link is not None:
        parts.append(f"({measured.of_link:.3f} of the link)")
    return " ".join(parts)
