"""Uploads to the Gemini Files API: whole, proved, resumed, and no key ever shown."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from upload_kit.bench.peers.gemini_server import GRANULARITY, KEY, GeminiServer
from upload_kit.config import ConnectionOptions, RetryPolicy, Secret
from upload_kit.destinations.gemini_api import GeminiApi, decode_sha256
from upload_kit.destinations.registry import make_destination
from upload_kit.destinations.reply import Reply
from upload_kit.destinations.wire import Wire
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    IntegrityError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    SourceChanged,
    UploadCancelled,
)
from upload_kit.events import EventKind
from upload_kit.models import Verification
from upload_kit.units import GB, KIB, MIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from upload_kit.events import UploadEvent
    from upload_kit.transfer import Transfer

LAYERS: Final = [ChunkedUploader, ParallelUploader, ResumableUploader]
QUICK: Final = RetryPolicy(base_delay=0.01, max_delay=0.05)
_ROOT: Final = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def private_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep sessions and history away from the user's, and keys of the user from us."""
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "state"))
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture
async def server() -> AsyncIterator[GeminiServer]:
    async with GeminiServer() as server:
        yield server


def _chunked(server: GeminiServer, **options: object) -> ChunkedUploader:
    return ChunkedUploader(
        server.destination,
        api_key=KEY,
        chunk_size=GRANULARITY,
        retry=QUICK,
        history=False,
        **options,  # type: ignore[arg-type] # checked where they are given
    )


def _resumable(server: GeminiServer, **options: object) -> ResumableUploader:
    return ResumableUploader(
        server.destination,
        api_key=KEY,
        chunk_size=GRANULARITY,
        retry=QUICK,
        history=False,
        **options,  # type: ignore[arg-type] # checked where they are given
    )


def _data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _only_content(server: GeminiServer) -> bytes:
    (content,) = server.contents.values()
    return content


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.layer.value)
@pytest.mark.parametrize(
    "size",
    [0, 1, GRANULARITY, 3 * GRANULARITY, 3 * GRANULARITY + 1],
    ids=["empty", "one-byte", "one-chunk", "three-chunks", "and-a-byte"],
)
async def test_every_layer_uploads_and_compares_digests(
    server: GeminiServer, layer: type[ChunkedUploader], size: int
) -> None:
    """What arrives is what was sent, by the service's own digest, in every layer."""
    uploader = layer(
        server.destination, api_key=KEY, chunk_size=GRANULARITY, history=False
    )
    result = await uploader.upload_file(_data(size), name="notes.txt")
    assert _only_content(server) == _data(size)
    assert result.verified is Verification.SHA256
    # The service compares the file's digest only, so no other one is computed.
    assert {chunk.sha256 for chunk in result.chunks} == {None}
    assert result.retries == 0
    (file,) = server.files.values()
    assert result.location == file["uri"]
    assert (file["displayName"], file["mimeType"]) == ("notes.txt", "text/plain")
    assert server.count("start") == 1
    assert server.keys_on_upload_urls == []


@given(
    size=st.integers(0, 20 * KIB),
    granularity=st.sampled_from([1, 1000, 4096, 10_000]),
    chunk_size=st.integers(1500, 9000),
    cuts=st.lists(st.integers(0, 4096), max_size=3),
    lost=st.integers(0, 2),
    commit=st.sampled_from([1, 512, 4096]),
)
async def test_bytes_out_are_bytes_in(
    *,
    size: int,
    granularity: int,
    chunk_size: int,
    cuts: list[int],
    lost: int,
    commit: int,
) -> None:
    """Whatever breaks, bytes out are bytes in, and sent is confirmed is total."""
    async with GeminiServer(granularity=granularity, commit=commit) as server:
        server.faults.cut_after, server.faults.lost_answers = cuts, lost
        uploader = ChunkedUploader(
            server.destination,
            api_key=KEY,
            chunk_size=chunk_size,
            retry=RetryPolicy(base_delay=0.0),
            history=False,
        )
        async with uploader:
            transfer = uploader.start(_data(size))
            result = await transfer
        assert _only_content(server) == _data(size)
        assert result.verified is Verification.SHA256
        progress = transfer.progress
        assert progress.sent == progress.confirmed == progress.total == size
        for chunk in result.chunks[:-1]:
            assert chunk.size % granularity == 0


async def test_a_broken_chunk_goes_on_where_it_broke(server: GeminiServer) -> None:
    """After a break the service is asked, and what it kept is not sent again."""
    server.faults.cut_after = [200 * KIB]
    data = _data(3 * GRANULARITY)
    result = await _chunked(server).upload_file(data)
    assert _only_content(server) == data
    assert result.retries == 1
    assert server.commands[1:4] == ["upload", "query", "upload"]
    kept = server.bytes_in - len(data)
    assert kept < server.commit


@pytest.mark.parametrize("count", [1, 3], ids=["first-chunk", "every-chunk"])
async def test_a_lost_answer_is_found_out(server: GeminiServer, count: int) -> None:
    """A chunk that was taken is not sent again, nor a file that is whole already."""
    server.faults.lost_answers = count
    data = _data(3 * GRANULARITY)
    result = await _chunked(server).upload_file(data)
    assert result.retries == count
    assert server.bytes_in == len(data)
    assert _only_content(server) == data


async def test_a_whole_file_is_found_by_its_name(server: GeminiServer) -> None:
    """Where a query does not name the whole file, it is found under our name."""
    server.faults.lost_answers, server.faults.mute_query = 1, True
    result = await _chunked(server).upload_file(b"small")
    assert result.verified is Verification.SHA256
    assert server.bytes_in == 5


async def test_the_end_is_told_again(server: GeminiServer) -> None:
    """When all bytes were taken but not as the last, saying so costs no byte."""
    server.faults.not_final = 1
    data = _data(2 * GRANULARITY)
    await _chunked(server).upload_file(data)
    assert _only_content(server) == data
    assert server.bytes_in == len(data)
    assert server.commands[-2:] == ["upload, finalize", "finalize"]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_an_unavailable_service_is_asked_before_bytes_go_again(
    server: GeminiServer, status: int
) -> None:
    """A status that may pass is tried again, after a query."""
    server.faults.statuses = [status]
    data = _data(2 * GRANULARITY)
    result = await _chunked(server).upload_file(data)
    assert result.retries == 1
    assert _only_content(server) == data
    assert server.commands[1:4] == ["upload", "query", "upload"]


@pytest.mark.parametrize("kept", [200 * KIB, GRANULARITY], ids=["half", "all"])
async def test_a_slow_answer_is_no_stall(server: GeminiServer, kept: int) -> None:
    """Once all bytes are there, the answer has its own time, however many went."""
    server.faults.cut_after = [kept]
    server.faults.answer_delay = 0.8
    uploader = _chunked(server, stall_timeout=0.3)
    result = await uploader.upload_file(_data(GRANULARITY))
    assert result.retries == 1


async def test_a_stalled_connection_is_given_up(server: GeminiServer) -> None:
    """Bytes that no longer move are sent over a fresh connection."""
    # More than what the kernel takes in for a server that does not read.
    server.granularity = 16 * MIB
    server.faults.stall_after = [MIB]
    data = bytes(server.granularity)
    result = await _chunked(server, stall_timeout=1.0).upload_file(data)
    assert server.stalled.is_set()
    assert result.retries >= 1
    assert result.verified is Verification.SHA256


@pytest.mark.parametrize(
    ("lie", "error"),
    [(64 * KIB, RemoteRejected), (-64 * KIB, RemoteRejected), (GB, RemoteGone)],
    ids=["more", "less", "more-than-all"],
)
async def test_a_service_that_lies_about_its_offset_ends_the_upload(
    server: GeminiServer, lie: int, error: type[Exception]
) -> None:
    """An offset that the service says and then refuses ends in an error, not a loop."""
    server.faults.cut_after = [200 * KIB] * 9
    server.faults.lie = lie
    with pytest.raises(error):
        await _chunked(server).upload_file(_data(2 * GRANULARITY))
    assert server.files == {}


async def test_an_upload_that_was_forgotten_starts_anew(server: GeminiServer) -> None:
    """When the service loses an upload on its way, another one is started."""
    uploader = _chunked(server)

    async with uploader:
        transfer = uploader.start(_data(4 * GRANULARITY))
        async for event in transfer:
            if event.kind is EventKind.CONFIRMED and server.count("start") == 1:
                server.sessions.clear()
        result = await transfer
    assert server.count("start") == 2
    assert _only_content(server) == _data(4 * GRANULARITY)
    assert result.verified is Verification.SHA256


async def test_a_service_that_forgets_everything_is_gone(server: GeminiServer) -> None:
    """A service that forgets every upload is an error, not a loop."""
    server.faults.forgetful = True
    with pytest.raises(RemoteGone):
        await _chunked(server).upload_file(_data(GRANULARITY))


async def _cancel_after(transfer: Transfer, chunks: int) -> UploadEvent:
    """Cancel once so many chunks are confirmed; return the last event."""
    async for event in transfer:
        if event.progress.chunks_confirmed >= chunks:
            transfer.cancel()
    return event


async def test_another_uploader_goes_on(server: GeminiServer, tmp_path: Path) -> None:
    """What was confirmed before is not sent again by the next one."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(_data(8 * GRANULARITY))
    uploader = _resumable(server, bandwidth_limit=4 * MIB)
    async with uploader:
        transfer = uploader.start(path)
        await _cancel_after(transfer, 3)
        with pytest.raises(UploadCancelled):
            await transfer
    result = await _resumable(server).upload_file(path)
    assert result.bytes_resumed >= 3 * GRANULARITY
    assert result.verified is Verification.SHA256
    assert _only_content(server) == path.read_bytes()
    # One was started to learn the granularity, in vain, and cancelled.
    statuses = sorted(session.status for session in server.sessions.values())
    assert statuses == ["cancelled", "final"]


async def test_a_file_that_changed_is_not_gone_on_with(
    server: GeminiServer, tmp_path: Path
) -> None:
    """The digest of all that was sent shows it, where size and time do not."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(_data(8 * GRANULARITY))
    before = path.stat()
    async with _resumable(server, bandwidth_limit=4 * MIB) as uploader:
        transfer = uploader.start(path)
        await _cancel_after(transfer, 3)
        with pytest.raises(UploadCancelled):
            await transfer
    with path.open("r+b") as file:
        file.seek(GRANULARITY)
        file.write(b"other bytes")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(SourceChanged, match="since chunk 1 was sent"):
        await _resumable(server).upload_file(path)
    assert server.contents == {}


_PROGRAM: Final = """
import asyncio, sys
from upload_kit import ResumableUploader

async def main():
    uploader = ResumableUploader(
        sys.argv[1], api_key=sys.argv[3], chunk_size=1, bandwidth_limit=3_000_000
    )
    async for progress in uploader.stream_file(sys.argv[2]):
        print(progress.progress.chunks_confirmed, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_is_continued_by_another(
    server: GeminiServer, tmp_path: Path, private_sessions: Path
) -> None:
    """After kill -9 another process goes on, and no file gives the key or URL away."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(_data(12 * GRANULARITY))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, server.destination, path, KEY),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if int(line) >= 2:
            process.send_signal(signal.SIGKILL)
    await process.wait()
    await _require_private(private_sessions)

    result = await _resumable(server).upload_file(path)
    assert result.bytes_resumed >= 2 * GRANULARITY
    assert _only_content(server) == path.read_bytes()
    # Of the chunk that was on its way, less than what the service keeps is sent again.
    assert server.bytes_in < len(path.read_bytes()) + server.commit


async def _require_private(folder: Path) -> None:
    """Assert that the session may be read by its owner alone, and holds no key."""

    def check() -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        contents = {path: path.read_bytes() for path in files}
        assert any(b"upload_id" in content for content in contents.values())
        for path, content in contents.items():
            assert KEY.encode() not in content
            if b"upload_id" in content:
                assert path.stat().st_mode & 0o077 == 0

    await asyncio.to_thread(check)


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [(None, 300_000), (1, 300_000), (256 * KIB, 512 * KIB), (MIB, MIB)],
    ids=["no-header", "any", "quarter", "bigger"],
)
async def test_chunks_are_multiples_of_what_the_header_says(
    granularity: int | None, expected: int
) -> None:
    """The service's first answer decides the chunk size, before a byte is sent."""
    async with GeminiServer(granularity=granularity) as server:
        uploader = ChunkedUploader(
            server.destination, api_key=KEY, chunk_size=300_000, history=False
        )
        result = await uploader.upload_file(_data(2 * MIB + 5))
        assert {chunk.size for chunk in result.chunks[:-1]} == {expected}
        assert server.count("start") == 1


async def test_a_session_alone_leaves_nothing_started(server: GeminiServer) -> None:
    """What was started only to learn the granularity is cancelled."""
    session = await _resumable(server).create_session(_data(GRANULARITY + 1))
    assert session.chunk_size == GRANULARITY
    (started,) = server.sessions.values()
    assert started.status == "cancelled"


async def test_a_file_over_the_limit_is_refused_before_anything(
    server: GeminiServer, tmp_path: Path
) -> None:
    """A file of more than 2 GB is refused without a request."""
    path = tmp_path / "big.mp4"
    with path.open("wb") as file:
        file.truncate(2 * GB + 1)
    with pytest.raises(ConfigurationError, match=r"2\.00 GB"):
        await _chunked(server).upload_file(path)
    assert server.commands == []


async def test_an_unknown_size_is_refused_before_anything(server: GeminiServer) -> None:
    """A stream must say its size: the service asks for it first."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    with pytest.raises(ConfigurationError, match="must know the size"):
        await _chunked(server).upload_file(pieces())
    assert server.commands == []


async def test_a_file_is_ready_when_the_upload_is(server: GeminiServer) -> None:
    """The upload ends when the file can be used, not when its bytes have arrived."""
    server.processing = 3
    await _chunked(server).upload_file(b"words", name="talk.mp3")
    (file,) = server.files.values()
    assert file["state"] == "ACTIVE"


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.layer.value)
async def test_a_file_that_cannot_be_processed_says_why(
    server: GeminiServer, layer: type[ChunkedUploader]
) -> None:
    """The service's reason is the error, and the useless file is deleted."""
    server.processing, server.failure = 1, "The codec is not supported."
    uploader = layer(server.destination, api_key=KEY, history=False)
    with pytest.raises(RemoteRejected, match="codec is not supported"):
        await uploader.upload_file(b"words", name="talk.mp3")
    assert server.files == {}


async def test_waiting_for_a_file_has_a_limit(server: GeminiServer) -> None:
    """A file that never becomes active is an error that says where it is."""
    server.processing = 1000
    destination = f"{server.destination}&processing_timeout=500ms"
    uploader = ChunkedUploader(destination, api_key=KEY, history=False)
    with pytest.raises(RemoteRejected, match="still processes"):
        await uploader.upload_file(b"words", name="talk.mp3")


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.layer.value)
@pytest.mark.parametrize("chunks", [1, 3])
async def test_a_different_digest_fails_loudly(
    server: GeminiServer, layer: type[ChunkedUploader], chunks: int
) -> None:
    """A file that was stored wrong is an error in every layer, and is deleted."""
    server.faults.corrupt = True
    uploader = layer(
        server.destination,
        api_key=KEY,
        chunk_size=GRANULARITY,
        retry=QUICK,
        history=False,
    )
    with pytest.raises(IntegrityError, match="digest"):
        await uploader.upload_file(_data(chunks * GRANULARITY))
    assert server.files == {}


async def test_a_spoilt_file_is_uploaded_anew(
    server: GeminiServer, tmp_path: Path
) -> None:
    """After a wrong digest, the same session starts over and succeeds."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(_data(2 * GRANULARITY))
    server.faults.corrupt = True
    with pytest.raises(IntegrityError):
        await _resumable(server).upload_file(path)
    server.faults.corrupt = False
    result = await _resumable(server).upload_file(path)
    assert result.verified is Verification.SHA256
    assert _only_content(server) == path.read_bytes()


async def test_a_digest_in_plain_base64_is_understood(server: GeminiServer) -> None:
    """Should the service write digests as the reference says, they compare too."""
    server.raw_digest = True
    result = await _chunked(server).upload_file(b"words")
    assert result.verified is Verification.SHA256


def test_a_digest_as_the_service_writes_it() -> None:
    """The service's own example, from an issue of Google's client, is read."""
    field = (
        "MTgzNjUwZTJkZWY2MzcxMmRlNzg1YjY0MTk3MzIzNWIx"
        "ZDhjNzIxMjM0NGIwYjM2Y2E2OTcyYmZiNmUxNWE4ZQ=="
    )
    digest = decode_sha256(field)
    assert digest is not None
    assert digest.startswith("183650e2def63712de785b64")
    assert decode_sha256(None) is None
    with pytest.raises(RemoteRejected):
        decode_sha256("no digest")


async def test_a_wrong_key_is_told_before_a_byte_is_sent(server: GeminiServer) -> None:
    """A wrong key is a typed error that says what to check and not what it is."""
    uploader = ChunkedUploader(server.destination, api_key="wrong-key", history=False)
    with pytest.raises(AuthenticationFailed, match="Check the API key") as caught:
        await uploader.upload_file(b"words")
    assert "wrong-key" not in str(caught.value)
    assert server.bytes_in == 0


async def test_a_key_that_the_service_quotes_is_not_shown(
    server: GeminiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The service quotes a suspended key; neither error, event nor log does."""
    caplog.set_level(logging.DEBUG)
    server.faults.suspended = True
    uploader = _chunked(server)
    async with uploader:
        transfer = uploader.start(b"words")
        events = [event async for event in transfer]
        with pytest.raises(AuthenticationFailed, match="suspended") as caught:
            await transfer
    assert KEY not in str(caught.value)
    assert KEY not in repr(events)
    assert KEY not in caplog.text


async def test_retries_show_neither_key_nor_upload_url(
    server: GeminiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is said of a broken request does not give access to the upload."""
    caplog.set_level(logging.DEBUG)
    server.faults.cut_after = [1000]
    server.faults.statuses = [503]
    uploader = _chunked(server)
    async with uploader:
        transfer = uploader.start(_data(GRANULARITY))
        events = [event async for event in transfer]
    ours = [record for record in caplog.records if record.name.startswith("upload_kit")]
    told = repr(events) + repr([record.getMessage() for record in ours])
    assert ours
    assert sum(event.kind is EventKind.RETRYING for event in events) == 2
    assert KEY not in told
    (session,) = server.sessions.values()
    assert session.id not in told


@pytest.mark.parametrize("name", ["GOOGLE_API_KEY", "GEMINI_API_KEY"])
async def test_the_key_may_come_from_the_environment(
    server: GeminiServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either variable of Google's client will do, and so does its base URL."""
    monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    result = await ChunkedUploader("gemini://", history=False).upload_file(b"words")
    assert result.success


async def test_a_key_needs_no_destination(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API key alone means the Gemini Files API."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    result = await ResumableUploader(api_key=KEY, history=False).upload_file(b"words")
    assert result.success
    assert len(server.files) == 1


def test_without_a_key_nothing_works() -> None:
    """A missing key is told when the uploader is made, with where to put it."""
    with pytest.raises(ConfigurationError, match="GOOGLE_API_KEY or GEMINI_API_KEY"):
        ChunkedUploader("gemini://")
    with pytest.raises(ConfigurationError, match="no destination"):
        ChunkedUploader()
    with pytest.raises(ConfigurationError, match="not both"):
        ChunkedUploader("gemini://", api_key="one", token="another")


@pytest.mark.parametrize(
    "url",
    [
        "gemini://folder/",
        "gemini:///name",
        "gemini://?key=secret-in-url",
        "gemini://secret-in-url@",
        "gemini://?base_url=ftp://host",
        "gemini://?processing_timeout=soon",
    ],
)
def test_what_the_service_does_not_have_is_refused(url: str) -> None:
    """A URL that cannot mean anything is refused, and no secret in it is shown."""
    with pytest.raises(ConfigurationError) as caught:
        make_destination(url, ConnectionOptions(token=Secret(KEY)))
    assert "secret-in-url" not in str(caught.value)


async def test_a_buffer_is_not_used_again_after_a_break(server: GeminiServer) -> None:
    """What a broken connection may still send must not become another chunk's bytes."""
    server.granularity = MIB
    uploader = _chunked(server)
    async with uploader:
        pool = uploader._resources.acquire().pool
        server.faults.cut_after = [1000]
        await uploader.upload_file(_data(MIB))
        assert not any(pool._free.values())
        await uploader.upload_file(_data(MIB))
        assert any(pool._free.values())
        await uploader._resources.release()


async def test_many_files_go_side_by_side(server: GeminiServer) -> None:
    """Files are sent in parallel, each one in order, after one negotiation."""
    uploader = ParallelUploader(
        server.destination,
        api_key=KEY,
        chunk_size=GRANULARITY,
        max_parallel=4,
        history=False,
    )
    files = {f"{index}.txt": _data(index * GRANULARITY // 2) for index in range(1, 9)}
    results = await uploader.upload_files(files)
    assert all(result.verified is Verification.SHA256 for result in results)
    by_name = {
        file["displayName"]: server.contents[name]
        for name, file in server.files.items()
    }
    assert by_name == files
    assert server.count("start") == len(files)
    assert 1 < server.most_at_once <= 4


async def test_a_cancelled_upload_is_cancelled_there(server: GeminiServer) -> None:
    """An upload that nobody will go on with is cancelled at the service."""
    uploader = _chunked(server)
    async with uploader:
        transfer = uploader.start(_data(8 * GRANULARITY))
        await _cancel_after(transfer, 2)
    (session,) = server.sessions.values()
    assert session.status == "cancelled"
    assert server.files == {}


async def test_a_file_is_deleted_when_cancelled_while_processed(
    server: GeminiServer,
) -> None:
    """Cancelling while the service processes the file deletes it."""
    server.processing = 1000
    uploader = _chunked(server)
    async with uploader:
        transfer = uploader.start(b"words", name="talk.mp3")
        await _cancel_after(transfer, 1)
    assert server.count("upload, finalize") == 1
    assert server.files == {}


async def test_an_expired_session_is_cleared_up(
    server: GeminiServer, tmp_path: Path
) -> None:
    """Cleaning up expired sessions cancels their uploads at the service."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(_data(8 * GRANULARITY))
    uploader = _resumable(server, session_ttl=2.0, bandwidth_limit=4 * MIB)
    async with uploader:
        await _cancel_after(uploader.start(path), 2)
        removed: tuple[str, ...] = ()
        while not removed:
            removed = (await uploader.cleanup()).removed
    (session,) = server.sessions.values()
    assert session.status == "cancelled"


async def test_bytes_are_not_sent_without_tls_when_the_service_has_it() -> None:
    """A service behind TLS cannot make us send bytes in the clear."""
    wire = Wire(ConnectionOptions())
    api = GeminiApi(wire, "https://service", Secret(KEY))
    headers = CIMultiDict({"X-Goog-Upload-URL": "http://elsewhere/?upload_id=1"})
    reply = Reply(
        method="POST",
        raw_url="https://service/",
        status=200,
        headers=CIMultiDictProxy(headers),
        body=b"",
    )
    with pytest.raises(RemoteRejected, match="TLS"):
        api._ticket(reply, "files/name")
    await api.aclose()


async def test_a_service_that_is_not_there_is_told() -> None:
    """A refused connection is a typed error after a few tries."""
    uploader = ChunkedUploader(
        "gemini://?base_url=http://127.0.0.1:9", api_key=KEY, retry=QUICK, history=False
    )
    with pytest.raises(RemoteUnavailable):
        await uploader.upload_file(b"words")
