"""What breaks off by tus is kept, and whoever goes on takes over."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.tus_api import (
    TusApi,
    checksum,
    held_by_another_process,
    open_patch,
    path_of,
    published,
    tus_server,
    until_counted,
    write_behind_its_back,
)
from tests.servers.upload import (
    RawConnection,
    ServeProcess,
    open_api,
)

if TYPE_CHECKING:
    from pathlib import Path

DATA: Final = os.urandom(600_000)
SIZE: Final = len(DATA)


@pytest.mark.parametrize("size", [1, 1000, 70_000, 500_000])
async def test_what_came_before_a_break_is_kept(
    tus: TusApi, tmp_path: Path, size: int
) -> None:
    """Every byte that came before the connection ended counts."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, path_of(url), 0, SIZE)
        await raw.send(DATA[:size])
    await until_counted(tus, url, size)
    assert await tus.offset(url) == size
    assert (await tus.patch(url, size, DATA[size:])).status == 204
    assert published(tmp_path) == [DATA]


async def test_what_was_to_be_checked_is_not_kept_when_it_breaks_off(
    tus: TusApi, tmp_path: Path
) -> None:
    """With a checksum, bytes count together or not at all."""
    url = await tus.begun(SIZE)
    await tus.patch(url, 0, DATA[:1000])
    async with RawConnection(tus.url) as raw:
        field = f"Upload-Checksum: {checksum('sha1', DATA[1000:])}"
        await open_patch(raw, path_of(url), 1000, SIZE - 1000, field)
        await raw.send(DATA[1000:500_000])
    assert await tus.offset(url) == 1000
    assert (await tus.patch(url, 1000, DATA[1000:])).status == 204
    assert published(tmp_path) == [DATA]


async def test_what_comes_slowly_counts_before_its_end(tus: TusApi) -> None:
    """Bytes of an open request count soon after they came."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, path_of(url), 0, SIZE)
        await raw.send(DATA[:10])
        await until_counted(tus, url, 10)
        await raw.send(DATA[10:20])
        await until_counted(tus, url, 20)


async def test_what_comes_too_slowly_is_kept(tmp_path: Path) -> None:
    """A sender that fell silent is sent away with 408, and its bytes are kept."""
    async with tus_server(tmp_path / "s", idle_timeout=0.4) as tus:
        url = await tus.begun(SIZE)
        async with RawConnection(tus.url) as raw:
            await open_patch(raw, path_of(url), 0, SIZE)
            await raw.send(DATA[:1000])
            assert (await raw.reply()).status == 408
        assert await tus.offset(url) == 1000


async def test_a_question_ends_an_open_request(tus: TusApi, tmp_path: Path) -> None:
    """HEAD takes over from a PATCH that is open: it keeps what it has, and gets 409."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, path_of(url), 0, SIZE)
        await raw.send(DATA[:300_000])
        await until_counted(tus, url, 300_000)
        await raw.send(DATA[300_000:300_005])
        offset = await tus.offset(url)
        assert 300_000 <= offset <= 300_005
        reply = await raw.reply()
        assert (reply.status, reply.problem) == (409, "superseded")
    assert (await tus.patch(url, offset, DATA[offset:])).status == 204
    assert published(tmp_path) == [DATA]


async def test_a_newer_request_ends_an_open_one(tus: TusApi, tmp_path: Path) -> None:
    """A PATCH that knows the offset takes over by itself."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, path_of(url), 0, SIZE)
        await raw.send(DATA[:300_000])
        await until_counted(tus, url, 300_000)
        assert (await tus.patch(url, 300_000, DATA[300_000:])).status == 204
        assert (await raw.reply()).status == 409
    assert published(tmp_path) == [DATA]


async def test_many_at_once_do_no_harm(tus: TusApi, tmp_path: Path) -> None:
    """Of requests for the same bytes each is taken, ended or late; none doubles."""
    url = await tus.begun(SIZE)
    replies = await asyncio.gather(
        *(tus.patch(url, 0, DATA[:300_000]) for _ in range(8)),
        *(tus.head(url) for _ in range(4)),
    )
    assert {reply.status for reply in replies} <= {200, 204, 409}
    offset = await tus.offset(url)
    assert (await tus.patch(url, offset, DATA[offset:])).status == 204
    assert published(tmp_path) == [DATA]


async def test_whoever_does_not_let_go_is_waited_for_in_vain(tmp_path: Path) -> None:
    """423 for an upload that somebody holds for too long."""
    async with tus_server(tmp_path / "s", busy_timeout=0.2) as tus:
        url = await tus.begun(5)
        async with held_by_another_process(tmp_path / "s", url):
            for call in (tus.head(url), tus.patch(url, 0, b"hello"), tus.delete(url)):
                reply = await call
                assert reply.status == 423
                assert reply.headers["Retry-After"] == "1"
        assert await tus.offset(url) == 0


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_what_was_acknowledged_survives_a_kill(
    tmp_path: Path, durability: str
) -> None:
    """After kill -9 in the middle of a PATCH, no byte that counted is missing."""
    async with ServeProcess(tmp_path / "s", durability=durability) as server:
        async with open_api(server.url) as api, RawConnection(server.url) as raw:
            tus = TusApi(api)
            url = await tus.begun(SIZE)
            assert (await tus.patch(url, 0, DATA[:100_000])).status == 204
            await open_patch(raw, path_of(url), 100_000, SIZE - 100_000)
            await raw.send(DATA[100_000:400_000])
            await until_counted(tus, url, 400_000)
            await raw.send(DATA[400_000:450_000])
            await server.kill()
        await server.start()
        async with open_api(server.url) as api:
            tus = TusApi(api)
            offset = await tus.offset(url)
            assert 400_000 <= offset <= 450_000
            assert (await tus.patch(url, offset, DATA[offset:])).status == 204
    assert published(tmp_path) == [DATA]


async def test_a_server_that_stops_keeps_what_came(tmp_path: Path) -> None:
    """Asked to end, it ends open requests with 503 and keeps every byte of them."""
    async with ServeProcess(tmp_path / "s") as server:
        async with open_api(server.url) as api, RawConnection(server.url) as raw:
            tus = TusApi(api)
            url = await tus.begun(SIZE)
            await open_patch(raw, path_of(url), 0, SIZE)
            await raw.send(DATA[:400_000])
            await until_counted(tus, url, 400_000)
            code, log = await server.stop()
            assert code == 0
            assert "Traceback" not in log
            assert (await raw.reply()).status == 503
        await server.start()
        async with open_api(server.url) as api:
            tus = TusApi(api)
            assert await tus.offset(url) == 400_000
            assert (await tus.patch(url, 400_000, DATA[400_000:])).status == 204
    assert published(tmp_path) == [DATA]


async def test_a_kill_before_publishing_loses_nothing(
    tus: TusApi, tmp_path: Path
) -> None:
    """An upload whose last byte counts is published by whoever asks for it next."""
    url = await tus.begun(5)
    await asyncio.to_thread(write_behind_its_back, tmp_path / "s", url)
    assert published(tmp_path) == []
    assert await tus.offset(url) == 5
    assert published(tmp_path) == [b"hello"]


async def test_several_processes_serve_one_upload(tmp_path: Path) -> None:
    """Whichever worker a request comes to, it takes over from the others."""
    async with ServeProcess(tmp_path / "s", workers=2) as server:
        async with open_api(server.url) as api:
            url = await TusApi(api).begun(SIZE)
        for end in (200_000, 400_000, SIZE):
            async with open_api(server.url) as api, RawConnection(server.url) as raw:
                tus = TusApi(api)
                offset = await tus.offset(url)
                await open_patch(raw, path_of(url), offset, SIZE - offset)
                await raw.send(DATA[offset:end])
                await until_counted(tus, url, end)
        async with open_api(server.url) as api:
            await TusApi(api).until_complete(url)
    assert published(tmp_path) == [DATA]
