"""What the campaigns found between our client and our server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from upload_kit.bench.faults import Direction, Fault, FaultKind, FaultPlan
from upload_kit.bench.link import ShapedLink
from upload_kit.config import RetryPolicy
from upload_kit.errors import UploadKitError
from upload_kit.server.app import running_server
from upload_kit.server.config import Durability, ServerConfig
from upload_kit.units import KIB
from upload_kit.uploaders.chunked import ChunkedUploader

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 12
QUICK = RetryPolicy(attempts=3, base_delay=0.0, max_delay=0.0)


@pytest.mark.parametrize("chunk_size", [4 * KIB, KIB], ids=["one-request", "chunks"])
async def test_bit_that_turns_over_in_an_answer(
    tmp_path: Path, chunk_size: int
) -> None:
    """Wherever it is, the upload is right, or ends with an error of ours."""
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)

    turns = asyncio.Semaphore(6)

    async def ends_well(place: int) -> bool:
        async with turns:
            return await _ends_well(place)

    async def _ends_well(place: int) -> bool:
        fault = Fault(kind=FaultKind.CORRUPT, direction=Direction.DOWN, after=place)
        plan = FaultPlan(script=((), (fault,)))
        async with ShapedLink("127.0.0.1", server.port, faults=plan) as link:
            uploader = ChunkedUploader(
                f"http://127.0.0.1:{link.port}/",
                chunk_size=chunk_size,
                retry=QUICK,
                response_timeout=2.0,
                history=False,
            )
            try:
                result = await uploader.upload_file(CONTENT, name="a.bin")
            except UploadKitError:
                return False
        return result.size == len(CONTENT)

    places = range(0, 2400, 80)
    async with running_server(config) as server:
        well = await asyncio.gather(*(ends_well(place) for place in places))
    assert 0 < sum(well) < len(places)
