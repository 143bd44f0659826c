"""Which client sends what to which server, and what the figures are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from upload_kit.bench.cases import LinkSpec
from upload_kit.errors import ConfigurationError
from upload_kit.records import Record
from upload_kit.units import GIB, MB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS: Final = "upload_kit"
"""Our client, and our server, beside the names of others."""

_LONG_LINK: Final = LinkSpec(
    rate_per_connection=20 * MB, total_rate=100 * MB, latency=0.025
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCase(Record):
    """One client with one server."""

    group: str
    """Cases that are compared: `tus`, `s3`, `gemini` or `link`."""

    client: str
    """Who sends."""

    server: str
    """Who receives."""

    size: int = GIB
    """Bytes of the file."""

    chunk_size: int = 8 * MIB
    """Bytes a request; google-genai knows this size only."""

    parallel: int = 8
    """Requests at once, where the protocol allows it."""

    link: LinkSpec | None = None
    """None for plain loopback."""

    options: str = ""
    """What our client's URL says besides, such as `md5=off`."""

    @property
    def name(self) -> str:
        """How the row is called."""
        size = f", {self.size // MIB} MiB" if self.link else ""
        options = f" ({self.options})" if self.options else ""
        return f"{self.group}: {self.client}{options} > {self.server}{size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Record):
    """What a figure of one case is held against."""

    what: str
    """In words."""

    ours: str
    """Name of the case."""

    theirs: str = ""
    """Name of the case that it is compared with; empty for the link, or a limit."""

    figure: str = "rate"
    """`rate` (ours over theirs), `cpu` (ours over theirs), `link` or `memory`."""

    bound: float
    """At least so much; at most for `cpu` and `memory`."""


def _cases(
    group: str, clients: Sequence[str], servers: Sequence[str]
) -> list[PeerCase]:
    return [
        PeerCase(group=group, client=client, server=server)
        for server in servers
        for client in clients
    ]


_S3_PEERS: Final = ("boto3", "s5cmd", "rclone", "obstore")
_S3_SERVERS: Final = ("s3-sink", "seaweedfs", "rclone-s3")
# rclone reports no SHA-256, so that ours compares the MD5 of each part, which no peer
# does; beside peers it is left out, and measured in a row of its own.
_UNCOMPARED: Final = "md5=off"
_TUS_PEERS: Final = ("tuspy", "tus-js-client")

_TUS: Final = _cases("tus", (OURS, *_TUS_PEERS), (OURS, "tus-node", "tuspyserver"))
_S3: Final = [
    replace(case, options=_UNCOMPARED)
    if (case.client, case.server) == (OURS, "rclone-s3")
    else case
    for case in _cases("s3", (OURS, *_S3_PEERS), _S3_SERVERS)
]
_COMPARED: Final = PeerCase(
    group="s3-md5", client=OURS, server="rclone-s3", options="md5=on"
)
_GEMINI: Final = _cases("gemini", (OURS, "google-genai"), ("gemini",))
_LINK: Final = [
    replace(
        case,
        group="link",
        size=size,
        link=_LONG_LINK,
        chunk_size=16 * MIB,
        options=_UNCOMPARED
        if (case.client, case.server) == (OURS, "rclone-s3")
        else "",
    )
    for size, clients in ((256 * MIB, (OURS, *_S3_PEERS)), (GIB, (OURS,)))
    for case in (
        *_cases("s3", clients, ("rclone-s3", "seaweedfs")),
        PeerCase(group="link", client=OURS, server=OURS),
    )
]

PEERS: Final[tuple[PeerCase, ...]] = (*_TUS, *_S3, _COMPARED, *_GEMINI, *_LINK)
"""Everything that there is to measure."""


def select(cases: Sequence[PeerCase], words: Sequence[str]) -> list[PeerCase]:
    """
    Return the cases in whose names one of the words stands; all without words.

    Raises:
        ConfigurationError: A word stands in none.
    """
    for word in words:
        if not any(word in case.name for case in cases):
            names = "; ".join(case.name for case in cases)
            raise ConfigurationError(
                f"No row has {word!r} in its name.", hint=f"There are: {names}."
            )
    return [
        case for case in cases if not words or any(word in case.name for word in words)
    ]


def sized(cases: Sequence[PeerCase], size: int | None) -> list[PeerCase]:
    """
    Return the cases with files of another size, each name once.

    Args:
        cases: What is to be measured.

        size: Bytes; None leaves them as they are.

    Raises:
        ConfigurationError: There would be nothing to send.
    """
    if size is None:
        return list(cases)
    if size < 1:
        raise ConfigurationError("A file of 0 bytes shows no speed.")
    return list(
        {(new := replace(case, size=size)).name: new for case in cases}.values()
    )


def targets(cases: Sequence[PeerCase]) -> list[Target]:
    """Return what these cases are held against, as far as both sides are there."""
    return [target for case in cases for target in _targets(case, cases)]


_BY_RATE: Final = {"tus": 1.3, "s3": 1.0, "gemini": 2.0}
_MEMORY: Final = 150 * MB
_OF_LINK: Final = {256 * MIB: 0.85, GIB: 0.92}


def _targets(case: PeerCase, cases: Sequence[PeerCase]) -> list[Target]:
    """Return the targets of one case; those of a peer say what its server takes."""
    if case.client != OURS:
        return _server_targets(case, cases)
    found = [Target(what="memory", ours=case.name, figure="memory", bound=_MEMORY)]
    if case.link is not None and case.size in _OF_LINK:
        bound = _OF_LINK[case.size]
        found.append(
            Target(what="of the link", ours=case.name, figure="link", bound=bound)
        )
    if case.link is not None:
        return found
    for peer in cases:
        if peer.group == case.group and peer.server == case.server and peer != case:
            found += _client_targets(case, peer)
    return found


def _client_targets(case: PeerCase, peer: PeerCase) -> list[Target]:
    if peer.client == OURS:
        return []
    slowest = 2.0 if peer.client == "boto3" else _BY_RATE[case.group]
    made = [
        Target(
            what=f"throughput over {peer.client}",
            ours=case.name,
            theirs=peer.name,
            bound=slowest,
        )
    ]
    if peer.client == "boto3":
        made.append(
            Target(
                what="CPU of the client over boto3",
                ours=case.name,
                theirs=peer.name,
                figure="cpu",
                bound=0.5,
            )
        )
    return made


def _server_targets(case: PeerCase, cases: Sequence[PeerCase]) -> list[Target]:
    if case.group != "tus" or case.server != OURS:
        return []
    return [
        Target(
            what=f"what our server takes from {case.client}, over @tus/server",
            ours=case.name,
            theirs=other.name,
            bound=1.3,
        )
        for other in cases
        if other.client == case.client and other.server == "tus-node"
    ]
