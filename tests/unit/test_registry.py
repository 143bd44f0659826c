"""Which scheme is whose: found by name, imported when first used."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from upload_kit.destinations import registry
from upload_kit.destinations.local import LocalDestination
from upload_kit.destinations.memory import MemoryDestination
from upload_kit.destinations.registry import make_destination, own_schemes, schemes
from upload_kit.errors import ConfigurationError


def test_schemes_of_the_first_release_are_known() -> None:
    """In order, each once."""
    known = schemes()
    assert {"file", "memory", "http", "https", "native+http", "put+https"} <= set(known)
    assert list(known) == sorted(set(known))


@pytest.mark.parametrize("scheme", registry.own_schemes())
def test_every_scheme_leads_to_an_adapter(scheme: str) -> None:
    """No dotted name in the table is misspelt."""
    assert callable(pkgutil.resolve_name(registry._OWN[scheme]))


@pytest.mark.parametrize(
    "url", ["ftp://host/", "htpp://host/", "os+system://x/", "native+file:///x"]
)
def test_unknown_scheme_is_refused_with_those_that_are_known(url: str) -> None:
    """The message helps to mend the spelling."""
    with pytest.raises(ConfigurationError, match="Unknown scheme") as refused:
        make_destination(url)
    assert "http://" in str(refused.value)


def test_scheme_is_no_matter_of_case() -> None:
    """As RFC 3986 has it."""
    assert isinstance(make_destination("MEMORY://x/"), MemoryDestination)


def test_registered_scheme_is_known() -> None:
    """A package or a notebook may bring a destination of its own."""
    registry.register("elsewhere", "upload_kit.destinations.local:LocalDestination")
    assert isinstance(make_destination("elsewhere:///a"), LocalDestination)
    assert "elsewhere" in schemes()
    assert "elsewhere" not in own_schemes()


def test_adapters_are_imported_when_first_used() -> None:
    """Knowing all schemes costs no import of aiohttp."""
    script = """
import sys
from upload_kit.destinations import registry
registry.schemes()
registry.make_destination("memory://x/")
assert "aiohttp" not in sys.modules, "aiohttp was imported"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "url", ["file://host/folder", "file://", "file:", "file://localhost"], ids=repr
)
def test_file_url_without_a_folder_of_this_machine_is_refused(url: str) -> None:
    """`file://folder` means a host; the hint says to write three slashes."""
    with pytest.raises(ConfigurationError):
        make_destination(url)
