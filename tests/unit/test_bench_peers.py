"""The benchmark beside peers: rows are chosen, run and held against their targets."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.shell import Shell
from upload_kit.bench.peers.cases import OURS, PEERS, PeerCase, select, sized, targets
from upload_kit.bench.peers.programs import missing
from upload_kit.bench.peers.report import PeerReport
from upload_kit.bench.peers.run import PeerMeasurement
from upload_kit.errors import ConfigurationError
from upload_kit.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One of each kind: a library, Node, a program; each kind of server.
ROWS = (
    "tus: tuspy > upload_kit",
    "tus: upload_kit > tus-node",
    "tus: tus-js-client > tuspyserver",
    "s3: obstore > rclone-s3",
    "s3: s5cmd > rclone-s3",
    "s3: boto3 > s3-sink",
    "gemini: ",
)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        yield made


def test_peers_and_ours_upload_side_by_side(shell: Shell) -> None:
    """Every chosen row is measured, from both sides, with software not written here."""
    names = {case.client for case in PEERS} | {case.server for case in PEERS}
    for reason in filter(None, map(missing, sorted(names))):
        pytest.skip(reason)
    words = [word for row in ROWS for word in ("--row", row)]
    done = shell.run("bench", "peers", "--repeat=1", "--size=300KiB", "--json", *words)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    cases = [(line["case"]["client"], line["case"]["server"]) for line in lines]
    assert cases == [
        ("tuspy", OURS),
        (OURS, "tus-node"),
        ("tus-js-client", "tuspyserver"),
        ("boto3", "s3-sink"),
        ("s5cmd", "rclone-s3"),
        ("obstore", "rclone-s3"),
        (OURS, "gemini"),
        ("google-genai", "gemini"),
    ]
    for line in lines:
        assert line["case"]["size"] == 300 * KIB
        assert line["seconds"] > 0
        assert line["client_cpu"] > 0
        assert line["peak_rss"] > MIB


def _measured(
    case: PeerCase, repeat: int, seconds: float, cpu: float = 1.0
) -> PeerMeasurement:
    return PeerMeasurement(
        case=case,
        repeat=repeat,
        seconds=seconds,
        client_cpu=cpu,
        server_cpu=2.0,
        peak_rss=100 * MIB,
    )


def test_targets_compare_within_a_round() -> None:
    """A round that was slow for everybody changes no ratio; the median counts."""
    ours, boto3 = select(PEERS, ["s3: upload_kit > s3-sink", "s3: boto3 > s3-sink"])
    runs = [
        *(_measured(ours, 0, 1.0), _measured(boto3, 0, 3.0, cpu=2.5)),
        *(_measured(ours, 1, 10.0), _measured(boto3, 1, 25.0, cpu=2.5)),
        *(_measured(ours, 2, 1.0), _measured(boto3, 2, 1.0, cpu=1.5)),
    ]
    report = PeerReport(runs)
    found = {
        (verdict.target.figure, verdict.value, verdict.held)
        for verdict in report.verdicts()
    }
    assert found == {
        ("memory", 100 * MIB, True),
        ("rate", 2.5, True),
        ("cpu", 0.4, True),
    }
    assert "held   s3: upload_kit > s3-sink: throughput over boto3: 2.50" in (
        report.to_text()
    )
    summary = report.summary()
    assert summary.loc[boto3.name, "client_cpu_s_gib"] == 2.5
    assert summary.loc[ours.name, "throughput_mb_s"] == GIB / 1e6


def test_a_missed_target_is_said() -> None:
    """A share of the link, and a server's throughput, are judged as well."""
    links = select(PEERS, ["link: upload_kit > upload_kit, 256"])
    taken = select(PEERS, ["tus: tuspy > upload_kit", "tus: tuspy > tus-node"])
    runs = [_measured(links[0], 0, 10.0)]
    runs += [_measured(case, 0, 1.0) for case in taken]
    text = PeerReport(runs).to_text()
    assert "MISSED link: upload_kit > upload_kit, 256 MiB: of the link: 0.27" in text
    assert "MISSED tus: tuspy > upload_kit: what our server takes from tuspy" in text


def test_every_peer_is_held_against_ours() -> None:
    """No row of a peer on loopback is measured for nothing."""
    held = {target.theirs for target in targets(PEERS)}
    peers = {case.name for case in PEERS if case.client != OURS and case.link is None}
    assert peers <= held


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: select(PEERS, ["ftp"]), id="no-such-row"),
        pytest.param(lambda: sized(PEERS, 0), id="nothing-to-send"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: object) -> None:
    """A word that stands in no row says which rows there are."""
    assert callable(call)
    with pytest.raises(ConfigurationError):
        call()


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages from npm are looked for where the environment says."""
    monkeypatch.setenv("UPLOAD_KIT_NPM", str(tmp_path))
    reason = missing("tus-node")
    assert reason is not None
    assert "Node" in reason or f"npm install --prefix {tmp_path} @tus/server" in reason
    assert missing(OURS) is None
