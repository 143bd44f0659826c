"""`uk.benchmark`: compare the layers from a notebook or a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upload_kit.bench.cases import layer_cases, parse_link
from upload_kit.bench.report import BenchmarkReport
from upload_kit.bench.run import Bench
from upload_kit.models import Layer
from upload_kit.units import parse_rate, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bench.cases import LinkSpec


def benchmark(
    size: str | int = "100MB",
    *,
    layers: Sequence[str] = tuple(Layer),
    parallel: Sequence[int] = (3, 5),
    chunk_size: str | int = "5MB",
    link: str | LinkSpec | None = "4MB/s per connection",
    limit: str | float | None = "10MB/s",
    repeat: int = 1,
) -> BenchmarkReport:
    """
    Upload a file through the layers, over a shaped link or loopback, and measure.

    Server, link and client are processes of their own on this machine; nothing is left
    behind.

    Args:
        size: Bytes of the file; it is random data.

        layers: `foundation`, `feature`, `polish`.

        parallel: Numbers of chunks at once; the polish layer takes the last one.

        chunk_size: Bytes a chunk.

        link: Such as `4MB/s per connection, 50ms round trip`; None or `loopback` for
            no limit.

        limit: Bandwidth limit of one more row of the polish layer; None for no such
            row.

        repeat: Rounds.

    Returns:
        `.frame` has a row a run, `.summary()` a row a case, `.plot()` draws them.

    Raises:
        ConfigurationError: A size, a rate, a link or a layer says nothing.
        UploadKitError: A process did not start.
    """
    cases = layer_cases(
        size=parse_size(size),
        chunk_size=parse_size(chunk_size),
        link=parse_link(link),
        parallel=tuple(parallel),
        limit=None if limit is None else parse_rate(limit),
        layers=tuple(Layer(layer) for layer in layers),
    )
    with Bench(repeat=repeat) as bench:
        return BenchmarkReport(list(bench.run(cases)))
