"""What uploads can be told, as people write it, and the uploader that does it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypedDict

from upload_kit.errors import ConfigurationError
from upload_kit.models import Layer
from upload_kit.units import parse_duration, parse_rate, parse_size
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.options import FileOptions
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from upload_kit.config import Compression, RetryPolicy, Secret
    from upload_kit.uploaders.callbacks import ProgressCallback


class ConnectionKeywords(TypedDict, total=False):
    """Keywords of whatever speaks to a destination."""

    token: str | Secret | None
    """Bearer token."""

    api_key: str | Secret | None
    """The same, as services call it that give out keys."""

    headers: Mapping[str, str] | None
    """Further request headers."""

    retry: RetryPolicy | None
    """When a chunk is tried again."""

    stall_timeout: float | str
    """Seconds, or for example `30s`, without movement until a fresh connection."""

    connect_timeout: float | str
    """Seconds to find, reach and greet the destination's host."""

    response_timeout: float | str
    """Seconds for the destination to answer."""

    read_timeout: float | str
    """Seconds for the disk to give the next bytes of a file."""

    max_connections: int
    """Open connections at most."""

    memory_budget: int | str
    """Bytes of chunk buffers."""

    parallel: int
    """Chunks on the wire at once; not in the foundation layer."""

    limit: float | str | None
    """Bytes a second, or for example `10MB/s`; polish layer only."""

    session_dir: str | os.PathLike[str] | None
    """Where sessions are kept; polish layer only."""

    history: bool | str | Path
    """Whether, or in which file, a row is kept of every upload."""

    on_progress: ProgressCallback | None
    """Called with an `UploadProgress` as things happen."""


class UploadKeywords(ConnectionKeywords, total=False):
    """Keywords of whatever uploads."""

    layer: Layer | str
    """`foundation`, `feature` or `polish`, which is the default."""

    chunk_size: int | str
    """Bytes, or for example `5MiB`; the destination's limits may change it."""

    overwrite: bool
    """False refuses when something stands at the destination already."""

    whole_digest: bool
    """Have the SHA-256 of the whole file compared; always so in the polish layer."""

    compression: Compression | str
    """`off`, `auto`, `gzip` or `zstd`; polish layer only."""

    session_ttl: float | str | None
    """Seconds, or for example `48h`, until a session expires; polish layer only."""


class StartKeywords(UploadKeywords, FileOptions, total=False):
    """Keywords of whatever uploads one file."""


_UPLOADERS: Final[dict[Layer, type[ChunkedUploader]]] = {
    Layer.FOUNDATION: ChunkedUploader,
    Layer.FEATURE: ParallelUploader,
    Layer.POLISH: ResumableUploader,
}
# The keywords that not every layer has, and the first one that does.
_SINCE: Final = {
    "parallel": Layer.FEATURE,
    "limit": Layer.POLISH,
    "throttle": Layer.POLISH,
    "compression": Layer.POLISH,
    "session_dir": Layer.POLISH,
    "session_ttl": Layer.POLISH,
}
_RENAMED: Final = {"parallel": "max_parallel", "limit": "bandwidth_limit"}
_PARSERS: Final = {
    "chunk_size": parse_size,
    "memory_budget": parse_size,
    "limit": parse_rate,
    "stall_timeout": parse_duration,
    "connect_timeout": parse_duration,
    "response_timeout": parse_duration,
    "read_timeout": parse_duration,
    "session_ttl": parse_duration,
}
_KNOWN: Final = frozenset(StartKeywords.__annotations__) | {"throttle"}
_OF_ONE_FILE: Final = frozenset(FileOptions.__annotations__)


def make_uploader(
    destination: str | None, keywords: Mapping[str, Any]
) -> ChunkedUploader:
    """
    Return the uploader of a layer.

    Args:
        destination: URL of where files go.

        keywords: As in `UploadKeywords`; sizes, rates and times may be strings.

    Raises:
        ConfigurationError: A keyword is unknown, the layer does not have it, or the
            URL or a number cannot work.
    """
    checked = read_keywords(keywords)
    layer = read_layer(checked.pop("layer", Layer.POLISH))
    order = list(Layer)
    for name in checked:
        since = _SINCE.get(name, Layer.FOUNDATION)
        if order.index(layer) < order.index(since):
            raise ConfigurationError(
                f"The {layer.value} layer has no {name}=.",
                hint=f"Use layer={since.value!r}, or leave it out.",
            )
    renamed = {_RENAMED.get(name, name): value for name, value in checked.items()}
    return _UPLOADERS[layer](destination, **renamed)


def read_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords with what strings stand for; refuse those nobody knows."""
    checked = {}
    for name, value in keywords.items():
        if name not in _KNOWN:
            near = get_close_matches(name, _KNOWN, 1)
            raise ConfigurationError(
                f"There is no keyword {name}=.",
                hint=f"Did you mean {near[0]}=?" if near else None,
            )
        parse = _PARSERS.get(name)
        checked[name] = value if parse is None or value is None else parse(value)
    return checked


def split_keywords(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of one file, and the rest."""
    of_file = {name: options.pop(name) for name in _OF_ONE_FILE & set(options)}
    return of_file, options


def read_layer(layer: Layer | str) -> Layer:
    """
    Return the layer of a name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return Layer(layer)
    except ValueError:
        raise ConfigurationError(
            f"There is no layer {layer!r}.",
            hint="Use foundation, feature or polish.",
        ) from None
