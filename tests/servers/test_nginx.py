"""The nginx of the tests takes, gives back and removes files as WebDAV has it."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.servers.nginx import NginxServer
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[NginxServer]:
    with NginxServer(tmp_path / "nginx") as server:
        yield server


async def test_put_get_and_delete(nginx: NginxServer) -> None:
    """A body beyond every buffer arrives whole, in folders that it makes."""
    data = random.Random(1).randbytes(3 * MIB + 1)
    async with aiohttp.ClientSession(nginx.url) as client:
        async with client.put("a/b/big.bin", data=io.BytesIO(data)) as answer:
            assert answer.status == 201
        assert (nginx.root / "a" / "b" / "big.bin").read_bytes() == data
        async with client.get("a/b/big.bin") as answer:
            assert await answer.read() == data
        async with client.delete("a/b/big.bin") as answer:
            assert answer.status == 204
    assert not (nginx.root / "a" / "b" / "big.bin").exists()


def test_two_run_side_by_side(nginx: NginxServer, tmp_path: Path) -> None:
    """Each has its own port and folder, and further directives where asked for."""
    with NginxServer(tmp_path / "second", server="error_page 404 /no;") as second:
        assert second.port != nginx.port
        assert second.root != nginx.root
