"""The doctor's findings, and the helper for nested loops, outside a kernel."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import upload_kit as uk
from upload_kit.notebook.doctor import Diagnosis, Finding, State

if TYPE_CHECKING:
    from pathlib import Path


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def find(what: str) -> Finding:
    [finding] = [one for one in uk.doctor().findings if one.what == what]
    return finding


def test_a_healthy_place() -> None:
    """Everything is looked at, and nothing is wrong here."""
    diagnosis = uk.doctor()
    assert [one.what for one in diagnosis.findings] == [
        "Python",
        "Kernel",
        "Display",
        "Buttons",
        "asyncio",
        "Idle kernels",
        "Proxy",
        "Sessions",
        "Tables",
        "Uploads",
    ]
    assert "asyncio: not patched" in repr(diagnosis)


@pytest.mark.parametrize(
    ("variable", "value", "what", "state"),
    [
        pytest.param(
            "UPLOAD_KIT_PROGRESS", "fancy", "Display", State.WARNING, id="display"
        ),
        pytest.param("UPLOAD_KIT_PROGRESS", "none", "Display", State.NOTE, id="silent"),
        pytest.param(
            "BINDER_LAUNCH_HOST", "x", "Idle kernels", State.WARNING, id="binder"
        ),
        pytest.param("JUPYTERHUB_API_URL", "x", "Idle kernels", State.NOTE, id="a hub"),
        pytest.param("https_proxy", "http://u:pw1@p", "Proxy", State.NOTE, id="proxy"),
    ],
)
def test_what_it_finds(
    monkeypatch: pytest.MonkeyPatch,
    *,
    variable: str,
    value: str,
    what: str,
    state: State,
) -> None:
    """What is set in the environment is seen, and advice comes with it."""
    monkeypatch.setenv(variable, value)
    assert find(what).state is state
    assert "pw1" not in repr(uk.doctor())


def test_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A session folder below a file can never be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "file" / "state"))
    assert find("Sessions").state is State.WARNING


def test_findings_are_text_in_html() -> None:
    """A path or a name with tags in it is shown, not run."""
    finding = Finding(what="<b>", state=State.WARNING, value="<script>", advice="<i>")
    diagnosis = Diagnosis((finding,))
    assert "<script>" not in diagnosis._repr_html_()
    assert diagnosis.warnings == (finding,)


def test_nested_loops_in_a_script() -> None:
    """Without a kernel the plain package is used, and it works."""
    code = """
import asyncio, upload_kit as uk
asyncio.set_event_loop(asyncio.new_event_loop())
async def inner(): return uk.allow_nested()
async def outer(): return asyncio.run(inner())
loop = asyncio.get_event_loop()
print(uk.allow_nested(), loop.run_until_complete(outer()))
"""
    assert run(code) == "nest-asyncio nest-asyncio\n"


def test_the_uploads_own_thread_is_never_patched() -> None:
    """Patching from there is refused."""
    code = """
import upload_kit as uk
from upload_kit.bridge import bridge
async def there(): uk.allow_nested()
try:
    bridge.run(there())
except uk.ConfigurationError as error:
    print("refused")
"""
    assert run(code) == "refused\n"


def test_uvloop_is_refused() -> None:
    """A loop that cannot be patched is told, with what to do."""
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    code = """
import uvloop, upload_kit as uk
async def cell():
    try:
        uk.allow_nested()
    except uk.ConfigurationError as error:
        print("Await in the cell" in str(error))
uvloop.run(cell())
"""
    assert run(code) == "True\n"
