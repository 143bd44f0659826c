"""`upload-kit bench`: measure this machine, and print what came out as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from upload_kit.bench.campaigns.command import (
    campaign_options,
    choose,
    run_campaigns,
)
from upload_kit.bench.campaigns.registry import all_campaigns
from upload_kit.bench.campaigns.runner import RunOptions
from upload_kit.bench.cases import LOOPBACK, MEMORY, SMALL, layer_cases
from upload_kit.bench.fault_link import link_options, make_fault_link
from upload_kit.bench.notebook.command import run_notebook
from upload_kit.bench.peers.command import run_peers
from upload_kit.bench.report import BenchmarkReport
from upload_kit.bench.run import Bench
from upload_kit.units import format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bench.cases import Case
    from upload_kit.bench.run import Measurement

SUITES: Final = ("link", "loopback", "small", "memory")
"""What is measured unless something else is asked for."""
PEERS: Final = "peers"
NOTEBOOK: Final = "notebook"


def _cases(suite: str) -> list[Case]:
    return {
        "link": layer_cases(),
        "loopback": list(LOOPBACK),
        "small": list(SMALL),
        "memory": list(MEMORY),
    }[suite]


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice([*SUITES, PEERS, NOTEBOOK]))
@click.option("--repeat", default=3, show_default=True, help="Rounds.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Where files and stores go.  [default: a temporary folder]",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with tables and plots to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a run.")
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="WORD",
    help="Of the peers, only rows in whose names this stands; may be repeated.",
)
@click.option(
    "--size",
    help="Of the peers, send files of this size.  [default: 1GiB, on the link 256MiB]",
)
@click.option(
    "--faults",
    is_flag=True,
    help="Look for lost and wrong bytes instead: upload through every fault there is.",
)
@campaign_options
@link_options
def bench(
    suites: tuple[str, ...],
    repeat: int,
    folder: Path | None,
    *,
    report: Path | None,
    as_json: bool,
    rows: tuple[str, ...],
    size: str | None,
    faults: bool,
    only: tuple[str, ...],
    before: str | None,
    link: str | None,
    share: float,
    kinds: tuple[str, ...],
    **options: Any,
) -> None:
    """
    Measure uploads on this machine.

    SUITES are `link` (the layers over a slow link), `loopback` (how fast it can be),
    `small` (many files) and `memory`; all of them by default. Client and server share
    this machine's cores.

    `peers`, which has to be asked for, sends the same file with other clients and to
    other servers too. It needs upload_kit[peers], and tus-js-client, @tus/server and
    @tus/file-store from npm.

    `notebook`, by itself too, measures in a kernel what a panel costs, what is left of
    an upload beside a cell that works, and how fast a long history loads. It needs
    upload_kit[notebook].

    With --faults, thousands of uploads go through broken links, killed processes, full
    disks and changing files, and what was stored is compared with what was sent. The
    options below it are for that. With --before besides, a link with faults leads to a
    server of yours, for any client.
    """
    if before is not None and not faults:
        raise click.UsageError("--before goes with --faults.")
    if before is not None:
        bad = make_fault_link(
            before,
            link,
            share,
            kinds,
            seed=options["seed"],
            minutes=options["minutes"],
        )
        bad.run(as_json=as_json)
        return
    if faults:
        good = run_campaigns(
            choose(all_campaigns(), only),
            RunOptions(**options),
            folder=folder,
            as_json=as_json,
        )
        click.get_current_context().exit(0 if good else 1)
    if len(suites) > 1 and (alone := {PEERS, NOTEBOOK} & {*suites}):
        raise click.UsageError(f"Measure {min(alone)} by itself.")
    if PEERS in suites:
        run_peers(rows, repeat, folder, size=size, report=report, as_json=as_json)
        return
    if NOTEBOOK in suites:
        run_notebook(repeat, folder, as_json=as_json)
        return
    _measure(suites or SUITES, repeat, folder, report=report, as_json=as_json)


def _measure(
    suites: Sequence[str],
    repeat: int,
    folder: Path | None,
    *,
    report: Path | None,
    as_json: bool,
) -> None:
    """Run suites one after another, and print what came out."""
    everything = []
    for suite in suites:
        done = []
        with Bench(repeat=repeat, folder=folder) as runner:
            for measurement in runner.run(_cases(suite)):
                done.append(measurement)
                click.echo(
                    measurement.to_json() if as_json else _line(measurement),
                    err=not as_json,
                )
        if not as_json:
            click.echo(f"\n{suite}\n{BenchmarkReport(done).to_text()}\n")
        everything += done
    if report is not None:
        BenchmarkReport(everything).to_html(report)
        click.echo(f"Written to {report}.", err=True)


def _line(measurement: Measurement) -> str:
    parts = [
        f"round {measurement.repeat + 1}: {measurement.case.name}:",
        format_rate(measurement.rate),
        f"in {measurement.seconds:.2f} s,",
        f"client {measurement.client_cpu:.2f} s CPU",
        f"and {format_size(measurement.peak_rss)},",
        f"server {measurement.server_cpu:.2f} s CPU",
    ]
    if measurement.raw_rate is not None:
        parts.append(f"({measurement.rate / measurement.raw_rate:.2f} of a raw socket)")
    return " ".join(parts)
