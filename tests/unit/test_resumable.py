"""The polish layer: sessions, limits, compression, proof; each for itself."""

from __future__ import annotations

import asyncio
import hashlib
import random
import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from upload_kit import (
    BandwidthThrottle,
    ConfigurationError,
    RemoteRejected,
    RemoteUnavailable,
    ResumableUploader,
    RetryPolicy,
    SessionConflict,
    SessionExpired,
    SessionNotFound,
    SourceChanged,
    SourceError,
    UploadStatus,
    Verification,
)
from upload_kit.sessions.history import History
from upload_kit.sessions.places import open_store
from upload_kit.units import MB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from upload_kit.sessions.history import HistoryRow

    Make = Callable[..., ResumableUploader]

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 200_000
COUNT: Final = 8
DATA: Final = random.Random(12).randbytes(COUNT * CHUNK - 3)
AT_ONCE: Final = RetryPolicy(base_delay=0.0, attempts=2)
TEXT: Final = b"time,place,value\n2026-11-23,here,1.25\n" * 60_000


@pytest.fixture
async def server() -> AsyncIterator[KnobServer]:
    async with KnobServer() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where sessions are kept."""
    return tmp_path / "sessions"


@pytest.fixture
def make(place: Path, server: KnobServer) -> Make:
    """Return what makes uploaders that share their sessions."""

    def make(url: str = "", **options: Any) -> ResumableUploader:
        settings: dict[str, Any] = {
            "chunk_size": CHUNK,
            "retry": AT_ONCE,
            "history": False,
            "max_parallel": 1,
            "compression": "off",
            "session_dir": place,
            **options,
        }
        return ResumableUploader(url or server.url, **settings)

    return make


async def break_at(
    server: KnobServer, up: ResumableUploader, path: Path, n: int
) -> str:
    """Let an upload fail at chunk `n`; return its session."""
    server.fault(Step.CHUNK, Fault(refuse=413, chunk=n))
    with pytest.raises(RemoteRejected) as raised:
        await up.upload_file(path)
    assert raised.value.session_id is not None
    return raised.value.session_id


async def expire(place: Path) -> None:
    """Let every session have ended a long time ago."""
    store = open_store(place)
    async for session in store.scan():
        await store.put(replace(session, expires_at=1.0), expected=session.version)
    await store.aclose()


def rights_in(folder: Path) -> dict[Path, int]:
    """Return what sessions are kept in, and who may do what with it."""
    found = [*folder.glob("sessions*"), *folder.glob("sessions/**/*")]
    return {path: stat.S_IMODE(path.stat().st_mode) for path in found}


def written(folder: Path) -> dict[Path, bytes]:
    """Return every file that was written."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class TestSessions:
    @pytest.fixture(params=["sessions", "sessions.db"], ids=["json", "sqlite"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """Both ways to keep them."""
        folder: Path = tmp_path / request.param
        return folder

    async def test_upload_that_succeeds_leaves_no_session(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The file is proven whole, and there is nothing to go on with."""
        up = make()
        result = await up.upload_file(path)
        assert server.published["big.bin"] == DATA
        assert result.verified is Verification.SHA256
        assert result.sha256 == hashlib.sha256(DATA).hexdigest()
        assert result.session_id is not None
        assert await up.sessions() == []

    async def test_upload_that_fails_leaves_one(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """With what arrived, why it ended, and how to go on; the error names it."""
        up = make()
        session_id = await break_at(server, up, path, 3)
        (session,) = await up.sessions()
        assert session.session_id == session_id
        assert (session.name, session.source) == ("big.bin", str(path))
        assert (session.chunks_completed, session.total_chunks) == (3, COUNT)
        assert (session.bytes_completed, session.size) == (3 * CHUNK, len(DATA))
        assert session.status is UploadStatus.FAILED
        assert session.error is not None
        assert "413" in session.error
        assert session.lease_owner is None
        assert len(server.uploads) == 1

    async def test_upload_that_is_refused_at_once_leaves_none(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """There is nothing to go on with, so nobody is told to; made ones stay."""
        server.fault(Step.BEGIN, Fault(refuse=413, times=3))
        up = make()
        [result] = await up.upload_files([path])
        assert (result.success, result.session_id) == (False, None)
        with pytest.raises(RemoteRejected) as raised:
            await up.upload_file(path)
        assert raised.value.session_id is None
        assert await up.sessions() == []
        mine = await up.create_session(path)
        with pytest.raises(RemoteRejected):
            await up.upload_file_resumable(path, mine.session_id)
        assert [one.session_id for one in await up.sessions()] == [mine.session_id]

    async def test_same_file_again_goes_on(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """Found by its path and looks; only the missing chunks travel."""
        await break_at(server, make(), path, 3)
        result = await make().upload_file(path)
        assert result.bytes_resumed == 3 * CHUNK
        assert result.bytes_sent == len(DATA) - 3 * CHUNK
        assert server.count(Step.BEGIN) == 2
        assert [server.count(Step.CHUNK, n) for n in range(COUNT)] == [1, 1, 1, 2] + (
            [1] * 4
        )
        assert server.published["big.bin"] == DATA

    @pytest.mark.parametrize("changes", [{"chunk_size": 3 * CHUNK}, {"chunk_size": 7}])
    async def test_plan_of_the_session_wins(
        self, server: KnobServer, make: Make, path: Path, changes: dict[str, Any]
    ) -> None:
        """Another chunk size now does not move chunks that are there."""
        await break_at(server, make(), path, 3)
        result = await make(**changes).upload_file(path)
        assert [chunk.size for chunk in result.chunks] == [CHUNK] * 7 + [CHUNK - 3]
        assert result.bytes_resumed == 3 * CHUNK
        assert server.published["big.bin"] == DATA

    async def test_session_made_before_a_byte_is_sent(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """And used by its ID."""
        up = make()
        session = await up.create_session(path, metadata={"run": "7"})
        assert (session.total_chunks, session.chunks_completed) == (COUNT, 0)
        assert session.chunk_size == CHUNK
        assert session.metadata == {"run": "7"}
        assert session.expires_at is not None
        assert server.uploads == {}
        result = await up.upload_file_resumable(path, session.session_id)
        assert result.session_id == session.session_id
        assert server.published["big.bin"] == DATA

    async def test_resumed_by_its_id_alone(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The session knows the path, the name and the type."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=2))
        with pytest.raises(RemoteRejected) as raised:
            await make().upload_file(path, name="other.csv", content_type="x/y")
        assert raised.value.session_id is not None
        result = await make().resume(raised.value.session_id)
        assert (result.name, result.bytes_resumed) == ("other.csv", 2 * CHUNK)
        (upload,) = server.uploads.values()
        assert (upload.name, upload.content_type) == ("other.csv", "x/y")

    async def test_bytes_in_memory_are_resumed_with_the_same_bytes(
        self, server: KnobServer, make: Make
    ) -> None:
        """There is no path to find them by: the ID says which."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=2))
        with pytest.raises(RemoteRejected) as raised:
            await make().upload_file(DATA)
        session_id = raised.value.session_id
        assert session_id is not None
        with pytest.raises(SourceError, match="upload_file_resumable"):
            await make().resume(session_id)
        result = await make().upload_file_resumable(DATA, session_id)
        assert result.bytes_resumed == 2 * CHUNK

    async def test_other_bytes_under_the_same_id(
        self, server: KnobServer, make: Make
    ) -> None:
        """Half of one and half of the other is never made one file."""
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=2))
        with pytest.raises(RemoteRejected) as raised:
            await make().upload_file(DATA)
        other = bytes([DATA[0] ^ 1]) + DATA[1:]
        for wrong in (other, DATA[:-1]):
            with pytest.raises(SourceChanged):
                await make().upload_file_resumable(wrong, raised.value.session_id or "")
        assert server.published == {}

    async def test_file_that_changed_begins_anew(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """Its old session stays for its cleanup; by its ID it is refused."""
        session_id = await break_at(server, make(), path, 3)
        rewrite(path, DATA[::-1])
        with pytest.raises(SourceChanged) as raised:
            await make().upload_file_resumable(path, session_id)
        assert raised.value.session_id == session_id
        result = await make().upload_file(path)
        assert result.bytes_resumed == 0
        assert server.published["big.bin"] == DATA[::-1]

    @pytest.mark.parametrize("session_id", ["0" * 32, "f" * 32])
    async def test_session_that_is_not_there(
        self, make: Make, path: Path, session_id: str
    ) -> None:
        """It was completed, removed, or never made."""
        for call in (make().upload_file_resumable(path, session_id),):
            with pytest.raises(SessionNotFound, match=session_id):
                await call
        with pytest.raises(SessionNotFound):
            await make().resume(session_id)

    @pytest.mark.parametrize("session_id", ["", "../../etc/passwd", "x" * 32, "\0"])
    async def test_session_id_that_is_none(
        self, make: Make, path: Path, session_id: str
    ) -> None:
        """It never becomes a path."""
        with pytest.raises(ConfigurationError, match="Not a session ID"):
            await make().upload_file_resumable(path, session_id)

    async def test_session_of_another_destination(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The error names both."""
        session_id = await break_at(server, make(), path, 3)
        with pytest.raises(ConfigurationError, match="memory://elsewhere/"):
            await make("memory://elsewhere/").upload_file_resumable(path, session_id)

    async def test_expired_session(
        self, server: KnobServer, make: Make, path: Path, place: Path
    ) -> None:
        """By its ID it is refused; otherwise the upload begins anew."""
        session_id = await break_at(server, make(), path, 3)
        await expire(place)
        with pytest.raises(SessionExpired, match="expired at"):
            await make().upload_file_resumable(path, session_id)
        result = await make().upload_file(path)
        assert result.bytes_resumed == 0
        assert server.published["big.bin"] == DATA

    async def test_stream_has_no_session(self, server: KnobServer, make: Make) -> None:
        """What can be read only once cannot be resumed; it still uploads."""

        async def pieces() -> AsyncIterator[bytes]:
            yield DATA

        with pytest.raises(SourceError, match="only once"):
            await make().create_session(pieces())
        result = await make().upload_file(pieces(), name="a")
        assert result.session_id is None
        assert server.published["a"] == DATA

    async def test_two_at_once_on_one_session(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The second is told who works on it; the first goes on."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=2))
        first = make().start(path)
        await server.until(lambda: server.count(Step.CHUNK, 2) == 1)
        assert first.session_id is not None
        with pytest.raises(SessionConflict, match="in use by process"):
            await make().upload_file_resumable(path, first.session_id)
        gate.set()
        assert (await first).success
        assert server.peak_chunks == 1

    @pytest.mark.parametrize("ending", ["cancel", "interrupt"])
    async def test_stopped_by_somebody(
        self, server: KnobServer, make: Make, path: Path, ending: str
    ) -> None:
        """What arrived stays there, and the session says what it was."""
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, chunk=4))
        up = make()
        transfer = up.start(path)
        await server.until(lambda: server.count(Step.CHUNK, 4) == 1)
        getattr(transfer, ending)()
        with pytest.raises(Exception, match="cancelled"):
            await transfer
        gate.set()
        (session,) = await up.sessions()
        status = {"cancel": "cancelled", "interrupt": "paused"}[ending]
        assert session.status == status
        assert session.chunks_completed == 4
        result = await up.upload_file(path)
        assert result.bytes_resumed >= 4 * CHUNK

    async def test_session_files_are_private(
        self, server: KnobServer, make: Make, path: Path, tmp_path: Path
    ) -> None:
        """They hold what gives access to a half-done upload."""
        await break_at(server, make(), path, 1)
        rights = rights_in(tmp_path)
        assert rights
        assert [path for path, right in rights.items() if right & 0o077] == []


class TestRemoteIsTheTruth:
    async def test_upload_that_expired_there_begins_anew(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The session stays, with another upload behind it."""
        session_id = await break_at(server, make(), path, 3)
        server.uploads.clear()
        result = await make().upload_file_resumable(path, session_id)
        assert (result.session_id, result.bytes_resumed) == (session_id, 0)
        assert server.published["big.bin"] == DATA

    async def test_upload_that_expires_in_the_middle(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """All is sent again, once, and the sums agree."""
        server.fault(Step.CHUNK, Fault(forget=True, chunk=5))
        transfer = make().start(path)
        result = await transfer
        assert server.published["big.bin"] == DATA
        state = transfer.progress
        assert state.sent == state.confirmed == state.total == len(DATA)
        assert (state.chunks_confirmed, result.bytes_resumed) == (COUNT, 0)

    async def test_chunk_that_is_lost_there_is_sent_again(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The session remembers it; the server does not."""
        await break_at(server, make(), path, 4)
        (upload,) = server.uploads.values()
        del upload.parts[1]
        result = await make().upload_file(path)
        assert result.bytes_resumed == 3 * CHUNK
        assert server.published["big.bin"] == DATA

    async def test_chunk_that_is_lost_before_the_end(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """The server misses it when all should be there: it gets it again."""
        server.fault(Step.COMPLETE, Fault(drop_chunk=2))
        await make().upload_file(path)
        assert server.count(Step.CHUNK, 2) == 2
        assert server.published["big.bin"] == DATA

    async def test_server_that_lies_about_what_it_holds(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """A digest that differs from the one it acknowledged: sent once more."""
        await break_at(server, make(), path, 2)
        lie = [{"index": 0, "start": 0, "size": CHUNK, "sha256": "0" * 64}]
        server.fault(Step.STATUS, Fault(change={"chunks": lie}))
        result = await make().upload_file(path)
        assert server.published["big.bin"] == DATA
        assert result.verified is Verification.SHA256

    @pytest.mark.parametrize(
        "chunk",
        [
            {"index": 99, "start": 0, "size": CHUNK, "sha256": "0" * 64},
            {"index": 0, "start": 0, "size": 5, "sha256": "0" * 64},
        ],
        ids=["beyond-the-end", "another-size"],
    )
    async def test_server_that_holds_what_cannot_be(
        self, server: KnobServer, make: Make, path: Path, chunk: dict[str, Any]
    ) -> None:
        """It is not believed, and no harm is done."""
        await break_at(server, make(), path, 0)
        server.fault(Step.STATUS, Fault(change={"chunks": [chunk]}))
        result = await make().upload_file(path)
        assert result.bytes_resumed == 0
        assert server.published["big.bin"] == DATA

    @pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b"\xff"])
    async def test_server_that_says_nonsense_of_what_it_holds(
        self, server: KnobServer, make: Make, path: Path, body: bytes
    ) -> None:
        """It is not the server that it was; the session waits for that one."""
        session_id = await break_at(server, make(), path, 3)
        server.fault(Step.STATUS, Fault(body=body, times=1))
        with pytest.raises(RemoteRejected) as raised:
            await make().upload_file(path)
        assert raised.value.session_id == session_id
        assert (await make().upload_file(path)).bytes_resumed == 3 * CHUNK

    async def test_server_that_never_says_what_it_holds(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """Waiting for that has a limit, and the session is still good afterwards."""
        session_id = await break_at(server, make(), path, 3)
        server.fault(Step.STATUS, Fault(act_and_stall=True, times=2))
        up = make(response_timeout=0.2)
        with pytest.raises(RemoteUnavailable, match="no answer in time") as raised:
            await up.upload_file(path)
        assert raised.value.session_id == session_id
        assert (await make().upload_file(path)).bytes_resumed == 3 * CHUNK

    async def test_reply_to_the_end_that_was_lost(
        self, server: KnobServer, make: Make, path: Path
    ) -> None:
        """It was published: the next run finds that out and sends nothing."""
        server.fault(Step.COMPLETE, Fault(act_and_cut=True, times=2))
        with pytest.raises(RemoteUnavailable):
            await make().upload_file(path)
        assert server.published["big.bin"] == DATA
        result = await make().upload_file(path)
        assert (result.success, result.bytes_resumed) == (True, len(DATA))
        assert server.count(Step.CHUNK) == COUNT


class TestCleanup:
    async def test_expired_session_is_removed_on_both_sides(
        self, server: KnobServer, make: Make, path: Path, place: Path
    ) -> None:
        """Others stay."""
        expired = await break_at(server, make(), path, 2)
        await expire(place)
        other = path.with_name("other.bin")
        rewrite(other, DATA)
        kept = await break_at(server, make(), other, 2)
        report = await make().cleanup()
        assert report.removed == (expired,)
        assert [session.session_id for session in await make().sessions()] == [kept]
        assert [upload.name for upload in server.uploads.values()] == ["other.bin"]

    async def test_expired_session_of_another_destination(
        self, server: KnobServer, make: Make, path: Path, place: Path
    ) -> None:
        """It is removed here; its server is not ours to ask."""
        expired = await break_at(server, make(), path, 2)
        await expire(place)
        report = await make("memory://elsewhere/").cleanup()
        assert report.removed == (expired,)
        assert len(server.uploads) == 1

    async def test_context_cleans_up_by_itself(
        self, server: KnobServer, make: Make, path: Path, place: Path
    ) -> None:
        """As long as it lasts, and not after it."""
        await break_at(server, make(), path, 2)
        await expire(place)
        async with make(cleanup_interval=0.05):
            await server.until(lambda: server.count(Step.ABORT) == 1)
        assert server.uploads == {}

    async def test_server_that_is_away_keeps_the_session_for_later(
        self, server: KnobServer, make: Make, path: Path, place: Path
    ) -> None:
        """Or not; but the cleanup itself never fails."""
        await break_at(server, make(), path, 2)
        await expire(place)
        server.fault(Step.ABORT, Fault(refuse=503, times=None))
        await make().cleanup()


class TestCompression:
    @pytest.mark.parametrize("coding", ["gzip", "zstd"])
    async def test_chunks_travel_coded_and_arrive_plain(
        self, server: KnobServer, make: Make, coding: str
    ) -> None:
        """Fewer bytes on the wire; digests are those of the file."""
        result = await make(compression=coding).upload_file(TEXT, name="a")
        assert server.published["a"] == TEXT
        codings = {s.headers["Content-Encoding"] for s in server.requests(Step.CHUNK)}
        assert codings == {coding}
        assert result.bytes_sent < len(TEXT) / 3
        assert result.size == len(TEXT)
        assert result.sha256 == hashlib.sha256(TEXT).hexdigest()
        received = sum(seen.received for seen in server.requests(Step.CHUNK))
        assert received == result.bytes_sent

    @pytest.mark.parametrize("wanted", ["off", "auto", "gzip", "zstd"])
    async def test_noise_travels_as_it_is(
        self, server: KnobServer, make: Make, wanted: str
    ) -> None:
        """What does not shrink is not coded, even if that was asked for."""
        result = await make(compression=wanted).upload_file(DATA, name="a")
        assert result.bytes_sent == len(DATA)
        for seen in server.requests(Step.CHUNK):
            assert "Content-Encoding" not in seen.headers

    async def test_text_on_a_slow_link_is_coded_by_itself(
        self, server: KnobServer, make: Make
    ) -> None:
        """The first chunk measures the link, the others profit."""
        server.fault(Step.CHUNK, Fault(rate=2_000_000.0, times=None))
        result = await make(compression="auto").upload_file(TEXT, name="a")
        codings = [
            s.headers.get("Content-Encoding") for s in server.requests(Step.CHUNK)
        ]
        assert codings[0] is None
        assert set(codings[2:]) == {"zstd"}
        assert result.bytes_sent < len(TEXT) / 2
        assert server.published["a"] == TEXT

    async def test_server_that_knows_no_coding(self, make: Make) -> None:
        """It gets plain chunks."""
        async with KnobServer(encodings=[]) as server:
            result = await make(server.url, compression="zstd").upload_file(TEXT)
            assert result.bytes_sent == len(TEXT)

    async def test_coded_chunk_that_fails_is_sent_again(
        self, server: KnobServer, make: Make
    ) -> None:
        """The counts of the file agree at the end."""
        server.fault(Step.CHUNK, Fault(cut_after=1000, chunk=1))
        transfer = make(compression="zstd").start(TEXT, name="a")
        await transfer
        state = transfer.progress
        assert state.sent == state.confirmed == state.total == len(TEXT)
        assert server.published["a"] == TEXT

    def test_coding_that_nobody_knows(self, make: Make) -> None:
        """A typed error that names those that are known."""
        with pytest.raises(ConfigurationError, match=r"lz4.*zstd"):
            make(compression="lz4")


class TestBandwidth:
    async def test_limit_is_held(self, server: KnobServer, make: Make) -> None:
        """No faster, over all lanes; what it costs is shown by the benchmark."""
        up = make(bandwidth_limit=4 * MB, max_parallel=3)
        started = time.monotonic()
        result = await up.upload_file(DATA, name="a")
        assert time.monotonic() - started >= len(DATA) / (4 * MB) * 0.97
        assert result.retries == 0
        assert server.published["a"] == DATA

    async def test_limit_changes_while_bytes_move(
        self, server: KnobServer, make: Make
    ) -> None:
        """An upload that would take a minute ends at once when it may."""
        up = make(bandwidth_limit=len(DATA) / 60)
        transfer = up.start(DATA)
        await server.until(lambda: server.open_chunks == 1)
        assert up.bandwidth_limit == len(DATA) / 60
        up.bandwidth_limit = None
        await asyncio.wait_for(asyncio.shield(transfer.task), 10)
        assert transfer.result().success

    async def test_limit_is_shared(self, server: KnobServer, make: Make) -> None:
        """Two uploaders that were given one throttle share its rate."""
        throttle = BandwidthThrottle(6 * MB)
        ups = [make(throttle=throttle), make(throttle=throttle)]
        started = time.monotonic()
        await asyncio.gather(*(up.upload_file(DATA) for up in ups))
        assert time.monotonic() - started >= 2 * len(DATA) / (6 * MB) * 0.97

    async def test_very_slow_limit_is_no_stall(
        self, server: KnobServer, make: Make
    ) -> None:
        """Waiting for leave is our own doing: nothing is tried again."""
        up = make(bandwidth_limit=500_000.0, stall_timeout=0.1, chunk_size=CHUNK)
        result = await up.upload_file(DATA[: 3 * CHUNK], name="a")
        assert result.retries == 0

    async def test_cancelled_while_it_waits(
        self, server: KnobServer, make: Make
    ) -> None:
        """The throttle gives its turn to the next."""
        throttle = BandwidthThrottle(1000.0)
        task = asyncio.create_task(make(throttle=throttle).upload_file(DATA))
        await server.until(lambda: server.count(Step.BEGIN) == 1)
        for _ in range(200):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        throttle.rate = None
        await asyncio.wait_for(throttle.take(10**9), 5)

    @pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
    def test_limit_of_nothing(self, make: Make, limit: float) -> None:
        """No limit is None."""
        with pytest.raises(ConfigurationError):
            make(bandwidth_limit=limit)


class TestHistory:
    async def rows(self, file: Path) -> list[HistoryRow]:
        history = History(file)
        try:
            return list(await history.rows())
        finally:
            await history.aclose()

    async def test_every_upload_has_a_row(
        self, server: KnobServer, make: Make, path: Path, tmp_path: Path
    ) -> None:
        """Done, failed, cancelled, small: what, where, how much, why not."""
        file = tmp_path / "history.db"
        server.fault(Step.CHUNK, Fault(refuse=503, chunk=1))
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=3))
        up = make(history=file)
        with pytest.raises(RemoteRejected):
            await up.upload_file(path)
        await up.upload_file(path)
        await up.upload_file(b"1", name="small")
        failed, done, small = sorted(
            await self.rows(file), key=lambda row: row.started_at
        )
        assert (failed.status, failed.error_type) == ("failed", "RemoteRejected")
        assert failed.retry_causes == {"RemoteUnavailable": 1}
        assert (failed.source, failed.destination) == (str(path), server.url)
        assert (done.status, done.verified, done.size) == (
            "complete",
            "sha256",
            len(DATA),
        )
        assert done.bytes_resumed == 3 * CHUNK
        assert done.session_id == failed.session_id
        assert (small.name, small.source, small.size) == ("small", None, 1)
        assert done.rtt is not None

    async def test_history_is_kept_beside_the_sessions(
        self, make: Make, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder for sessions has the history too; other places have none in it."""
        monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "usual"))
        for place in (tmp_path / "own", "memory:", tmp_path / "own" / "sessions.db"):
            up = make(history=True, session_dir=place)
            await up.upload_file(path)
        assert len(await self.rows(tmp_path / "own" / "history.db")) == 1
        assert len(await self.rows(tmp_path / "usual" / "history.db")) == 2

    async def test_compression_is_told(
        self, server: KnobServer, make: Make, tmp_path: Path
    ) -> None:
        """The ratio over coded chunks."""
        file = tmp_path / "history.db"
        await make(history=file, compression="zstd").upload_file(TEXT)
        (row,) = await self.rows(file)
        assert row.compression_ratio is not None
        assert 0 < row.compression_ratio < 0.5
        assert row.bytes_sent < len(TEXT)

    async def test_secrets_are_in_no_file(
        self, server: KnobServer, make: Make, path: Path, tmp_path: Path
    ) -> None:
        """Neither a password nor a signature nor a token is written down."""
        secret = "s3cr3t"
        url = server.url.replace("//", f"//user:{secret}@") + f"?sig={secret}"
        server.fault(Step.CHUNK, Fault(refuse=413, chunk=3))
        up = make(url, history=tmp_path / "history.db", headers={"X-Key": secret})
        with pytest.raises(RemoteRejected) as raised:
            await up.upload_file(path)
        assert secret not in f"{raised.value}{raised.value!r}{raised.value.__cause__!r}"
        files = written(tmp_path)
        assert len(files) >= 2
        assert [path for path in files if secret.encode() in files[path]] == []

    async def test_history_that_cannot_be_written_fails_no_upload(
        self, server: KnobServer, make: Make, path: Path, tmp_path: Path
    ) -> None:
        """A broken file of rows is no reason to lose a file of data."""
        file = tmp_path / "history.db"
        file.write_bytes(b"this is no database" * 100)
        result = await make(history=file).upload_file(path)
        assert result.success


async def test_sessions_that_are_kept_tell_what_arrived(
    make: Make, path: Path, tmp_path: Path
) -> None:
    """With `keep_sessions` every file has a session, small or large, and keeps it."""
    (tmp_path / "small.bin").write_bytes(b"x")
    up = make(keep_sessions=True)
    done = [await up.upload_file(one) for one in (path, tmp_path / "small.bin")]
    left = {session.session_id: session for session in await up.sessions()}
    assert left.keys() == {one.session_id for one in done}
    for one in done:
        session = left[str(one.session_id)]
        assert session.status is UploadStatus.COMPLETE
        assert session.verified is Verification.SHA256
        assert session.stored is not None
        assert (session.stored.location, session.stored.size) == (
            one.location,
            one.size,
        )
    # What is complete is not gone on with: the same file again is another upload.
    again = await up.upload_file(path)
    assert again.session_id not in left
    # Whoever does not ask for them is shown what is unfinished, and nothing is.
    assert await make().sessions() == []
