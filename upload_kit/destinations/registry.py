"""Which scheme is whose: dotted names, imported on first use."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from upload_kit.config import ConnectionOptions
from upload_kit.errors import ConfigurationError, MissingExtra
from upload_kit.locations import parse_location

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.destinations.base import Destination, DestinationFactory

ENTRY_POINTS: Final = "upload_kit.destinations"
"""Other packages offer schemes under this entry point group: `scheme = module:name`."""

_HERE: Final = "upload_kit.destinations"
_OWN: Final[Mapping[str, str]] = {
    "file": f"{_HERE}.local:LocalDestination",
    "memory": f"{_HERE}.memory:MemoryDestination",
    "gemini": f"{_HERE}.gemini:GeminiDestination",
    "s3": f"{_HERE}.s3:S3Destination",
    "http": f"{_HERE}.discovery:DiscoveredDestination",
    "https": f"{_HERE}.discovery:DiscoveredDestination",
    "native+http": f"{_HERE}.native:NativeDestination",
    "native+https": f"{_HERE}.native:NativeDestination",
    "put+http": f"{_HERE}.put:PutDestination",
    "put+https": f"{_HERE}.put:PutDestination",
    "tus+http": f"{_HERE}.tus:TusDestination",
    "tus+https": f"{_HERE}.tus:TusDestination",
}
# What this process was offered besides; it may stand in for one of ours.
_REGISTERED: Final[dict[str, str]] = {}
# What to install when the module behind a scheme cannot be imported.
_EXTRAS: Final[dict[str, str]] = {"s3": "s3"}


def register(scheme: str, factory: str) -> None:
    """
    Offer a scheme, for this process.

    Args:
        scheme: Lower case, without `://`.

        factory: `module:name` of a `DestinationFactory`.
    """
    _REGISTERED[scheme] = factory


def own_schemes() -> tuple[str, ...]:
    """Return the schemes of this package, whatever else is registered or installed."""
    return tuple(sorted(_OWN))


def schemes() -> tuple[str, ...]:
    """Return every scheme that is known, those of other packages too."""
    offered = (point.name for point in entry_points(group=ENTRY_POINTS))
    return tuple(sorted({*_OWN, *_REGISTERED, *offered}))


def make_destination(url: str, options: ConnectionOptions | None = None) -> Destination:
    """
    Make the destination that a URL names; no I/O happens yet.

    Raises:
        ConfigurationError: It is no URL, its scheme is unknown, or it cannot work.
        MissingExtra: A package that it needs is not installed.
    """
    location = parse_location(url)
    factory = _factory(location.scheme)
    return factory(location, options or ConnectionOptions())


def _factory(scheme: str) -> DestinationFactory:
    target = _REGISTERED.get(scheme) or _OWN.get(scheme) or _offered(scheme)
    module, _, name = target.partition(":")
    try:
        factory: DestinationFactory = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if scheme in _EXTRAS:
            raise MissingExtra(error.name or module, _EXTRAS[scheme]) from error
        raise
    return factory


def _offered(scheme: str) -> str:
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == scheme:
            return point.value
    raise ConfigurationError(
        f"Unknown scheme {scheme}://.",
        hint=f"Known are {', '.join(f'{name}://' for name in schemes())}.",
    )
