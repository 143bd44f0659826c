"""What the guide tells people to add to the server works when it is added."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from tests.unit.test_docs_snippets import ROOT, snippets

if TYPE_CHECKING:
    from pathlib import Path

GUIDE: Final = ROOT / "docs" / "extending.md"
_CLIENT: Final = """
import asyncio, hashlib, sys
import aiohttp
from upload_kit.config import Secret
from upload_kit.server import ServerConfig, running_server

async def main():
    tokens = (Secret("me:open-sesame"),)
    config = ServerConfig(directory="store", port=0, tokens=tokens)
    known = {"Authorization": "Bearer open-sesame"}
    wrong = {**known, "Content-Digest": "sha-256=:" + 43 * "A" + "=:"}
    async with running_server(config) as server, aiohttp.ClientSession() as client:
        for headers in (known, {}, wrong):
            async with client.put(
                server.url + "plain/a.txt", data=b"hello", headers=headers
            ) as answer:
                print(answer.status, answer.content_type)

asyncio.run(main())
"""


def patched(text: str, patch: str) -> str:
    """Return a text with a patch of one place applied to it."""
    lines = patch.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    assert text.count(before) == 1, f"docs/extending.md is behind: {before}"
    return text.replace(before, after)


def test_protocol_of_the_guide_is_served(tmp_path: Path) -> None:
    """It stores what comes, wants a token, and compares a digest."""
    package = tmp_path / "upload_kit"
    shutil.copytree(ROOT / "upload_kit", package)
    (code,) = (s.code for s in snippets(GUIDE, "python") if s.title == "plain.py")
    (package / "server" / "plain.py").write_text(code)
    app = package / "server" / "app.py"
    text = app.read_text()
    for snippet in snippets(GUIDE, "diff"):
        text = patched(text, snippet.code)
    app.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "201 application/json",
        "401 application/problem+json",
        "422 application/problem+json",
    ], done.stderr
    (stored,) = (tmp_path / "store" / "files").rglob("a.txt")
    assert stored.read_bytes() == b"hello"
