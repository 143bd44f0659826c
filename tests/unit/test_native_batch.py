"""Small files go together to our own server, and each ends as if it went alone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from tests.servers.upload import files_below
from upload_kit.bench.faults import Fault as LinkFault
from upload_kit.bench.faults import FaultKind, FaultPlan
from upload_kit.bench.link import ShapedLink
from upload_kit.config import RetryPolicy
from upload_kit.models import Verification
from upload_kit.server import Durability, ServerConfig, running_server
from upload_kit.units import KIB
from upload_kit.uploaders.parallel import ParallelUploader

if TYPE_CHECKING:
    from pathlib import Path

    from upload_kit.models import UploadResult

_FILES: Final = {f"{number:02}.bin": os.urandom(100 * number) for number in range(40)}
_QUICK: Final = RetryPolicy(attempts=3, base_delay=0.01, max_delay=0.02)
_LIMITS: Final = {"files": 256, "bytes": 1 << 20}


def uploader(url: str, **options: Any) -> ParallelUploader:
    options = {"max_parallel": 16, "history": False, "retry": _QUICK, **options}
    return ParallelUploader(url, **options)


def check(server: KnobServer, results: list[UploadResult]) -> None:
    """Every file arrived, once, and was proved to be what was sent."""
    assert [result.name for result in results] == list(_FILES)
    assert {result.verified for result in results} == {Verification.SHA256}
    assert server.published == _FILES
    assert server.stored == len(_FILES)


@pytest.mark.usefixtures("nothing_left")
async def test_many_files_need_few_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that are ready at the same time share requests; all of them are stored."""
    caplog.set_level(logging.DEBUG, "upload_kit.wire")
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)
    async with running_server(config) as server:
        results = await uploader(server.url).upload_files(_FILES)
    assert all(result.success and not result.retries for result in results)
    asked = [record.getMessage() for record in caplog.records]
    posts = [line for line in asked if line.startswith("POST ")]
    assert any("/upload/batch" in line for line in posts)
    assert len(posts) < len(_FILES) / 2
    places = (tmp_path / "files").glob("*/[!.]*")
    assert {path.name: path.read_bytes() for path in places} == _FILES


async def test_name_type_and_metadata_go_along(tmp_path: Path) -> None:
    """What is said of a file is kept, in a batch as alone."""
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)
    async with running_server(config) as server, uploader(server.url) as uploads:
        sent = [
            uploads.start(b"x", name=f"größe {n}", metadata={"k": f"ü{n}"})
            for n in range(20)
        ]
        for transfer in sent:
            await transfer
    infos = [path.read_text() for path in files_below(tmp_path) if path.suffix]
    for number in range(20):
        assert sum(f'"größe {number}"' in text for text in infos) == 1
        assert sum(f'"ü{number}"' in text for text in infos) == 1


async def test_files_that_came_another_way_go_apart(tmp_path: Path) -> None:
    """What one batch came through is told of all of its files, so of no other."""
    ways = [("a" * 32,), ("a" * 32, "b" * 32), ()]
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)
    async with running_server(config) as server, uploader(server.url) as uploads:
        sent = [
            uploads.start(b"x", name=f"{number}-{len(way)}", via=way)
            for number in range(10)
            for way in ways
        ]
        for transfer in sent:
            await transfer
    infos = [path for path in files_below(tmp_path / "files") if path.suffix]
    for info in infos:
        told = json.loads(info.read_text())
        assert tuple(told["via"]) == ways[(int(told["name"][-1]) + 2) % 3]
    assert len(infos) == len(sent)


async def test_limits_of_the_server_hold() -> None:
    """No batch has more files, or more bytes, than the server takes."""
    async with KnobServer(batch={"files": 3, "bytes": 5000}) as server:
        check(server, await uploader(server.url).upload_files(_FILES))
        batches = server.requests(Step.BATCH)
    assert batches
    assert all(batch.received < 5000 + 3 * KIB for batch in batches)


async def test_server_without_batches() -> None:
    """A server that says nothing of batches gets every file by itself."""
    async with KnobServer() as server:
        check(server, await uploader(server.url).upload_files(_FILES))
        assert server.count(Step.ONCE) == len(_FILES)
        assert server.count(Step.BATCH) == 0


@pytest.mark.parametrize("limits", [{"files": 0}, {"bytes": 0}, {"files": -1}])
async def test_server_that_takes_none(limits: dict[str, int]) -> None:
    """A limit that no batch can keep means that there are no batches."""
    async with KnobServer(batch=_LIMITS | limits) as server:
        check(server, await uploader(server.url).upload_files(_FILES))
        assert server.count(Step.BATCH) == 0


async def test_waiting_for_others_is_no_stall() -> None:
    """A queue on a slow link costs time and no tries, however long it is."""
    async with KnobServer(batch={"files": 1, "bytes": 1 << 20}) as server:
        server.fault(Step.BATCH, Fault(rate=100e3, times=None))
        files = {f"{number}.bin": bytes(10_000) for number in range(40)}
        uploads = uploader(
            server.url, max_parallel=40, stall_timeout=1.0, response_timeout=1.0
        )
        results = await uploads.upload_files(files)
    assert {result.bytes_sent for result in results} == {10_000}
    assert {(result.success, result.retries) for result in results} == {(True, 0)}


@pytest.mark.parametrize("status", [404, 413])
async def test_refused_batches_come_to_an_end(status: int) -> None:
    """What never goes through is not tried with every file."""
    async with KnobServer(batch=_LIMITS) as server:
        server.fault(Step.BATCH, Fault(refuse=status, times=None))
        async with uploader(server.url) as uploads:
            for _ in range(3):
                server.published.clear()
                server.stored = 0
                check(server, await uploads.upload_files(_FILES))
            assert 1 < server.count(Step.BATCH) < 12


async def test_proxy_that_takes_less_than_the_server() -> None:
    """Bodies become as small as they have to be, and go in batches again."""
    async with KnobServer(batch=_LIMITS) as server:
        limit = 20_000
        server.fault(Step.BATCH, Fault(refuse=413, above=limit, times=None))
        files = {f"{number}.bin": bytes(1000) for number in range(400)}
        results = await uploader(server.url, max_parallel=100).upload_files(files)
        assert {(result.success, result.retries) for result in results} == {(True, 0)}
        batches = server.requests(Step.BATCH)
        assert 1 <= sum(batch.announced > limit for batch in batches) < 12
        assert server.count(Step.ONCE) < len(files) / 2


async def test_bit_of_the_list_that_turns_over(tmp_path: Path) -> None:
    """What is said of a file arrives as it was sent, or goes again."""
    metadata = {"notes": "n" * 2000}
    plan = FaultPlan(script=((LinkFault(kind=FaultKind.CORRUPT, after=1500),),))
    config = ServerConfig(directory=tmp_path, port=0, durability=Durability.PAGE_CACHE)
    async with (
        running_server(config) as server,
        ShapedLink("127.0.0.1", server.port, faults=plan) as link,
    ):
        uploads = uploader(f"http://127.0.0.1:{link.port}/")
        result = await uploads.upload_file(b"x", name="x", metadata=metadata)
        assert (result.success, link.stats.faults) == (True, 1)
    (info,) = (path for path in files_below(tmp_path / "files") if path.suffix)
    assert json.loads(info.read_text())["metadata"] == metadata


async def test_larger_files_go_alone() -> None:
    """A file above 64 KiB is sent by itself, streamed and watched."""
    async with KnobServer(batch=_LIMITS) as server:
        data = bytes(64 * KIB + 1)
        files = {f"{number}.bin": data for number in range(5)}
        results = await uploader(server.url).upload_files(files)
        assert all(result.success for result in results)
        assert server.count(Step.ONCE) == 5
        assert server.count(Step.BATCH) == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault(refuse=404, times=None),
        Fault(refuse=401, times=None),
        Fault(refuse=503, times=2),
        Fault(cut_after=10, times=2),
        Fault(act_and_cut=True, times=2),
        Fault(body=b"<html>", times=None),
        Fault(change={"files": []}, times=None),
        Fault(change={"files": [{"upload": None, "problem": {}}] * 2}, times=None),
    ],
    ids=[
        "unknown",
        "unauthorized",
        "busy",
        "cut",
        "answer lost",
        "html",
        "too few",
        "made up",
    ],
)
async def test_what_a_batch_did_not_store_goes_alone(fault: Fault) -> None:
    """Whatever befalls a batch of several costs its files a request, and not a try."""
    async with KnobServer(batch=_LIMITS) as server:
        server.fault(Step.BATCH, fault)
        results = await uploader(server.url).upload_files(_FILES)
        check(server, results)
        # Files that were the only ones of their batch may have been tried again.
        assert sum(result.retries == 0 for result in results) > len(_FILES) / 2
        assert server.count(Step.BATCH) >= 2


async def test_batch_that_was_stored_wrong() -> None:
    """Digests that are not ours are found out, and those files are tried again."""
    lie = {
        "session_id": "0" * 32,
        "chunk_size": 1,
        "location": "upload/status/x",
        "size": 1,
        "sha256": "0" * 64,
    }
    async with KnobServer(batch={"files": 1, "bytes": 1 << 20}) as server:
        outcomes = [{"upload": lie, "problem": None}]
        server.fault(Step.BATCH, Fault(change={"files": outcomes}, times=5))
        results = await uploader(server.url).upload_files(_FILES)
        check(server, results)
        assert sum(result.retries for result in results) == 5


async def test_server_that_is_busy_is_left_alone() -> None:
    """A lone file is not sent twice at once to a server that asks for time."""
    async with KnobServer(batch=_LIMITS) as server:
        server.fault(Step.BATCH, Fault(refuse=503, headers={"Retry-After": "0"}))
        result = await uploader(server.url).upload_file(b"x", name="x")
        assert (result.success, result.retries, result.bytes_sent) == (True, 1, 2)
        assert (server.count(Step.BATCH), server.count(Step.ONCE)) == (1, 1)


async def test_server_that_never_answers() -> None:
    """A batch without an answer ends with its files' own time, and they are retried."""
    async with KnobServer(batch=_LIMITS) as server:
        server.fault(Step.BATCH, Fault(act_and_stall=True, times=2))
        uploads = uploader(server.url, response_timeout=0.5)
        check(server, await uploads.upload_files(_FILES))


async def test_batch_that_stalls_holds_up_no_queue() -> None:
    """Those that wait behind it do not wait for a limit each."""
    async with KnobServer(batch={"files": 1, "bytes": 1 << 20}) as server:
        server.fault(Step.BATCH, Fault(stall_after=0, times=None))
        uploads = uploader(server.url, max_parallel=40, response_timeout=0.5)
        check(server, await uploads.upload_files(_FILES))
        assert server.count(Step.BATCH) <= 4


@pytest.mark.usefixtures("nothing_left")
async def test_one_that_is_cancelled_takes_no_other_along() -> None:
    """Others of the same batch arrive; nothing of the uploader runs on."""
    async with KnobServer(batch=_LIMITS) as server:
        gate = asyncio.Event()
        server.fault(Step.BATCH, Fault(gate=gate))
        async with uploader(server.url) as uploads:
            sent = [uploads.start(data, name=name) for name, data in _FILES.items()]
            await server.until(lambda: server.count(Step.BATCH) > 0)
            sent[0].cancel()
            await asyncio.wait({sent[0].task})
            gate.set()
            results = [await transfer for transfer in sent[1:]]
        assert all(result.success for result in results)
        assert set(_FILES) - {"00.bin"} <= set(server.published)


@pytest.mark.usefixtures("nothing_left")
async def test_all_are_cancelled() -> None:
    """Nothing waits for a batch that nobody wants any more."""
    async with KnobServer(batch=_LIMITS) as server:
        gate = asyncio.Event()
        server.fault(Step.BATCH, Fault(gate=gate, times=None))
        working = asyncio.create_task(uploader(server.url).upload_files(_FILES))
        await server.until(lambda: server.count(Step.BATCH) > 1)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        gate.set()


async def test_long_lists_are_divided(tmp_path: Path) -> None:
    """What is said of the files of a batch never outgrows what a server reads."""
    config = ServerConfig(directory=tmp_path, port=0, max_metadata_bytes=4096)
    async with (
        running_server(config) as server,
        uploader(server.url, max_parallel=200) as uploads,
    ):
        metadata = {"notes": "n" * 4000}
        sent = [
            uploads.start(b"x", name=str(number), metadata=metadata)
            for number in range(200)
        ]
        results = [await transfer for transfer in sent]
    assert all(result.success for result in results)
    # A list that was refused would have had its files sent again.
    assert {result.bytes_sent for result in results} == {1}
