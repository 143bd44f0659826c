"""Whatever a client of tus does, in whatever order, no byte is lost."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.tus_api import (
    TusApi,
    checksum,
    open_patch,
    path_of,
    published,
    tus_server,
    until_counted,
)
from tests.servers.upload import (
    RawConnection,
)

if TYPE_CHECKING:
    from pathlib import Path

DATA: Final = os.urandom(600_000)


_STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["patch", "checked", "wrong", "late", "broken", "twice"]),
        st.integers(0, 40_000),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(steps=_STEPS, deferred=st.booleans())
async def test_bytes_out_are_bytes_in(
    tmp_path: Path,
    steps: list[tuple[str, int]],
    deferred: bool,  # noqa: FBT001 (a parameter of the property)
) -> None:
    """Whatever happens on the way, the file is what its sender has."""
    size = 100_000
    data = DATA[:size]
    folder = tmp_path / os.urandom(8).hex()
    async with tus_server(folder / "s") as tus:
        url = await tus.begun(None if deferred else size)
        offset = 0
        for kind, wanted in steps:
            piece = data[offset : offset + wanted]
            offset = await _step(tus, url, kind, offset=offset, piece=piece)
            assert await tus.offset(url) == offset
        length = str(size) if deferred else None
        reply = await tus.patch(url, offset, data[offset:], Upload_Length=length)
        assert reply.status == 204
    assert published(folder) == [data]


async def _step(tus: TusApi, url: str, kind: str, *, offset: int, piece: bytes) -> int:
    """Do something to an upload; return where it ends then."""
    end = offset + len(piece)
    match kind:
        case "patch":
            assert (await tus.patch(url, offset, piece)).status == 204
        case "checked":
            field = checksum("crc32", piece)
            reply = await tus.patch(url, offset, piece, Upload_Checksum=field)
            assert reply.status == 204
        case "wrong":
            field = checksum("sha1", piece + b"x")
            reply = await tus.patch(url, offset, piece, Upload_Checksum=field)
            assert reply.status == 460
            return offset
        case "late":
            assert (await tus.patch(url, offset + 1, piece)).status == 409
            return offset
        case "broken":
            async with RawConnection(tus.url) as raw:
                await open_patch(raw, path_of(url), offset, 100_000 - offset)
                await raw.send(piece)
            await until_counted(tus, url, end)
        case "twice":
            replies = await asyncio.gather(
                tus.patch(url, offset, piece), tus.patch(url, offset, piece)
            )
            assert {reply.status for reply in replies} <= {204, 409}
            return await tus.offset(url)
    return end
