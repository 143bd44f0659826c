"""A real JupyterLab in a real Chromium, and the few things a person does there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

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
_PATIENCE: Final = 30.0


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
            env={
                **os.environ,
                "JUPYTER_CONFIG_DIR": str(folder / "config"),
                "JUPYTER_DATA_DIR": str(folder / "data"),
                "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
                "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
                **environment,
            },
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
def open_browser(profile: Path) -> Iterator[BrowserContext]:
    """Start Chromium with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1280, "height": 900},
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
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_selector(
            '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
        )

    def run(self, index: int) -> None:
        """Run a cell; it need not be done afterwards."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
        before = cell.locator(".jp-InputPrompt").inner_text()
        for _ in range(5):
            cell.locator(".jp-InputArea-editor").click()
            self.page.keyboard.press("Control+Enter")
            with contextlib.suppress(Exception):
                self.page.wait_for_function(
                    "([index, before]) => document.querySelectorAll("
                    "'.jp-Notebook .jp-CodeCell')[index]"
                    ".querySelector('.jp-InputPrompt').innerText !== before",
                    arg=[index, before],
                    timeout=3000,
                )
                return
        raise AssertionError(f"Cell {index} did not run.")

    def output(self, index: int) -> Any:
        """Return the locator of a cell's output."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
        return cell.locator(".jp-Cell-outputWrapper")

    def save(self) -> None:
        """Save the notebook, and wait until it is on the disk."""
        path = self.lab.notebooks / self.name
        before = path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        deadline = time.monotonic() + _PATIENCE
        while path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "The notebook was not saved."
            time.sleep(0.05)
