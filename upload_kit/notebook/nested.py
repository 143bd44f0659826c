"""
`asyncio.run` inside a cell, for code that insists on it; nothing of ours needs it.

It needs asyncio to be patched, for the whole process. nest-asyncio 1.6 loses messages
on ipykernel 7.1 and newer: of several cells that were queued only the first one runs.
nest-asyncio2 does not, from 1.7.3 on.
"""

from __future__ import annotations

import asyncio
import re
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from upload_kit.bridge import bridge
from upload_kit.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from types import ModuleType

_OLD: Final = "nest-asyncio"
_NEW: Final = "nest-asyncio2"
_NEW_ENOUGH: Final = (1, 7, 3)
# Source: ipython/ipykernel#1451 and Chaoses-Ib/nest-asyncio2#4.
_STRICT_KERNEL: Final = (7, 1)
# There nest-asyncio leaves asyncio without a current task.
_STRICT_PYTHON: Final = (3, 14)


def allow_nested() -> str:
    """
    Let code in a cell call `asyncio.run` and `loop.run_until_complete`.

    It patches asyncio for the whole process, for good, and makes every event loop in it
    somewhat slower. `await` in a cell works without it.

    Returns:
        The package that was used.

    Raises:
        ConfigurationError: It would break this kernel; the message says why.
        MissingExtra: The package that works here is not installed.
    """
    bridge.refuse_here()
    loop = _running_loop()
    if loop is not None and type(loop).__module__.partition(".")[0] == "uvloop":
        raise ConfigurationError(
            "A uvloop cannot be patched for nested calls.",
            hint="Await in the cell instead of calling asyncio.run.",
        )
    if problem := nested_problem():
        raise ConfigurationError(problem, hint="Restart the kernel, then call this.")
    package = _NEW if _is_strict() else _OLD
    module = _import(package)
    module.apply(loop)
    return package


def nested_problem() -> str | None:
    """Return what is wrong with how asyncio was patched; None if nothing is."""
    patched = hasattr(asyncio, "_nest_patched")
    if not patched or not _is_strict():
        return None
    if hasattr(asyncio, "_nest_asyncio2") and installed(_NEW) >= _NEW_ENOUGH:
        return None
    return (
        "asyncio was patched by a nest-asyncio that loses cells of this kernel when"
        " several are queued, as by Run All."
    )


def _is_strict() -> bool:
    return sys.version_info >= _STRICT_PYTHON or (
        "ipykernel" in sys.modules and installed("ipykernel") >= _STRICT_KERNEL
    )


def installed(package: str) -> tuple[int, ...]:
    """Return the version of a package as numbers; nothing at all if it is missing."""
    try:
        text = version(package)
    except PackageNotFoundError:
        return ()
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def _import(package: str) -> ModuleType:
    if package == _NEW and () < installed(_NEW) < _NEW_ENOUGH:
        raise ConfigurationError(
            f"This kernel needs {_NEW} 1.7.3 or newer, not {version(_NEW)}.",
            hint=f"Install it with: pip install -U {_NEW}",
        )
    try:
        return import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise MissingExtra(package, "notebook") from error


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
