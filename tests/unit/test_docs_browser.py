"""The example of a web page, as a person uses it in Chromium."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.notebooks.lab import CHROMIUM, open_browser
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"
    ),
]

EXAMPLES: Final = Path(__file__).parent.parent.parent / "docs" / "examples"
_SIZE: Final = 24_000_000
_CHUNK: Final = 5 * 1024 * 1024
_CONFIRMED: Final = "Number.parseInt(document.querySelector('output').textContent)"
# Keeps whatever the page says from now on.
_LISTEN: Final = """
    const said = document.querySelector("output");
    window.told = [];
    new MutationObserver(() => told.push(said.textContent))
        .observe(said, { childList: true });
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@contextmanager
def page_server() -> Iterator[str]:
    """Serve the examples from an origin of their own, as their page says."""
    handler = partial(Quiet, directory=str(EXAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def begin(page: Page, server: ServerProcess, path: Path) -> None:
    """Fill the form in, and click."""
    page.fill("[name=server]", server.url)
    page.fill("[name=token]", "open-sesame")
    page.set_input_files("[name=file]", path)
    page.click("button")


def test_page_goes_on_after_a_reload(tmp_path: Path) -> None:
    """Reloaded in the middle, the same file again begins with what had arrived."""
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(_SIZE))
    tokens = tmp_path / "tokens"
    tokens.write_text("me:open-sesame\n")
    options = ("--token-file", str(tokens), "--rate-limit", "5MB/s")
    with (
        page_server() as origin,
        ServerProcess(tmp_path / "store", *options, "--allow-origin", origin) as server,
        open_browser(tmp_path / "profile") as browser,
    ):
        page = browser.pages[0]
        page.goto(f"{origin}/browser.html")
        begin(page, server, path)
        page.wait_for_function(f"{_CONFIRMED} >= {_CHUNK}")
        page.reload()
        page.evaluate(_LISTEN)
        begin(page, server, path)
        page.get_by_text("Stored as").wait_for()
        told = page.evaluate("told")
        assert _CHUNK <= int(told[0].split()[0]) < _SIZE, told
        assert page.evaluate("localStorage.length") == 0
    (stored,) = (tmp_path / "store" / "files").rglob("big.bin")
    assert stored.read_bytes() == path.read_bytes()
