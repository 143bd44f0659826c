"""No request that tells nothing new: each costs a round trip on a long link."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from upload_kit.server import Durability, ServerConfig, running_server
from upload_kit.units import MIB
from upload_kit.uploaders.parallel import ParallelUploader

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_server_that_was_found_is_asked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One question, one beginning, the chunks, one end; one connection a chunk."""
    caplog.set_level(logging.DEBUG, "upload_kit.wire")
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)
    async with running_server(config) as server:
        uploader = ParallelUploader(
            server.url, chunk_size=MIB, max_parallel=2, history=False
        )
        result = await uploader.upload_file(bytes(2 * MIB), name="a.bin")
    assert result.retries == 0
    asked = [record.getMessage() for record in caplog.records]
    methods = [line.split()[0] for line in asked if " -> " in line]
    assert methods == ["OPTIONS", "POST", "PUT", "PUT", "POST"]
