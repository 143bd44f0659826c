"""A bad link to any server, as a command."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from upload_kit.bench.command import bench
from upload_kit.config import RetryPolicy
from upload_kit.errors import ConfigurationError
from upload_kit.server.app import running_server
from upload_kit.server.config import ServerConfig
from upload_kit.uploaders.parallel import ParallelUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def bad_link(
    before: str, *words: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command; end it as a user would if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "upload_kit.cli", "bench", "--faults"),
        *("--before", before, "--json", *words),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def test_any_server_can_be_had_over_a_bad_link(tmp_path: Path) -> None:
    """Nearly every connection breaks, and the upload comes through all the same."""
    config = ServerConfig(directory=tmp_path / "store", port=0)
    async with running_server(config) as server:
        before = urlsplit(server.url).netloc
        words = ["--share", "0.9", "--kind", "reset", "--seed", "1"]
        async with bad_link(before, "--link", "20MB/s in all", *words) as process:
            assert process.stdout is not None
            address = json.loads(await process.stdout.readline())["address"]
            uploader = ParallelUploader(
                f"http://{address}/",
                chunk_size=100_000,
                history=False,
                retry=RetryPolicy(base_delay=0.0, attempts=30),
            )
            async with uploader:
                result = await uploader.upload_file(bytes(3_000_000), name="a")
            process.terminate()
            stats = json.loads((await process.stdout.read()).splitlines()[-1])
            assert await process.wait() == 0
    assert result.size == 3_000_000
    assert stats["faults"] > 0
    assert stats["bytes_up"] > 3_000_000


async def test_link_ends_when_its_time_is_over() -> None:
    """Nobody has to end it."""
    async with bad_link("127.0.0.1:1", "--minutes", "0.0001") as process:
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
    assert json.loads(output.splitlines()[-1])["connections"] == 0
    assert process.returncode == 0


@pytest.mark.parametrize(
    "before", ["127.0.0.1", "127.0.0.1:", ":80", "a:b", "127.0.0.1:70000"]
)
def test_what_is_no_address_is_refused(before: str) -> None:
    """The hint says how to write one."""
    done = CliRunner().invoke(bench, ["--faults", "--before", before])
    assert isinstance(done.exception, ConfigurationError)
    assert done.exception.hint is not None
    assert "127.0.0.1:8000" in done.exception.hint


def test_link_without_faults_is_refused() -> None:
    """Whoever forgets a word is told which."""
    done = CliRunner().invoke(bench, ["--before", "127.0.0.1:80"])
    assert done.exit_code == 2
    assert "--faults" in done.output
