"""The panel as a person sees it: JupyterLab in Chromium, clicked and watched."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.notebooks.lab import CHROMIUM, Lab, Notebook, open_browser
from upload_kit.api.serving import EmbeddedServer, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext, Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "big.bin").write_bytes(os.urandom(10_000_000))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    with serve(folder / "store") as server:
        yield server


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder / "lab", {"UPLOAD_KIT_SESSION_DIR": str(folder / "state")})
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def browser(lab: Lab, folder: Path) -> Iterator[BrowserContext]:
    with open_browser(folder / "profile") as context:
        yield context


@pytest.fixture
def page(browser: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Page]:
    page = browser.pages[0]
    yield page
    if kept := request.config.getoption("--screenshots"):
        page.screenshot(path=Path(kept, f"end-of-{request.node.name}.png"))


def setup_cell(folder: Path, server: EmbeddedServer) -> str:
    return (
        "import time, upload_kit as uk\n"
        f"big, url = {str(folder / 'big.bin')!r}, {server.url!r}"
    )


def percent(output: Any) -> int:
    """Return the share that a panel shows."""
    text = output.locator(".uk-percent").first.inner_text()
    return int(re.sub(r"\D", "", text) or 0)


def wait_for_percent(page: Page, index: int, least: int) -> None:
    """Wait until the panel of a cell shows at least so much."""
    page.wait_for_function(
        "([index, least]) => parseInt(document.querySelectorAll("
        "'.jp-Notebook .jp-CodeCell')[index]"
        ".querySelector('.uk-percent')?.innerText) >= least",
        arg=[index, least],
    )


def wait_until_still(page: Page, output: Any) -> int:
    """Wait until a panel's share stands still: what was on the wire may yet arrive."""
    for _ in range(20):
        before = percent(output)
        page.wait_for_timeout(700)
        if percent(output) == before:
            return before
    raise AssertionError(f"It went on to {percent(output)} %.")


@pytest.fixture
def shoot(page: Page, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keep a picture of the page where somebody wants to look at it."""
    kept: str | None = request.config.getoption("--screenshots")

    def take(name: str) -> None:
        if kept:
            page.screenshot(path=Path(kept, f"{name}.png"))

    return take


def test_watch_pause_resume_and_cancel(
    lab: Lab,
    page: Page,
    folder: Path,
    server: EmbeddedServer,
    shoot: Callable[[str], None],
) -> None:
    """The bar moves, also beside another cell, and each button does what it says."""
    lab.write(
        "panel.ipynb",
        [
            setup_cell(folder, server),
            "job = uk.start(big, url, limit='500kB/s', chunk_size='50kB')\njob",
            "time.sleep(1); print('slept')",
        ],
    )
    notebook = Notebook(lab, page, "panel.ipynb")
    notebook.open()
    notebook.run(0)
    notebook.run(1)
    panel = notebook.output(1)
    wait_for_percent(page, 1, 3)
    notebook.run(2)
    before = percent(panel)
    notebook.output(2).get_by_text("slept").wait_for()
    assert percent(panel) > before
    shoot("light-uploading")
    panel.get_by_role("button", name="Pause").click()
    panel.locator(".uk-state", has_text="paused").wait_for()
    held = wait_until_still(page, panel)
    shoot("light-paused")
    panel.get_by_role("button", name="Resume").click()
    panel.locator(".uk-state", has_text="uploading").wait_for()
    wait_for_percent(page, 1, held + 3)
    panel.get_by_role("button", name="Cancel").click()
    card = panel.locator(".upload-kit-card")
    card.wait_for()
    assert "cancelled" in card.inner_text()
    assert "upload_kit.resume(" in card.inner_text()
    assert panel.locator(".uk-live").count() == 0
    shoot("light-cancelled")


def test_interrupt_restart_and_resume(
    lab: Lab,
    page: Page,
    folder: Path,
    server: EmbeddedServer,
    shoot: Callable[[str], None],
) -> None:
    """The stop button ends the waiting; after a restart resume() shows a panel."""
    lab.use_theme("JupyterLab Dark")
    lab.write(
        "crash.ipynb",
        [
            setup_cell(folder, server),
            "uk.upload(big, url, limit='500kB/s', chunk_size='50kB')",
            "uk.resume(limit='1500kB/s')",
            "uk.sessions()[['name', 'status', 'percent', 'bytes_confirmed']]",
        ],
    )
    notebook = Notebook(lab, page, "crash.ipynb")
    notebook.open()
    notebook.run(0)
    notebook.run(1)
    waiting = notebook.output(1)
    waiting.get_by_text("This cell waits.").wait_for()
    wait_for_percent(page, 1, 3)
    shoot("dark-waiting")
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    waiting.get_by_text("Stopped waiting; the upload of big.bin goes on.").wait_for()
    after = percent(waiting)
    wait_for_percent(page, 1, after + 4)
    assert waiting.get_by_text("This cell waits.").count() == 0
    notebook.restart()
    notebook.run(0)
    notebook.run(3)
    notebook.output(3).get_by_text("big.bin").wait_for()
    notebook.run(2)
    resumed = notebook.output(2)
    # It starts at nothing until the server has said what it holds.
    wait_for_percent(page, 2, after + 1)
    shoot("dark-resumed")
    card = resumed.locator(".upload-kit-card")
    card.wait_for()
    assert "were there already" in card.inner_text()
    assert "SHA-256 verified" in card.inner_text()
    shoot("dark-complete")
    lab.use_theme("JupyterLab Light")


def test_a_saved_notebook_shows_the_card(
    lab: Lab,
    page: Page,
    folder: Path,
    server: EmbeddedServer,
    shoot: Callable[[str], None],
) -> None:
    """Reopened without its kernel, and as a stranger's copy, the card stands there."""
    lab.write(
        "saved.ipynb",
        [
            setup_cell(folder, server),
            "uk.upload(big, url)",
            "uk.start('/no/such/file.bin', url)",
            "uk.start_many([big, '/no/such/file.bin'], url)",
        ],
    )
    notebook = Notebook(lab, page, "saved.ipynb")
    notebook.open()
    notebook.run(0)
    for index in range(1, 4):
        notebook.run(index)
        notebook.output(index).locator(".upload-kit-card").wait_for()
    saved = notebook.save()
    assert "widget-view" not in json.dumps(saved)
    # A copy that nobody signed is not trusted: its HTML is sanitised.
    saved["cells"][1]["source"] += "\n# changed"
    (lab.notebooks / "copy.ipynb").write_text(json.dumps(saved))
    copy = Notebook(lab, page, "copy.ipynb")
    copy.open()
    for index, said in (
        (1, "SHA-256 verified"),
        (2, "There is no file /no/such/file.bin. Check the path."),
        (3, "1 of 2 files complete"),
    ):
        assert said in copy.output(index).inner_text()
        assert "Loading widget" not in copy.output(index).inner_text()
    shoot("light-untrusted-copy")
