"""What of this place may get in an upload's way, each with advice."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.api.jobs import jobs
from upload_kit.errors import UploadKitError
from upload_kit.notebook.nested import installed, nested_problem
from upload_kit.notebook.places import is_kernel, is_voila
from upload_kit.notebook.renderers import VARIABLE, choose
from upload_kit.sessions.places import default_session_dir
from upload_kit.units import GB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

# Clicks wait for the cell before, run beside it in between, and wait again from there.
_CLICKS_BESIDE: Final = ((7, 0), (7, 4))
_LITTLE_SPACE: Final = 1 * GB
_ALIVE: Final = "A live upload shows a sign of life every 20 s where widgets work."
_FRONTENDS: Final = (
    ("VSCODE_PID", "VS Code"),
    ("DATABRICKS_RUNTIME_VERSION", "Databricks"),
    ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle"),
    ("JPY_SESSION_NAME", "a Jupyter server"),
)
_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")


class State(StrEnum):
    """How something is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"


_SIGNS: Final = {
    State.OK: "\N{CHECK MARK}",
    State.NOTE: "i",
    State.WARNING: "!",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """What was looked at."""

    state: State
    """How it is."""

    value: str
    """What was found."""

    advice: str = ""
    """What to do, or what to know."""


def _ok(what: str, value: str, advice: str = "") -> Finding:
    return Finding(what=what, state=State.OK, value=value, advice=advice)


def _note(what: str, value: str, advice: str) -> Finding:
    return Finding(what=what, state=State.NOTE, value=value, advice=advice)


def _warning(what: str, value: str, advice: str = "") -> Finding:
    return Finding(what=what, state=State.WARNING, value=value, advice=advice)


class Diagnosis:
    """All findings; a table in a notebook, lines of text elsewhere."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What should be looked after."""
        return tuple(one for one in self.findings if one.state is State.WARNING)

    def __repr__(self) -> str:
        """Write a line a finding."""
        return "\n".join(
            f"{_SIGNS[one.state]} {one.what}: {one.value}"
            + (f" {one.advice}" if one.advice else "")
            for one in self.findings
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<div style="margin: 2px 0"><b>{_SIGNS[one.state]} {escape(one.what)}</b>'
            f" {escape(one.value)}"
            f' <span style="opacity: 0.75">{escape(one.advice)}</span></div>'
            for one in self.findings
        )
        return f'<div style="line-height: 1.5">{rows}</div>'


def doctor() -> Diagnosis:
    """
    Look at this place, and return what may get in an upload's way.

    Nothing is sent anywhere, and no secret is shown.
    """
    return Diagnosis(tuple(_look()))


def _look() -> Iterator[Finding]:
    yield _python()
    yield _kernel()
    yield _display()
    yield _clicks()
    yield _nested()
    yield _culling()
    yield _proxy()
    yield _space()
    yield _tables()
    yield _running()


def _python() -> Finding:
    system = f"{platform.system()} {platform.machine()}"
    ours = f"upload_kit {_version('upload_kit')}"
    return _ok("Python", f"{platform.python_version()} on {system}, {ours}.")


def _kernel() -> Finding:
    if not is_kernel():
        return _ok("Kernel", "none: a script or a prompt.")
    versions = f"ipykernel {_version('ipykernel')}, IPython {_version('ipython')}"
    return _ok("Kernel", f"{versions}, {_frontend()}.")


def _frontend() -> str:
    if is_voila():
        return "Voila"
    if "google.colab" in sys.modules:
        return "Colab"
    for variable, name in _FRONTENDS:
        if variable in os.environ:
            return name
    return "an unknown frontend"


def _display() -> Finding:
    try:
        free, waiting = choose(waiting=False), choose(waiting=True)
    except UploadKitError as error:
        return _warning("Display", str(error))
    value = f"{free.value} for start(), {waiting.value} for upload()."
    if os.environ.get(VARIABLE):
        return _note("Display", value, f"{VARIABLE} decides.")
    if is_kernel() and not installed("ipywidgets"):
        advice = "pip install ipywidgets brings a panel with buttons."
        return _note("Display", value, advice)
    return _ok("Display", value)


def _clicks() -> Finding:
    low, high = _CLICKS_BESIDE
    if not is_kernel() or low <= installed("ipykernel") < high:
        return _ok("Buttons", "act at once.")
    return _note(
        "Buttons",
        "act when the running cell is done.",
        "start() leaves the kernel free, and from ipykernel 7 on so does `await job`.",
    )


def _nested() -> Finding:
    problem = nested_problem()
    if problem is None:
        return _ok("asyncio", "not patched in a way that loses cells.")
    advice = "Restart the kernel; upload_kit.allow_nested() takes a patch that works."
    return _warning("asyncio", problem, advice)


def _culling() -> Finding:
    if {"BINDER_SERVICE_HOST", "BINDER_LAUNCH_HOST"} & set(os.environ):
        value = "Binder ends a kernel after 10 idle minutes."
        return _warning("Idle kernels", value, "Keep the tab open.")
    if "JUPYTERHUB_API_URL" in os.environ:
        value = "this hub may end what looks idle."
        return _note("Idle kernels", f"{value} {_ALIVE}", "job.result() looks busy.")
    return _ok("Idle kernels", "nothing known ends them.", _ALIVE)


def _proxy() -> Finding:
    named = [name for name in _PROXIES if os.environ.get(name)]
    if not named:
        return _ok("Proxy", "none.")
    advice = "Many refuse bodies above some megabytes: chunk_size='5MiB' helps."
    return _note("Proxy", f"{named[0]} is set.", advice)


def _space() -> Finding:
    folder = default_session_dir()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    value = f"in {_shorten(folder)}, {format_size(free)} free."
    if not (there.is_dir() and os.access(there, os.W_OK)):
        advice = "Nothing can be written there: set UPLOAD_KIT_SESSION_DIR."
        return _warning("Sessions", value, advice)
    if free < _LITTLE_SPACE:
        return _warning("Sessions", value, "They need some space to be kept.")
    return _ok("Sessions", value)


def _tables() -> Finding:
    wanted = ("pandas", "pyarrow", "matplotlib")
    missing = [name for name in wanted if not installed(name)]
    if missing:
        advice = "pip install 'upload_kit[notebook]' brings them."
        return _note("Tables", f"without {', '.join(missing)}.", advice)
    return _ok("Tables", ", ".join(f"{name} {_version(name)}" for name in wanted))


def _running() -> Finding:
    names = ", ".join(job.name for job in jobs())
    return _ok("Uploads", names or "none under way in this process.")


def _shorten(folder: Path) -> str:
    home = Path.home()
    if folder.is_relative_to(home):
        return f"~/{folder.relative_to(home).as_posix()}"
    return str(folder)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
