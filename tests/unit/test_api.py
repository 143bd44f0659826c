"""Uploads from plain code: started, watched, waited for, looked up afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from upload_kit.api.gathering import gather
from upload_kit.api.jobs import jobs
from upload_kit.api.lookup import history, sessions
from upload_kit.api.samples import Recording
from upload_kit.api.serving import serve
from upload_kit.api.starting import (
    resume,
    start,
    start_many,
    upload,
    upload_many,
)
from upload_kit.bridge import bridge
from upload_kit.config import RetryPolicy
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    RemoteUnavailable,
    SessionConflict,
    SessionNotFound,
    SourceError,
    UploadCancelled,
    UploadKitError,
)
from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import UploadProgress, UploadStatus, Verification

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upload_kit.api.jobs import Job
    from upload_kit.api.serving import EmbeddedServer

QUICK = RetryPolicy(attempts=2, base_delay=0.01)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = tmp_path / "state"
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(state))
    return state


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with serve(tmp_path / "store") as server:
        yield server


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(3_000_000))
    return path


def stored(tmp_path: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (tmp_path / "store").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def wait_until_confirmed(job: Job[object], size: int) -> None:
    """Wait for the event that says so; the test's own time limit applies."""

    async def watch() -> None:
        feed = job.subscribe()
        if job.progress.confirmed >= size:
            return
        async for event in feed:
            if event.progress.confirmed >= size:
                return

    asyncio.run(watch())


def test_upload_returns_the_result(
    server: EmbeddedServer, big: Path, tmp_path: Path
) -> None:
    """One call uploads, waits and proves."""
    result = upload(big, server.url)
    assert result.success
    assert result.verified is Verification.SHA256
    assert stored(tmp_path)["big.bin"] == big.read_bytes()


@pytest.mark.parametrize("layer", ["foundation", "feature", "polish"])
def test_each_layer_can_be_chosen(
    server: EmbeddedServer, big: Path, tmp_path: Path, layer: str
) -> None:
    """The layer is a word."""
    assert upload(big, server.url, layer=layer, chunk_size="1MB").success
    assert stored(tmp_path)["big.bin"] == big.read_bytes()
    assert [row.layer for row in history()] == [layer]


def test_start_returns_at_once(server: EmbeddedServer, big: Path) -> None:
    """The caller goes on while the upload runs."""
    job = start(big, server.url, chunk_size="200kB", limit="1MB/s")
    assert not job.done()
    assert jobs() == [job]
    assert job.progress.confirmed < 3_000_000
    job.cancel()
    with pytest.raises(UploadCancelled):
        job.result(10)
    assert jobs() == []


def test_a_job_can_be_awaited_in_another_loop(
    server: EmbeddedServer, big: Path
) -> None:
    """A notebook's cell awaits the job; its own loop is not the upload's."""

    async def cell() -> bool:
        job = start(big, server.url)
        return (await job).success

    assert asyncio.run(cell())


def test_a_cancelled_wait_leaves_the_upload_alone(
    server: EmbeddedServer, big: Path
) -> None:
    """Interrupting a cell that awaits the job ends the waiting only."""
    job = start(big, server.url, limit="2MB/s", chunk_size="500kB")

    async def cell() -> None:
        async with asyncio.timeout(0.3):
            await job

    with pytest.raises(TimeoutError):
        asyncio.run(cell())
    assert job.result(30).success


def test_result_can_give_up_waiting(server: EmbeddedServer, big: Path) -> None:
    """A timeout ends the waiting, not the upload."""
    job = start(big, server.url, limit="2MB/s", chunk_size="500kB")
    with pytest.raises(TimeoutError, match="is not done after"):
        job.result(0.1)
    assert job.result(30).success


def test_events_can_be_iterated_over(server: EmbeddedServer, big: Path) -> None:
    """Every chunk's confirmation comes through, and the last event is the end."""

    async def cell() -> list[UploadEvent]:
        return [event async for event in start(big, server.url, chunk_size="1MB")]

    events = asyncio.run(cell())
    assert sum(event.kind is EventKind.CONFIRMED for event in events) == 3
    assert events[-1].kind is EventKind.COMPLETED


def test_a_feed_of_a_finished_job_has_the_last_event(big: Path) -> None:
    """Who comes late hears how it ended, and does not wait for ever."""
    job = start(big, "memory://late/")
    job.result(30)

    async def read() -> list[EventKind]:
        return [event.kind async for event in job]

    assert asyncio.run(read()) == [EventKind.COMPLETED]


def test_pause_stops_and_resume_goes_on(server: EmbeddedServer, big: Path) -> None:
    """A paused job confirms nothing more until it goes on."""
    job = start(big, server.url, limit="3MB/s", chunk_size="100kB", parallel=1)
    wait_until_confirmed(job, 200_000)
    feed = job.subscribe()
    job.pause()

    async def paused() -> int:
        async for event in feed:
            if event.kind is EventKind.PAUSED:
                break
        before = job.progress.confirmed
        await asyncio.sleep(0.5)
        return job.progress.confirmed - before

    # What was on the wire when it was paused may still be confirmed.
    assert asyncio.run(paused()) <= 100_000
    assert job.progress.status is UploadStatus.PAUSED
    job.resume()
    assert job.result(30).success


def test_a_missing_file_fails_the_job_not_the_call(server: EmbeddedServer) -> None:
    """What goes wrong in the background is raised where it is waited for."""
    job = start("/no/such/file", server.url)
    with pytest.raises(SourceError, match="There is no file /no/such/file"):
        job.result(10)
    assert job.progress.status is UploadStatus.FAILED
    assert job.results[0].error_type == "SourceError"


def test_a_destination_that_refuses(server: EmbeddedServer, big: Path) -> None:
    """A refused connection says so, after few tries."""
    server.close()
    with pytest.raises(RemoteUnavailable):
        upload(big, server.url, retry=QUICK)


def test_a_wrong_token(tmp_path: Path, big: Path) -> None:
    """Neither the error nor the job shows the token."""
    with serve(tmp_path / "store", token="right:one") as server:
        with pytest.raises(AuthenticationFailed) as caught:
            upload(big, server.url, token="wrong-secret")
        assert upload(big, server.url, token="right:one").success
    assert "wrong-secret" not in repr(caught.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        pytest.param({"layer": "best"}, "no layer 'best'", id="unknown layer"),
        pytest.param({"chunksize": 5}, "chunk_size", id="misspelt keyword"),
        pytest.param({"limit": "fast"}, "Not a size", id="no rate"),
        pytest.param(
            {"layer": "feature", "limit": "1MB/s"}, "no limit=", id="not in this layer"
        ),
        pytest.param(
            {"layer": "foundation", "parallel": 3}, "no parallel=", id="one at a time"
        ),
    ],
)
def test_keywords_that_cannot_work(
    big: Path, keywords: dict[str, object], message: str
) -> None:
    """A wrong call is told at once, and says what to do."""
    with pytest.raises(ConfigurationError, match=message):
        start(big, "memory://x/", **keywords)  # type: ignore[arg-type] # wrong on purpose
    assert jobs() == []


def test_what_is_no_source(tmp_path: Path) -> None:
    """Something that cannot be uploaded is told at once."""
    with pytest.raises(ConfigurationError, match="Cannot upload a dict"):
        start({}, "memory://x/")  # type: ignore[arg-type] # wrong on purpose


def test_a_second_start_of_the_same_upload(server: EmbeddedServer, big: Path) -> None:
    """The second one fails and says why; the first one goes on."""
    first = start(big, server.url, limit="3MB/s", chunk_size="500kB")
    second = start(big, server.url)
    with pytest.raises(SessionConflict, match="on its way to"):
        second.result(10)
    assert first.result(30).success
    assert upload(big, server.url).success


def test_waiting_in_the_uploads_thread_is_refused(big: Path) -> None:
    """A callback that waits for its own upload would wait for ever."""

    async def waits() -> None:
        upload(big, "memory://x/")

    with pytest.raises(ConfigurationError, match="Await the job"):
        bridge.run(waits(), timeout=10)


def test_many_files_of_a_folder(server: EmbeddedServer, tmp_path: Path) -> None:
    """Every file of a folder arrives, and there is a result for each, in order."""
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    for index in range(20):
        (folder / f"{index:02}.bin").write_bytes(bytes([index]) * index)
    (folder / "deep" / "last.bin").write_bytes(b"last")
    results = upload_many(folder, server.url)
    assert [result.success for result in results] == [True] * 21
    assert results[-1].name == "deep/last.bin"
    assert {result.name.replace("/", "_") for result in results} <= set(
        stored(tmp_path)
    )


def test_many_files_one_of_which_fails(big: Path) -> None:
    """A file that fails stops no other, and says why."""
    job = start_many([big, "/no/such/file", b"bytes"], "memory://many/")
    results = job.result(30)
    assert [result.success for result in results] == [True, False, True]
    assert "no file" in (results[1].error or "")
    assert job.progress.status is UploadStatus.FAILED
    assert job.name == "3 files"


def test_many_files_can_be_cancelled(server: EmbeddedServer, tmp_path: Path) -> None:
    """Those under way end, those whose turn had not come never begin."""
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index}.bin").write_bytes(bytes(100_000))
    job = start_many(folder, server.url, limit="500kB/s", parallel=1)
    wait_until_confirmed(job, 100_000)
    job.cancel()
    results = job.result(20)
    assert len(results) == 40
    assert 0 < sum(result.success for result in results) < 40
    assert {r.error_type for r in results if not r.success} == {"UploadCancelled"}


def test_many_need_a_dictionary_for_names(big: Path) -> None:
    """One name for many files is a mistake."""
    with pytest.raises(ConfigurationError, match="dictionary"):
        start_many([big], "memory://x/", name="x")  # type: ignore[call-arg] # wrong on purpose
    results = upload_many({"a.bin": b"a", "b.bin": b"b"}, "memory://named/")
    assert [result.name for result in results] == ["a.bin", "b.bin"]


def test_nothing_to_upload_is_done(tmp_path: Path) -> None:
    """An empty list is no error: it is done."""
    assert upload_many([], "memory://x/") == []


class TestGather:
    def test_a_pattern_names_from_its_fixed_part(self, tmp_path: Path) -> None:
        """Files found by a pattern keep the path below the last plain folder."""
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "x.csv").write_text("x")
        (tmp_path / "a" / "y.csv").write_text("yy")
        found = gather(str(tmp_path / "a" / "**" / "*.csv"))
        assert {(one.name, one.size) for one in found} == {("b/x.csv", 1), ("y.csv", 2)}

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        """Two files of one name would overwrite each other."""
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "x").touch()
        with pytest.raises(ConfigurationError, match="both be called x"):
            gather([tmp_path / "a" / "x", tmp_path / "b" / "x"])

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        """A folder without files is a mistake."""
        with pytest.raises(SourceError, match="no files"):
            gather(tmp_path)

    def test_a_pattern_that_matches_nothing(self) -> None:
        """It is left for the upload to miss, like a path."""
        assert [one.source for one in gather("/no/*.such")] == ["/no/*.such"]


def test_cancelled_uploads_are_sessions(server: EmbeddedServer, big: Path) -> None:
    """What was cancelled can be gone on with when it is named, and only then."""
    job = start(big, server.url, limit="2MB/s", chunk_size="500kB", parallel=1)
    wait_until_confirmed(job, 500_000)
    job.cancel()
    with pytest.raises(UploadCancelled):
        job.result(10)
    [session] = sessions()
    assert session.status is UploadStatus.CANCELLED
    assert session.bytes_completed >= 500_000
    assert resume().result(10) == []
    [result] = resume(session.session_id[:8]).result(30)
    assert result.success
    assert result.bytes_resumed >= 500_000
    assert sessions() == []


def test_no_such_session() -> None:
    """An ID that no session has is told at once."""
    with pytest.raises(SessionNotFound):
        resume("abc")


def test_resume_after_the_process_was_killed(
    server: EmbeddedServer,
    big: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    A new process goes on where a killed one was, and the bytes are the same.

    The server takes a client that is gone for no failure of its own.
    """
    code = f"""
import sys
from upload_kit.api.starting import start
job = start({str(big)!r}, {server.url!r}, limit="1MB/s", chunk_size="200kB")
while job.progress.confirmed < 600_000:
    pass
print("now", flush=True)
job.result()
"""
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert victim.stdout is not None
    victim.stdout.readline()
    victim.kill()
    victim.communicate()
    [session] = sessions()
    assert session.bytes_completed >= 600_000
    [result] = resume().result(30)
    assert result.bytes_resumed >= 600_000
    digest = hashlib.sha256(big.read_bytes()).hexdigest()
    assert result.sha256 == digest
    assert hashlib.sha256(stored(tmp_path)["big.bin"]).hexdigest() == digest
    assert not [record for record in caplog.records if record.exc_info]


def test_a_program_that_ends_pauses_its_uploads(
    server: EmbeddedServer, big: Path
) -> None:
    """The end of a program is no cancellation: `resume` goes on by itself."""
    code = f"""
from upload_kit.api.starting import start
job = start({str(big)!r}, {server.url!r}, limit="1MB/s", chunk_size="200kB")
while job.progress.confirmed < 400_000:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "big.bin" in done.stderr
    assert "Traceback" not in done.stderr
    [session] = sessions()
    assert session.status is UploadStatus.PAUSED
    [result] = resume().result(30)
    assert result.success
    assert [row.status for row in history()] == ["cancelled", "complete"]


def test_an_interrupt_ends_the_waiting_only(server: EmbeddedServer, big: Path) -> None:
    """Ctrl-C in a wait says that the upload goes on, and how to end it."""
    code = f"""
import os, signal, threading, time
from upload_kit.api.jobs import WaitInterrupted, jobs
from upload_kit.api.starting import upload
def interrupt():
    for _ in range(1000):
        if jobs() and jobs()[0].progress.confirmed:
            break
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)
# Whoever runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
try:
    upload({str(big)!r}, {server.url!r}, limit="2MB/s", chunk_size="500kB")
except WaitInterrupted as error:
    print(error, error._render_traceback_() == [str(error)])
    print(jobs()[0].result().success)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert "goes on" in done.stdout
    assert done.stdout.endswith("True\nTrue\n")


def test_a_server_that_dies_in_mid_upload(tmp_path: Path, big: Path) -> None:
    """The upload fails with a reason; after the server is back it goes on."""
    server = serve(tmp_path / "store")
    job = start(
        big, server.url, limit="2MB/s", chunk_size="200kB", retry=QUICK, parallel=1
    )
    wait_until_confirmed(job, 400_000)
    server.close()
    with pytest.raises(UploadKitError) as caught:
        job.result(30)
    assert caught.value.session_id is not None
    with serve(tmp_path / "store", port=server.port):
        [result] = resume().result(30)
    assert result.bytes_resumed >= 400_000


def test_the_history_can_be_narrowed(big: Path) -> None:
    """By time, by how it ended, by layer and destination."""
    upload(big, "memory://a/")
    upload(big, "memory://b/", layer="feature")
    with pytest.raises(SourceError):
        upload("/no/such/file", "memory://a/")
    assert len(history()) == 3
    assert len(history(status="failed")) == 1
    assert [row.destination for row in history(layer="feature")] == ["memory://b/"]
    assert len(history(destination="memory://a/")) == 2
    assert len(history(limit=1)) == 1
    assert len(history(since="1h")) == 3
    assert len(history(since=timedelta(hours=1))) == 3
    assert len(history(since=datetime.now(UTC) + timedelta(hours=1))) == 0
    assert len(history(since="2020-01-01")) == 3
    with pytest.raises(ConfigurationError, match="no status"):
        history(status="great")


def test_a_server_on_a_port_that_is_taken(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """It says which, and nothing is left running."""
    with pytest.raises(ConfigurationError, match=str(server.port)):
        serve(tmp_path / "other", port=server.port)


def test_a_closed_server_says_so(tmp_path: Path) -> None:
    """Closing twice is fine, and the repr tells."""
    server = serve(tmp_path / "store", token="hidden-token")
    assert "running" in repr(server)
    server.close()
    server.close()
    assert "closed" in repr(server)
    assert "hidden-token" not in repr(server)


def test_jobs_can_be_handled_from_any_thread(server: EmbeddedServer, big: Path) -> None:
    """A button's click comes in whatever thread."""
    job = start(big, server.url, limit="3MB/s", chunk_size="500kB")
    threads = [
        threading.Thread(target=call)
        for call in (job.pause, job.resume, job.pause, job.resume)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert job.result(30).success
    job.pause()
    job.cancel()
    assert job.result().success


def test_the_repr_says_where_it_stands(big: Path) -> None:
    """A job in a REPL is one readable line."""
    job = start(big, "memory://repr/")
    job.result(10)
    assert repr(job) == "<Job big.bin: complete, 3.00 MB of 3.00 MB>"


def test_samples_stay_few() -> None:
    """However long an upload takes, thousands of samples are enough."""
    now = [0.0]
    recording = Recording(clock=lambda: now[0])
    for second in range(20_000):
        now[0] = float(second)
        progress = UploadProgress(
            transfer_id="a", name="a", sent=second + 1, confirmed=second
        )
        recording.update(
            UploadEvent(
                kind=EventKind.BYTES,
                transfer_id="a",
                seq=second,
                at=now[0],
                progress=progress,
            )
        )
    samples = recording.samples
    assert 2000 < len(samples) <= 4096
    assert samples[0].elapsed == 0
    assert samples[-1].elapsed > 19_900
    assert all(sample.confirmed == sample.elapsed for sample in samples)
