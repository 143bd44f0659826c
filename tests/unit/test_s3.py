"""Uploads to S3: whole, proved, resumed and cleared up, on services of others."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from tests.servers.killed import forget_the_end
from tests.servers.s3_proxy import Fault, S3Proxy
from tests.shell import Shell
from upload_kit.bench.peers.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from upload_kit.config import ConnectionOptions, RetryPolicy, Secret
from upload_kit.destinations.registry import make_destination
from upload_kit.destinations.reply import Reply
from upload_kit.destinations.s3_xml import failure, read_xml
from upload_kit.engine.request import UploadRequest
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    IntegrityError,
    RemoteRejected,
    RemoteUnavailable,
    UploadCancelled,
)
from upload_kit.events import EventKind
from upload_kit.models import ChunkMetadata, UploadSpec, Verification
from upload_kit.planning import Plan, plan_chunks
from upload_kit.sources.file import FileSource
from upload_kit.units import GIB, KIB, MIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from hashlib import _Hash as Hash

    from upload_kit.transfer import Transfer

LAYERS: Final = [ChunkedUploader, ParallelUploader, ResumableUploader]
KINDS: Final = ["moto", "rclone", "weed"]
QUICK: Final = RetryPolicy(base_delay=0.01, max_delay=0.05)
PART: Final = 5 * MIB
_ROOT: Final = Path(__file__).parent.parent.parent
_DATA: Final = random.Random(1).randbytes(3 * PART + 1)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, S3Server]]:
    """Every kind that was asked for, started once."""
    started: dict[str, S3Server] = {}
    yield started
    for server in started.values():
        server.kill()


def _started(
    servers: dict[str, S3Server], kind: str, factory: pytest.TempPathFactory
) -> S3Server:
    if reason := S3Server.missing(kind):
        pytest.skip(reason)
    if kind not in servers:
        folder = factory.mktemp(kind) / "store"
        servers[kind] = S3Server(kind, folder).__enter__()
    return servers[kind]


@pytest.fixture(params=KINDS)
def server(
    *,
    request: pytest.FixtureRequest,
    servers: dict[str, S3Server],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> S3Server:
    """Each service in turn; the AWS tools' environment names it."""
    server = _started(servers, request.param, tmp_path_factory)
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "state"))
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
async def proxy(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[S3Proxy]:
    """Stands before the service from here on."""
    async with S3Proxy(server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


# Most of what goes wrong goes wrong in the same way everywhere: one real store is
# enough to show that, and SeaweedFS checks the most.
on_weed = pytest.mark.parametrize("server", ["weed"], indirect=True)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Give each test a place of its own."""
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]


def _url(prefix: str, **parameters: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"s3://{BUCKET}/{prefix}/" + (f"?{query}" if query else "")


def _parallel(url: str, **options: object) -> ParallelUploader:
    return ParallelUploader(
        url,
        retry=QUICK,
        history=False,
        **options,  # type: ignore[arg-type] # checked where they are given
    )


def _resumable(url: str, **options: object) -> ResumableUploader:
    return ResumableUploader(
        url,
        retry=QUICK,
        history=False,
        **options,  # type: ignore[arg-type] # checked where they are given
    )


async def _ask(server: S3Server, method: str, **parameters: object) -> Any:
    """Ask the service through botocore's own client."""

    def ask() -> Any:
        answer = getattr(server.client(), method)(Bucket=BUCKET, **parameters)
        if "Body" in answer:
            answer["Body"] = answer["Body"].read()
        return answer

    return await asyncio.to_thread(ask)


async def _content(server: S3Server, key: str) -> bytes:
    content: bytes = (await _ask(server, "get_object", Key=key))["Body"]
    return content


async def _unfinished(server: S3Server, prefix: str) -> list[str]:
    return await asyncio.to_thread(server.unfinished, f"{prefix}/")


async def _cancel_after(transfer: Transfer, chunks: int) -> None:
    cancelled = False
    async for event in transfer:
        # Once: who cancels again is in a hurry, and nothing is cleared up.
        if not cancelled and event.progress.chunks_confirmed >= chunks:
            cancelled = True
            transfer.cancel()


async def _require_uploaded(
    server: S3Server, layer: type[ChunkedUploader], size: int, prefix: str
) -> None:
    uploader = layer(_url(prefix), history=False)
    result = await uploader.upload_file(_DATA[:size], name="table.csv")
    key = f"{prefix}/table.csv"
    assert await _content(server, key) == _DATA[:size]
    assert result.location == f"s3://{BUCKET}/{key}"
    assert result.verified in {Verification.SHA256, Verification.CHUNKS}
    assert len(result.chunks) == max(1, -(-size // PART))
    assert await _unfinished(server, prefix) == []


@on_weed
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.layer.value)
@pytest.mark.parametrize(
    "size",
    [0, 1, PART, PART + 1, 3 * PART],
    ids=["empty", "one-byte", "one-chunk", "and-a-byte", "three-chunks"],
)
async def test_every_layer_uploads(
    server: S3Server, layer: type[ChunkedUploader], size: int, prefix: str
) -> None:
    """Bytes out are bytes in, in every layer, and it is proved."""
    await _require_uploaded(server, layer, size, prefix)


@pytest.mark.parametrize("server", ["moto", "rclone"], indirect=True)
@pytest.mark.parametrize("size", [0, 1, len(_DATA)], ids=["empty", "one-byte", "big"])
async def test_every_service_takes_uploads(
    server: S3Server, size: int, prefix: str
) -> None:
    """Services that know less take uploads too, and still something is proved."""
    await _require_uploaded(server, ParallelUploader, size, prefix)


async def test_type_and_metadata_are_kept(server: S3Server, prefix: str) -> None:
    """Content type and metadata stand beside the bytes, names in any script too."""
    metadata = {"run": "42", "who": "Zoë"}
    for name, data in (("small.csv", _DATA[:10]), ("big.csv", _DATA)):
        await _parallel(_url(prefix)).upload_file(data, name=name, metadata=metadata)
        stored = await _ask(server, "head_object", Key=f"{prefix}/{name}")
        assert stored["ContentType"] == "text/csv"
        kept = {name.lower(): value for name, value in stored["Metadata"].items()}
        assert kept == {"run": "42", "who": "=?UTF-8?B?Wm/Dqw==?="}


@pytest.mark.parametrize(
    "name",
    [
        "a b+c&d=e.txt",
        "ü/ñ.txt",
        "100%.bin",
        "~tilde*(1)'!.txt",
        "what?#.txt",
        "%2e%2e.txt",
        "x" * 200,
    ],
)
@on_weed
async def test_a_key_is_the_name_whatever_it_holds(
    server: S3Server, name: str, prefix: str
) -> None:
    """Names arrive as they are: nothing is decoded twice, or cut off."""
    await _parallel(_url(prefix)).upload_file(b"words", name=name)
    assert await _content(server, f"{prefix}/{name}") == b"words"


async def test_a_small_file_takes_one_request(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """A file of one chunk needs one request; one more when it must not overwrite."""
    await _parallel(_url(prefix)).upload_file(b"words", name="one")
    assert proxy.operations == ["PutObject"]
    proxy.seen.clear()
    await _parallel(_url(prefix), overwrite=False).upload_file(b"words", name="two")
    assert proxy.operations == ["HeadObject", "PutObject"]


@on_weed
async def test_parts_carry_their_digests(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """Each part says its SHA-256, and the signature covers it."""
    result = await _parallel(_url(prefix)).upload_file(_DATA)
    by_part = {seen.part: seen for seen in proxy.seen if seen.part is not None}
    for chunk in result.chunks:
        headers = by_part[chunk.index + 1].headers
        assert headers["x-amz-content-sha256"] == chunk.sha256
        assert "x-amz-checksum-sha256" in headers["authorization"]
        assert headers["content-length"] == str(chunk.size)
    assert proxy.count("CompleteMultipartUpload") == 1


class _CountingSource(FileSource):
    """Counts the bytes that are read of a file."""

    count = 0

    async def read(
        self, buffer: memoryview, start: int, digests: Sequence[Hash] = ()
    ) -> int:
        count = await super().read(buffer, start, digests)
        self.count += count
        return count


@pytest.mark.parametrize(("budget", "passes"), [(4, 1), (3, 2)], ids=["fits", "less"])
async def test_a_file_is_read_once_where_memory_holds_a_chunk_a_lane(
    tmp_path: Path, budget: int, passes: int
) -> None:
    """Four lanes need the memory of four chunks; with less, chunks are read twice."""
    path = tmp_path / "table"
    path.write_bytes(_DATA[: 8 * MIB])
    source = _CountingSource(path)
    uploader = ParallelUploader(
        f"file://{tmp_path}/store",
        max_parallel=4,
        chunk_size=MIB,
        memory_budget=budget * MIB,
        history=False,
    )
    await uploader._begin(source, UploadRequest())
    assert source.count == passes * 8 * MIB


@given(size=st.integers(0, 10_000 * 5 * GIB), chunk=st.integers(1, 6 * GIB))
def test_any_size_fits_its_parts(size: int, chunk: int) -> None:
    """Parts are equal, 5 MiB to 5 GiB, and never more than 10,000."""
    from upload_kit.destinations.s3 import _LIMITS

    plan = plan_chunks(size, chunk, _LIMITS)
    assert plan.total_chunks is not None
    assert plan.total_chunks <= 10_000
    assert 5 * MIB <= plan.chunk_size <= 5 * GIB
    assert sum(plan.chunk(index).size for index in (0, plan.total_chunks - 1)) <= max(
        size, 2 * plan.chunk_size
    )


def test_a_file_too_big_is_refused() -> None:
    """A file that no 10,000 parts can hold is refused before anything is sent."""
    from upload_kit.destinations.s3 import _LIMITS

    with pytest.raises(ConfigurationError):
        plan_chunks(10_000 * 5 * GIB + 1, PART, _LIMITS)


async def test_a_stream_of_unknown_size_arrives(server: S3Server, prefix: str) -> None:
    """What shows its size only at the end goes in parts."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(_DATA), 700 * KIB):
            yield _DATA[start : start + 700 * KIB]

    result = await _parallel(_url(prefix)).upload_file(pieces(), name="stream")
    assert result.size == len(_DATA)
    assert await _content(server, f"{prefix}/stream") == _DATA


@on_weed
async def test_a_stream_with_too_many_parts_is_refused(
    server: S3Server, prefix: str
) -> None:
    """Part 10,001 is refused with what to do about it."""
    destination = make_destination(_url(prefix))
    spec = UploadSpec(name="stream", size=None)
    remote = await destination.open(spec, Plan(size=None, chunk_size=PART))
    chunk = ChunkMetadata(index=10_000, start=10_000 * PART, size=1)
    with pytest.raises(RemoteRejected, match="chunk_size"):
        await remote.put(chunk, None)  # type: ignore[arg-type] # refused before
    await remote.abort()
    await destination.aclose()


async def test_another_uploader_goes_on(
    server: S3Server, proxy: S3Proxy, tmp_path: Path, prefix: str
) -> None:
    """Parts that have arrived are listed, and only the missing ones are sent."""
    path = tmp_path / "table.csv"
    path.write_bytes(_DATA)
    async with _resumable(_url(prefix), max_parallel=1) as uploader:
        await _cancel_after(uploader.start(path), 2)
    before = set(proxy.parts())
    proxy.seen.clear()
    result = await _resumable(_url(prefix)).upload_file(path)
    assert result.bytes_resumed >= 2 * PART
    assert proxy.operations[0] == "ListParts"
    assert proxy.count("CreateMultipartUpload") == 0
    assert {1, 2} <= before
    assert not {1, 2} & set(proxy.parts())
    assert await _content(server, f"{prefix}/table.csv") == _DATA


_PROGRAM: Final = """
import asyncio, sys
from upload_kit.uploaders import chunked, resumable

async def main():
    layer = {"foundation": chunked.ChunkedUploader}.get(
        sys.argv[3], resumable.ResumableUploader
    )
    transfer = layer(sys.argv[1]).start(sys.argv[2])
    async for event in transfer:
        print(event.progress.chunks_confirmed, flush=True)

asyncio.run(main())
"""


async def _killed(url: str, path: Path, layer: str, chunks: int) -> None:
    """Upload in another process, and kill -9 it once so many chunks are confirmed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, url, path, layer),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if int(line) >= chunks:
            process.send_signal(signal.SIGKILL)
    await process.wait()


@pytest.mark.parametrize("server", ["rclone", "weed"], indirect=True)
async def test_a_killed_process_is_continued_by_another(
    server: S3Server, proxy: S3Proxy, tmp_path: Path, prefix: str
) -> None:
    """After kill -9 another process goes on; no secret is left on the disk."""
    path = tmp_path / "table.csv"
    path.write_bytes(_DATA)
    # The last part cannot arrive, so that there is something to go on with.
    proxy.faults.append(Fault(operation="CompleteMultipartUpload", times=99))
    await _killed(_url(prefix), path, "polish", 2)
    proxy.faults.clear()
    state = tmp_path / "state"
    kept = [file.read_bytes() for file in state.rglob("*") if file.is_file()]
    assert kept
    assert not any(SECRET_KEY.encode() in content for content in kept)
    result = await _resumable(_url(prefix)).upload_file(path)
    assert result.bytes_resumed > PART
    assert await _content(server, f"{prefix}/table.csv") == _DATA


@on_weed
async def test_what_a_killed_process_left_is_cleaned_up(
    server: S3Server, tmp_path: Path, prefix: str
) -> None:
    """An upload without a session can be aborted later: old ones, below the prefix."""
    path = tmp_path / "table.csv"
    path.write_bytes(_DATA)
    await _killed(_url(prefix), path, "foundation", 1)
    assert await _unfinished(server, prefix) == [f"{prefix}/table.csv"]
    for place, age, expected in (
        (f"{prefix}/deeper", "0.001s", "Nothing is left"),
        (prefix, "1h", "Nothing is left"),
        (prefix, "0.001s", f"Aborted: {prefix}/table.csv"),
    ):
        words = ("cleanup", _url(place), "--older-than", age)
        done = await asyncio.to_thread(Shell(tmp_path).run, *words)
        assert expected in done.out
    assert await _unfinished(server, prefix) == []


async def _clean_up(uploader: ResumableUploader) -> None:
    """Clean up until a session has expired and was removed."""
    removed: tuple[str, ...] = ()
    while not removed:
        removed = (await uploader.cleanup()).removed


async def test_an_expired_session_is_cleared_up(
    server: S3Server, tmp_path: Path, prefix: str
) -> None:
    """Cleaning up expired sessions leaves no parts behind."""
    path = tmp_path / "table.csv"
    path.write_bytes(_DATA)
    async with _resumable(_url(prefix), max_parallel=1, session_ttl=2.0) as uploader:
        await _cancel_after(uploader.start(path), 1)
        assert await _unfinished(server, prefix) != []
        await _clean_up(uploader)
    assert await _unfinished(server, prefix) == []


@pytest.mark.parametrize("layer", LAYERS[:2], ids=lambda layer: layer.layer.value)
async def test_a_cancelled_upload_leaves_no_parts(
    server: S3Server, layer: type[ChunkedUploader], prefix: str
) -> None:
    """What nobody will go on with is aborted, parts and all."""
    async with layer(_url(prefix), history=False) as uploader:
        transfer = uploader.start(_DATA)
        await _cancel_after(transfer, 1)
        with pytest.raises(UploadCancelled):
            await transfer
    assert await _unfinished(server, prefix) == []


@on_weed
async def test_parts_that_arrive_after_an_abort_are_aborted_too(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """As long as parts are listed, the upload is aborted again."""
    # The first abort does not take hold: the part that is listed then arrived late.
    proxy.faults += [
        Fault(operation="AbortMultipartUpload", status=204, code="Ignored"),
        Fault(operation="UploadPart", after=2, times=9, hang=True),
    ]
    async with _parallel(_url(prefix)) as uploader:
        await _cancel_after(uploader.start(_DATA), 2)
    assert proxy.count("AbortMultipartUpload") == 2
    assert await _unfinished(server, prefix) == []


@on_weed
async def test_an_abort_that_fails_is_tried_again(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """A service that is busy when an upload is cancelled keeps nothing of it."""
    proxy.faults += [
        Fault(operation="AbortMultipartUpload", status=503, code="SlowDown", times=2),
        Fault(operation="UploadPart", after=1, times=9, hang=True),
    ]
    async with _parallel(_url(prefix)) as uploader:
        await _cancel_after(uploader.start(_DATA), 1)
    assert await _unfinished(server, prefix) == []


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
async def test_parts_that_are_never_put_together_are_asked_for_again(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """It may take longer than any other answer, but not for ever."""
    proxy.faults.append(Fault(operation="CompleteMultipartUpload", hang=True))
    url, data = _url(prefix, min_part="1"), _DATA[:3000]
    async with _parallel(url, chunk_size=1000, response_timeout=0.5) as uploader:
        async with asyncio.timeout(30):
            await uploader.upload_file(data, name="table")
    assert proxy.count("CompleteMultipartUpload") == 2
    assert [stored for _, stored in server.objects(prefix)] == [data]


@pytest.mark.parametrize("operation", ["UploadPart", "CreateMultipartUpload"])
async def test_slow_down_is_obeyed(
    server: S3Server, proxy: S3Proxy, operation: str, prefix: str
) -> None:
    """503 SlowDown is waited out, as long as it asks for."""
    fault = Fault(
        operation=operation,
        status=503,
        code="SlowDown",
        times=2,
        headers={"Retry-After": "1"},
    )
    proxy.faults.append(fault)
    async with _parallel(_url(prefix)) as uploader:
        transfer = uploader.start(_DATA, name="table")
        events = [event async for event in transfer]
        result = await transfer
    retries = [event for event in events if event.kind is EventKind.RETRYING]
    assert len(retries) == result.retries == 2
    for event in retries:
        assert event.wait >= 1.0
        assert event.error is not None
        assert "SlowDown" in event.error
    assert await _content(server, f"{prefix}/table") == _DATA


def _name_fault(fault: Fault) -> str:
    return f"{fault.operation}-{fault.status}-{'lost' if fault.arrives else 'failed'}"


_AT_THE_END: Final = [
    Fault(operation="CompleteMultipartUpload", status=200),
    Fault(operation="CompleteMultipartUpload", status=200, arrives=True),
    Fault(operation="CompleteMultipartUpload", arrives=True),
    Fault(operation="CompleteMultipartUpload", status=503, code="SlowDown"),
]


@on_weed
@pytest.mark.parametrize(
    "fault",
    [
        Fault(operation="UploadPart", status=400, code="RequestTimeout"),
        Fault(operation="UploadPart", status=500),
        Fault(operation="UploadPart"),
        Fault(operation="UploadPart", arrives=True),
        Fault(operation="CreateMultipartUpload", arrives=True),
        *_AT_THE_END,
    ],
    ids=_name_fault,
)
async def test_what_may_pass_is_tried_again(
    server: S3Server, proxy: S3Proxy, fault: Fault, prefix: str
) -> None:
    """Lost requests, lost answers and errors under 200 end in one whole object."""
    proxy.faults.append(replace(fault))
    result = await _parallel(_url(prefix)).upload_file(_DATA, name="table")
    assert result.retries == 1
    assert await _content(server, f"{prefix}/table") == _DATA


@pytest.mark.parametrize("fault", _AT_THE_END, ids=_name_fault)
async def test_a_lost_end_is_not_taken_for_somebody_elses_object(
    server: S3Server, proxy: S3Proxy, fault: Fault, prefix: str
) -> None:
    """When the end is tried again, our own object is no reason to refuse."""
    proxy.faults.append(replace(fault))
    uploader = _parallel(_url(prefix), overwrite=False)
    result = await uploader.upload_file(_DATA, name="table")
    assert result.retries == 1
    assert await _content(server, f"{prefix}/table") == _DATA


@on_weed
@pytest.mark.parametrize("overwrite", [True, False], ids=["overwrite", "new"])
async def test_a_lost_answer_to_a_small_file(
    *, server: S3Server, proxy: S3Proxy, overwrite: bool, prefix: str
) -> None:
    """Our own object is not taken for somebody else's when its answer was lost."""
    proxy.faults.append(Fault(operation="PutObject", arrives=True))
    uploader = _parallel(_url(prefix), overwrite=overwrite)
    result = await uploader.upload_file(b"words", name="words")
    assert result.verified is Verification.SHA256
    assert await _content(server, f"{prefix}/words") == b"words"


async def test_killed_once_a_small_file_was_stored(
    server: S3Server, prefix: str, tmp_path: Path
) -> None:
    """One request is made again, and our own object is no reason to refuse."""
    path, sessions = tmp_path / "words", tmp_path / "sessions"
    path.write_bytes(b"words")
    uploader = _resumable(
        _url(prefix), overwrite=False, keep_sessions=True, session_dir=sessions
    )
    await uploader.upload_file(path)
    await forget_the_end(sessions)
    result = await uploader.upload_file(path)
    assert result.verified in {Verification.SHA256, Verification.CHUNKS}
    assert await _content(server, f"{prefix}/words") == b"words"


# rclone tells nothing of what an object was put together from.
@pytest.mark.parametrize("server", ["moto", "weed"], indirect=True)
async def test_killed_once_it_was_stored(
    server: S3Server, proxy: S3Proxy, prefix: str, tmp_path: Path
) -> None:
    """Our own object is known by its parts; another one of that size is not ours."""
    path, key = tmp_path / "table", f"{prefix}/table"
    path.write_bytes(_DATA)
    sessions = tmp_path / "sessions"
    uploader = _resumable(
        _url(prefix), overwrite=False, keep_sessions=True, session_dir=sessions
    )
    await uploader.upload_file(path)
    await forget_the_end(sessions)
    sent = len(proxy.parts())
    result = await uploader.upload_file(path)
    assert result.success
    assert await _content(server, key) == path.read_bytes()
    assert (result.bytes_sent, len(proxy.parts())) == (0, sent)
    assert proxy.count("CreateMultipartUpload") == 1
    await forget_the_end(sessions)
    await _ask(server, "put_object", Key=key, Body=_DATA[::-1])
    with pytest.raises(RemoteRejected, match="exists already"):
        await uploader.upload_file(path)
    assert await _content(server, key) == _DATA[::-1]


def _flip(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:]


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
async def test_a_part_that_cannot_be_replaced_begins_the_upload_anew(
    server: S3Server, proxy: S3Proxy, prefix: str, tmp_path: Path
) -> None:
    """A service that keeps the wrong bytes gets all of them once more."""
    (tmp_path / "table").write_bytes(_DATA)
    proxy.faults.append(Fault(operation="UploadPart", body=_flip))
    uploader = _resumable(_url(prefix), session_dir=tmp_path / "sessions")
    result = await uploader.upload_file(tmp_path / "table")
    assert result.success
    assert proxy.count("CreateMultipartUpload") == 2
    assert await _content(server, f"{prefix}/table") == _DATA
    assert await _unfinished(server, prefix) == []


@pytest.mark.parametrize(
    ("operation", "size"),
    [("PutObject", 1000), ("UploadPart", len(_DATA))],
    ids=["whole", "parts"],
)
async def test_bytes_changed_on_the_way_are_sent_again(
    *, server: S3Server, proxy: S3Proxy, operation: str, size: int, prefix: str
) -> None:
    """A flipped bit is found on every service: by its SHA-256, or by its MD5."""
    proxy.faults.append(Fault(operation=operation, body=_flip))
    result = await _parallel(_url(prefix)).upload_file(_DATA[:size], name="table")
    assert result.retries == 1
    assert await _content(server, f"{prefix}/table") == _DATA[:size]


async def test_bytes_that_always_change_end_the_upload(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """A path that keeps flipping bits is an error, and leaves nothing behind."""
    proxy.faults.append(Fault(operation="UploadPart", body=_flip, times=99))
    with pytest.raises((IntegrityError, RemoteRejected)):
        await _parallel(_url(prefix)).upload_file(_DATA, name="table")
    assert await _unfinished(server, prefix) == []


@on_weed
async def test_a_wrong_digest_of_the_whole_ends_the_upload(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """What the service says of the whole object is compared, not only its parts."""

    def other(body: bytes) -> bytes:
        start = body.index(b"<ChecksumSHA256>") + len(b"<ChecksumSHA256>")
        return body[:start] + b"A" * 8 + body[start + 8 :]

    proxy.faults.append(
        Fault(operation="CompleteMultipartUpload", answer=other, times=2)
    )
    with pytest.raises(IntegrityError, match="put together"):
        await _parallel(_url(prefix)).upload_file(_DATA, name="table")


@pytest.mark.parametrize("size", [10, len(_DATA)], ids=["whole", "parts"])
async def test_what_stands_there_is_not_overwritten(
    server: S3Server, proxy: S3Proxy, size: int, prefix: str
) -> None:
    """Without leave to overwrite, no byte is sent where something stands."""
    await _ask(server, "put_object", Key=f"{prefix}/table", Body=b"old")
    uploader = _parallel(_url(prefix), overwrite=False)
    with pytest.raises(RemoteRejected, match="exists already"):
        await uploader.upload_file(_DATA[:size], name="table")
    assert proxy.operations == ["HeadObject"]
    assert await _content(server, f"{prefix}/table") == b"old"


# rclone does not know conditions; there the look before the upload is all there is.
@pytest.mark.parametrize("server", ["moto", "weed"], indirect=True)
@pytest.mark.parametrize("size", [10, len(_DATA)], ids=["whole", "parts"])
async def test_what_appears_meanwhile_is_not_overwritten(
    server: S3Server, proxy: S3Proxy, size: int, prefix: str
) -> None:
    """An object that appears while bytes are under way stays, and no parts do."""
    await _ask(server, "put_object", Key=f"{prefix}/table", Body=b"old")
    proxy.faults.append(Fault(operation="HeadObject", status=404, code="NoSuchKey"))
    uploader = _parallel(_url(prefix), overwrite=False)
    with pytest.raises(RemoteRejected, match="exists already"):
        await uploader.upload_file(_DATA[:size], name="table")
    assert await _content(server, f"{prefix}/table") == b"old"
    assert await _unfinished(server, prefix) == []


@on_weed
async def test_an_upload_that_was_aborted_there_starts_anew(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """When somebody aborts the upload under way, another one is begun."""
    proxy.faults.append(
        Fault(operation="UploadPart", status=404, code="NoSuchUpload", times=1)
    )
    await _parallel(_url(prefix)).upload_file(_DATA, name="table")
    assert proxy.count("CreateMultipartUpload") == 2
    assert await _content(server, f"{prefix}/table") == _DATA


@on_weed
async def test_a_part_that_was_acknowledged_and_lost_is_sent_again(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """When the service misses a part at the end, that part is sent once more."""
    etag = f'"{hashlib.md5(_DATA[:PART]).hexdigest()}"'
    proxy.faults.append(Fault(operation="UploadPart", lie=etag))
    uploader = _parallel(_url(prefix), max_parallel=1)
    result = await uploader.upload_file(_DATA, name="table")
    assert result.verified is Verification.CHUNKS
    assert proxy.count("CompleteMultipartUpload") == 2
    assert proxy.parts().count(1) == 2
    assert await _content(server, f"{prefix}/table") == _DATA


@pytest.mark.parametrize("server", ["rclone", "weed"], indirect=True)
async def test_a_wrong_secret_is_told_without_showing_it(
    server: S3Server,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Wrong credentials are a typed error, before a byte of a big file is sent."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(AuthenticationFailed, match="secret access key") as caught:
        await _parallel(_url(prefix)).upload_file(_DATA)
    assert "not-the-secret" not in str(caught.value) + caplog.text


@on_weed
async def test_no_credentials_are_told_with_what_to_do(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials the error names where the AWS tools look for them."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE"):
        await _parallel(_url(prefix)).upload_file(b"words")


@pytest.mark.parametrize("server", ["moto", "rclone"], indirect=True)
@pytest.mark.parametrize("size", [10, len(_DATA)], ids=["whole", "parts"])
async def test_a_bucket_that_is_not_there_is_told(
    server: S3Server, size: int, prefix: str
) -> None:
    """A missing bucket is an error at once that says what to check."""
    uploader = _parallel(f"s3://no-such-bucket/{prefix}/")
    with pytest.raises(RemoteRejected, match="bucket's name"):
        await uploader.upload_file(_DATA[:size])


@on_weed
async def test_a_profile_says_where_and_who(
    server: S3Server, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A section of the AWS files is enough, named by the URL or by AWS_PROFILE."""
    config = tmp_path / "config"
    config.write_text(
        f"[profile lab]\nregion = eu-west-1\nendpoint_url = {server.url}\n"
        "s3 =\n  addressing_style = path\n"
    )
    keys = tmp_path / "credentials"
    keys.write_text(
        f"[lab]\naws_access_key_id = {ACCESS_KEY}\n"
        f"aws_secret_access_key = {SECRET_KEY}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    await _parallel(_url(prefix, profile="lab")).upload_file(b"one", name="one")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    await _parallel(_url(prefix)).upload_file(b"two", name="two")
    assert await _content(server, f"{prefix}/one") == b"one"
    assert await _content(server, f"{prefix}/two") == b"two"


@on_weed
async def test_the_url_may_name_the_endpoint(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the URL says wins over the environment."""
    url = _url(prefix, endpoint_url=server.url, region="eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    await _parallel(url).upload_file(b"words", name="words")
    assert await _content(server, f"{prefix}/words") == b"words"


@on_weed
async def test_a_bucket_in_another_region_is_found(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """When the service names the bucket's region, requests go on there."""
    proxy.faults.append(
        Fault(
            operation="CreateMultipartUpload",
            status=301,
            code="PermanentRedirect",
            headers={"x-amz-bucket-region": "eu-central-1"},
        )
    )
    await _parallel(_url(prefix)).upload_file(_DATA, name="table")
    signed = [seen.headers["authorization"] for seen in proxy.seen]
    assert "/us-east-1/s3/" in signed[0]
    assert all("/eu-central-1/s3/" in header for header in signed[1:])
    assert await _content(server, f"{prefix}/table") == _DATA


@on_weed
async def test_headers_of_amazon_are_signed(
    server: S3Server, proxy: S3Proxy, prefix: str
) -> None:
    """Such as a storage class; they go with whatever makes the object."""
    uploader = _parallel(
        _url(prefix), headers={"X-Amz-Storage-Class": "STANDARD", "X-Trace": "1"}
    )
    await uploader.upload_file(b"words", name="words")
    await uploader.upload_file(_DATA, name="table")
    for operation in ("PutObject", "CreateMultipartUpload"):
        (seen,) = (seen for seen in proxy.seen if seen.operation == operation)
        assert seen.headers["x-amz-storage-class"] == "STANDARD"
        assert "x-amz-storage-class" in seen.headers["authorization"]
    assert all(seen.headers["x-trace"] == "1" for seen in proxy.seen)


async def test_checksums_can_be_left_out(
    server: S3Server,
    proxy: S3Proxy,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service that does not know them is told none; MD5 still finds a flipped bit."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    proxy.faults.append(Fault(operation="UploadPart", body=_flip))
    result = await _parallel(_url(prefix)).upload_file(_DATA, name="table")
    assert result.retries == 1
    assert not any("x-amz-checksum-sha256" in seen.headers for seen in proxy.seen)
    assert await _content(server, f"{prefix}/table") == _DATA


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
async def test_without_any_digest_only_the_size_is_claimed(
    server: S3Server, prefix: str
) -> None:
    """A result says no more than what was compared."""
    result = await _parallel(_url(prefix, md5="off")).upload_file(_DATA)
    assert result.verified is Verification.SIZE


@pytest.mark.parametrize(
    "url",
    [
        "s3:///prefix/",
        "s3://AKIA:secret-in-url@bucket/",
        "s3://bucket/?secret_key=secret-in-url",
        "s3://bucket/?addressing_style=sideways",
    ],
)
def test_what_cannot_work_is_refused(url: str) -> None:
    """A URL that cannot mean anything is refused, and no secret in it is shown."""
    with pytest.raises(ConfigurationError) as caught:
        make_destination(url)
    assert "secret-in-url" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="no token"):
        make_destination("s3://bucket/", ConnectionOptions(token=Secret("token")))


@on_weed
@pytest.mark.parametrize("name", ["../up", "a//b", "/root", "", "\udcff"], ids=ascii)
async def test_a_name_that_climbs_is_refused(
    server: S3Server, name: str, prefix: str
) -> None:
    """A name stays below the prefix."""
    destination = make_destination(_url(prefix))
    with pytest.raises(ConfigurationError):
        await destination.negotiate(UploadSpec(name=name, size=1))
    await destination.aclose()


@on_weed
async def test_metadata_adds_no_headers(server: S3Server, prefix: str) -> None:
    """A line break, in a name or a value, does not begin another header."""
    metadata = {"a\r\nb c": "d\r\ne: f"}
    await _parallel(_url(prefix)).upload_file(b"", name="x", metadata=metadata)
    stored = await _ask(server, "head_object", Key=f"{prefix}/x")
    assert stored["Metadata"] == {"a--b-c": "=?UTF-8?B?ZA0KZTogZg==?="}


def _reply(body: bytes, status: int = 200) -> Reply:
    return Reply(
        method="GET",
        raw_url="http://service/bucket",
        status=status,
        headers=CIMultiDictProxy(CIMultiDict()),
        body=body,
    )


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;&a;</x>',
        b"<html><p>not closed",
        b"",
        b"{}",
        b"\xff\xfe",
    ],
    ids=["entities", "html", "empty", "json", "bytes"],
)
def test_an_answer_that_is_no_xml_is_an_error(body: bytes) -> None:
    """Whatever answers there, it does not become a traceback or eat the memory."""
    with pytest.raises(RemoteRejected, match="endpoint"):
        read_xml(_reply(body))
    assert failure(_reply(body, 500)) is not None


def test_an_unknown_error_under_200_may_pass() -> None:
    """After a status of 200, an error that nobody knows is tried again."""
    error = failure(_reply(b"\n <Error><Code>Odd</Code></Error>"))
    assert isinstance(error, RemoteUnavailable)


async def _run(program: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=_ROOT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_a_missing_package_says_what_to_install() -> None:
    """Without botocore the error names the extra that brings it."""
    program = (
        "import sys; sys.modules['botocore'] = None\n"
        "from upload_kit.destinations.registry import make_destination\n"
        "make_destination('s3://bucket/')"
    )
    code, output = await _run(program)
    assert code == 1
    assert "MissingExtra" in output
    assert "pip install 'upload_kit[s3]'" in output


async def test_importing_the_package_brings_no_botocore() -> None:
    """Who does not upload to S3 does not wait for its library."""
    program = (
        "import sys, upload_kit, upload_kit.uploaders.resumable\n"
        "assert not [name for name in sys.modules if name.startswith('botocore')]"
    )
    assert await _run(program) == (0, "")
