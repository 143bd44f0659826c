"""A real JupyterLab in a real Chromium, and the few things a person does there."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

from playwright.sync_api import TimeoutError as PatienceError
from playwright.sync_api import sync_playwright

from tests.notebooks.kernel import kernel_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Page

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN: Final = "tok"
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_PATIENCE: Final = 40.0
# Cells are drawn anew now and then, so that the whole page is watched for the prompt.
_WATCH_PROMPT: Final = """index => {
  const prompt = () => document.querySelectorAll('.jp-Notebook .jp-CodeCell')[index]
    ?.querySelector('.jp-InputPrompt')?.innerText
  const before = prompt()
  const look = () => {
    const now = prompt()
    if (now !== before && /[*0-9]/.test(now)) {
      window.promptChanged = true
      observer.disconnect()
    }
  }
  window.promptChanged = false
  const observer = new MutationObserver(look)
  observer.observe(document.body, {childList: true, characterData: true, subtree: true})
}"""


class Lab:
    """
    A JupyterLab server over a folder of notebooks.

    Args:
        folder: For notebooks, settings and everything else.

        environment: Further variables, which kernels inherit.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir(parents=True)
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        # Else a notice covers the page.
        (settings / "notification.jupyterlab-settings").write_text(
            json.dumps({"fetchNews": "false", "checkForUpdates": False})
        )
        self._settings = settings
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "lab.log").open("w")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--allow-root",
                "--no-browser",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={TOKEN}",
                f"--ServerApp.root_dir={self.notebooks}",
            ],
            env=kernel_environment(
                {
                    "JUPYTER_CONFIG_DIR": str(folder / "config"),
                    "JUPYTER_DATA_DIR": str(folder / "data"),
                    "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
                    "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                    "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
                    **environment,
                }
            ),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.ask("GET", "status")
                return
            assert self._process.poll() is None, "JupyterLab ended"
            time.sleep(0.1)
        raise TimeoutError("JupyterLab did not come up.")

    def use_theme(self, name: str) -> None:
        """Choose the theme of pages that are opened from now on."""
        (self._settings / "themes.jupyterlab-settings").write_text(
            json.dumps({"theme": name})
        )

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask the server's REST interface."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def write(self, name: str, cells: Sequence[str]) -> None:
        """Write a notebook of code cells."""
        notebook = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            "cells": [
                {
                    "id": f"cell-{index}",
                    "cell_type": "code",
                    "source": cell,
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                }
                for index, cell in enumerate(cells)
            ],
        }
        (self.notebooks / name).write_text(json.dumps(notebook))

    def close(self) -> None:
        """End the server and its kernels."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextlib.contextmanager
def open_browser(profile: Path, *, scale: float = 1) -> Iterator[BrowserContext]:
    """Start Chromium with an empty profile; `scale` pixels are one of the page's."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1280, "height": 900},
            device_scale_factor=scale,
            args=list(_FLAGS),
        )
        context.set_default_timeout(1000 * _PATIENCE)
        try:
            yield context
        finally:
            context.close()


class Notebook:
    """
    One notebook in the browser, with a kernel of its own.

    Args:
        lab: Where it is.

        page: The tab.

        name: Its file.
    """

    def __init__(self, lab: Lab, page: Page, name: str) -> None:
        self.lab = lab
        self.page = page
        self.name = name

    def open(self, *, fresh: bool = True) -> None:
        """Open it; with a fresh kernel unless told otherwise."""
        # An old notebook's dialogs would block the clicks.
        self.page.goto("about:blank")
        if fresh:
            for session in self.lab.ask("GET", "sessions"):
                self.lab.ask("DELETE", f"sessions/{session['id']}")
        # Started before the page is there: else the first key press may get lost.
        self.lab.ask(
            "POST",
            "sessions",
            {
                "path": self.name,
                "name": self.name,
                "type": "notebook",
                "kernel": {"name": "python3"},
            },
        )
        self.page.goto(f"{self.lab.url}/lab/tree/{self.name}?token={TOKEN}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """
        Wait until the kernel has had nothing to do for a moment.

        On a busy machine the page may not find the kernel that runs, and ask for one:
        it gets what it suggests. A cell that ran before that is settled would be lost.
        """
        asked = self.page.locator(".jp-Dialog .jp-mod-accept")
        idle = self.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        deadline = time.monotonic() + _PATIENCE
        settled = 0
        while settled < 5:
            assert time.monotonic() < deadline, "The kernel did not come to rest."
            self.page.wait_for_timeout(200)
            settled = settled + 1 if idle.count() and not asked.count() else 0
            if asked.count():
                asked.click()

    def restart(self) -> None:
        """
        Restart the kernel by the button, and say yes.

        By REST, behind the page's back, it may wait for the new kernel for ever.
        """
        self.page.locator('[data-command="notebook:restart-kernel"]').first.click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.wait_until_idle()

    def run(self, index: int) -> None:
        """Run a cell; it need not be done afterwards."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
        # Watched, not compared afterwards: a new kernel counts from 1 again.
        self.page.evaluate(_WATCH_PROMPT, index)
        for _ in range(5):
            cell.locator(".jp-InputArea-editor").click()
            if not self.page.evaluate("window.promptChanged"):
                self.page.keyboard.press("Control+Enter")
            with contextlib.suppress(PatienceError):
                self.page.wait_for_function("window.promptChanged", timeout=5000)
                return
        raise AssertionError(f"Cell {index} did not run.")

    def output(self, index: int) -> Any:
        """Return the locator of a cell's output."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
        return cell.locator(".jp-Cell-outputWrapper")

    def save(self) -> Any:
        """Save the notebook, and return what is on the disk then."""
        path = self.lab.notebooks / self.name
        before = path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if path.stat().st_mtime_ns != before:
                # It is not written in one go.
                with contextlib.suppress(json.JSONDecodeError):
                    return json.loads(path.read_text())
            time.sleep(0.05)
        raise AssertionError("The notebook was not saved.")
