"""
Take the pictures of the panel, in a real JupyterLab in a real Chromium.

    python -m docs.panel     half a minute; run it from the folder above

Writes docs/assets/panel.png and panel-dark.png. Needs what the browser tests need.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from tests.notebooks.lab import Lab, Notebook, open_browser
from upload_kit.api.serving import serve
from upload_kit.units import MB

if TYPE_CHECKING:
    from playwright.sync_api import Page

ASSETS: Final = Path(__file__).parent / "assets"
THEMES: Final = {"panel.png": "JupyterLab Light", "panel-dark.png": "JupyterLab Dark"}
SIZE: Final = 120 * MB
# Colours in a picture: with more it grows, with fewer the letters fray.
COLOURS: Final = 96


def main() -> None:
    """Take each picture of an upload under way."""
    with tempfile.TemporaryDirectory(prefix="upload_kit-panel-") as made:
        folder = Path(made)
        (folder / "checkpoint.safetensors").write_bytes(os.urandom(SIZE))
        lab = Lab(folder / "lab", {"UPLOAD_KIT_SESSION_DIR": str(folder / "state")})
        try:
            with (
                serve(folder / "store") as server,
                open_browser(folder / "profile", scale=2) as browser,
            ):
                for name, theme in THEMES.items():
                    lab.use_theme(theme)
                    lab.write(f"{name}.ipynb", _cells(folder, server.url))
                    page = browser.pages[0]
                    _run(Notebook(lab, page, f"{name}.ipynb"))
                    _shoot(page, ASSETS / name)
        finally:
            lab.close()


def _cells(folder: Path, url: str) -> list[str]:
    return [
        f"import os, upload_kit as uk; os.chdir({str(folder)!r}); url = {url!r}",
        'job = uk.start("checkpoint.safetensors", url, limit="12MB/s")',
        "job.cancel()",
    ]


def _run(notebook: Notebook) -> None:
    """Upload a good half, and leave the cell, so that it is not framed."""
    notebook.open()
    notebook.run(0)
    notebook.run(1)
    cell = notebook.page.locator(".jp-Notebook .jp-CodeCell")
    cell.nth(2).locator(".jp-InputArea-editor").click()
    notebook.page.wait_for_function(
        "parseInt(document.querySelector('.uk-percent')?.innerText) >= 60"
    )


def _shoot(page: Page, path: Path) -> None:
    shown = page.locator(".jp-Notebook .jp-CodeCell").nth(1).screenshot()
    with Image.open(io.BytesIO(shown)) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


if __name__ == "__main__":
    main()
