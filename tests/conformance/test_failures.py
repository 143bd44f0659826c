"""
Whatever fails on the way to a destination: the file is whole there, or it is not there.

Every failure is tried at every destination, through the layer that people use. Which
one cannot happen where, and why, stands in `failures.py` and in `docs/testing.md`.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conformance.failures import CHUNK, DATA, MOTO, VENUES, Failure
from tests.servers.http_proxy import Meddler
from tests.servers.upload import until
from upload_kit.bench.faults import Fault, FaultKind, FaultPlan
from upload_kit.bench.faults_destination import faulty
from upload_kit.bench.link import ShapedLink
from upload_kit.bench.peers.gemini_server import KEY as GEMINI_KEY
from upload_kit.bench.peers.s3_server import ACCESS_KEY, SECRET_KEY
from upload_kit.config import RetryPolicy
from upload_kit.destinations.registry import make_destination
from upload_kit.errors import IntegrityError, UploadCancelled, UploadKitError
from upload_kit.models import UploadSpec
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.conformance.failures import Running, Venue
    from upload_kit.planning import Capabilities

pytestmark = pytest.mark.usefixtures("nothing_left", "credentials")

_PAGE: Final = Path(__file__).parent.parent.parent / "docs" / "testing.md"
PATIENT: Final = RetryPolicy(base_delay=0.02, max_delay=0.2, attempts=100)
# The calls of an upload to a folder: negotiate, open, held, and then chunks.
_FIRST_PUT: Final = 3
# Some servers take a chunk again only when they let go of the connection that stalls.
_STALL: Final = 3.0
# More lies than anybody asks questions.
_ALWAYS: Final = 10**6

_SCRIPT: Final = """
    import asyncio, os, signal, sys
    from upload_kit import ResumableUploader

    path, url, chunk = sys.argv[1:]

    def watch(progress):
        if progress.sent >= 3 * int(chunk):
            os.kill(os.getpid(), signal.SIGKILL)

    uploader = ResumableUploader(
        url,
        chunk_size=int(chunk),
        history=False,
        compression="off",
        bandwidth_limit=3e6,
        on_progress=watch,
    )
    asyncio.run(uploader.upload_file(path))
"""


def tried(failure: Failure) -> pytest.MarkDecorator:
    """Return the destinations at which a failure is tried."""
    venues = [venue for venue in VENUES if failure not in venue.cannot]
    return pytest.mark.parametrize("venue", venues, ids=lambda venue: venue.name)


@pytest.fixture(scope="module", autouse=True)
def moto() -> Iterator[None]:
    """End what many tests have shared."""
    yield
    MOTO.close()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the AWS tools and Google's look for."""
    monkeypatch.setenv("GEMINI_API_KEY", GEMINI_KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "place"


def uploader(url: str, **options: Any) -> ResumableUploader:
    settings = {
        "chunk_size": CHUNK,
        "retry": PATIENT,
        "history": False,
        "compression": "off",
        "max_parallel": 2,
        **options,
    }
    return ResumableUploader(url, **settings)


@asynccontextmanager
async def faults_before(
    running: Running, kind: FaultKind, after: int = CHUNK // 2
) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """Put a way with a fault in mid-chunk before a destination; count what strikes."""
    fault = Fault(kind=kind, after=after, seconds=_STALL)
    if running.port is None:
        plan = FaultPlan(script=(*[()] * _FIRST_PUT, (fault,)))
        with faulty(running.place.url, plan) as (url, layer):
            yield url, lambda: layer.faults
        return
    # Which connection is the first with a body depends on the server.
    plan = FaultPlan(script=((fault,),) * 3)
    async with ShapedLink("127.0.0.1", running.port, faults=plan) as link:
        yield running.through(link.port), lambda: link.stats.faults


async def require_whole(running: Running) -> None:
    """Make sure that the file is there, whole and alone."""
    assert await asyncio.to_thread(lambda: running.contents) == [DATA]
    # A server may see a moment later that a connection is dead.
    await until(lambda: running.place.litter() == [])


@pytest.mark.parametrize(
    ("venue", "kind"),
    [
        pytest.param(venue, kind, id=f"{venue.name}-{kind}")
        for failure, kind in (
            (Failure.CUT, FaultKind.CUT),
            (Failure.STALL, FaultKind.STALL),
            (Failure.LOST, FaultKind.LOSE_REPLY),
        )
        for venue in VENUES
        if failure not in venue.cannot
    ],
)
async def test_broken_connections_cost_a_retry(
    venue: Venue, folder: Path, path: Path, kind: FaultKind
) -> None:
    """A chunk that is cut, stalls or is not answered goes once more, and is whole."""
    # aiohttp's server lingers over a body that stalled: in a process of its own.
    apart = kind is FaultKind.STALL
    async with (
        venue.start(folder, killable=apart) as running,
        faults_before(running, kind) as (url, struck),
    ):
        limit = 1.0 if kind is FaultKind.STALL else 20.0
        up = uploader(url, stall_timeout=limit, response_timeout=limit)
        result = await up.upload_file(path)
        assert struck() >= 1
        assert result.retries >= 1
        await require_whole(running)


@tried(Failure.CUT)
async def test_small_files_survive_a_cut(venue: Venue, folder: Path) -> None:
    """However many share a connection or a request, each of them arrives once."""
    files = {f"{n:02}.bin": DATA[n : n + 12_000] for n in range(40)}
    async with (
        venue.start(folder, killable=False) as running,
        faults_before(running, FaultKind.CUT, after=10_000) as (url, struck),
    ):
        results = await uploader(url, max_parallel=8).upload_files(files)
        assert struck() >= 1
        assert all(result.success for result in results)
        stored = await asyncio.to_thread(lambda: running.contents)
        assert sorted(stored) == sorted(files.values())
        # What was cut off before it had a name may stay until it expires.
        if await asyncio.to_thread(running.place.litter):
            await asyncio.to_thread(running.expire)
        await until(lambda: running.place.litter() == [])


@asynccontextmanager
async def spoilt_once(running: Running) -> AsyncIterator[str]:
    """Have a bit of the first chunk arrive turned over."""
    if running.port is None:
        async with faults_before(running, FaultKind.CORRUPT) as (url, struck):
            yield url
            assert struck() == 1
        return
    async with Meddler(f"http://127.0.0.1:{running.port}") as meddler:
        meddler.spoil = 1
        yield running.through(meddler.port)
        assert meddler.spoil == 0


@tried(Failure.WRONG)
async def test_wrong_bytes_are_found(venue: Venue, folder: Path, path: Path) -> None:
    """They go once more where chunks are checked; else the whole file is refused."""
    async with (
        venue.start(folder, killable=False) as running,
        spoilt_once(running) as url,
    ):
        found = await capabilities(running)
        up = uploader(url, max_parallel=1)
        if found.checksums:
            result = await up.upload_file(path)
            assert result.retries == 1
        else:
            with pytest.raises(IntegrityError):
                await up.upload_file(path)
            assert running.contents == []
            await up.upload_file(path)
        await require_whole(running)


async def capabilities(running: Running) -> Capabilities:
    """Ask what the destination says of itself."""
    destination = make_destination(running.place.url)
    found = await destination.negotiate(UploadSpec(name="a", size=len(DATA)))
    await destination.aclose()
    return found


@tried(Failure.BUSY)
async def test_retry_after_is_obeyed(venue: Venue, folder: Path, path: Path) -> None:
    """A server that is busy is left alone for as long as it says."""
    async with (
        venue.start(folder, killable=False) as running,
        Meddler(f"http://127.0.0.1:{running.port}") as meddler,
    ):
        meddler.refuse = 1
        up = uploader(running.through(meddler.port), max_parallel=1)
        result = await up.upload_file(path)
        assert result.retries == 1
        assert meddler.came[1] - meddler.came[0] >= 1.0
        await require_whole(running)


async def stop_half_way(url: str, path: Path) -> None:
    """Begin an upload, and cancel it between two chunks."""
    transfer = uploader(url, max_parallel=1).start(path)
    async for event in transfer:
        if event.progress.chunks_confirmed >= 2:
            transfer.cancel()
    with pytest.raises(UploadCancelled):
        await transfer


@pytest.mark.parametrize("lies", [1, _ALWAYS], ids=["once", "always"])
@pytest.mark.parametrize("by", [CHUNK, -CHUNK], ids=["more", "less"])
@tried(Failure.LIE)
async def test_lies_about_what_is_held_harm_nothing(
    venue: Venue, folder: Path, path: Path, *, lies: int, by: int
) -> None:
    """They end in the whole file or in an error; the truth ends in the whole file."""
    lie = venue.lie
    assert lie is not None
    async with (
        venue.start(folder, killable=False) as running,
        Meddler(
            f"http://127.0.0.1:{running.port}",
            lambda request, answer: lie(request, answer, by),
        ) as meddler,
    ):
        url = running.through(meddler.port)
        await stop_half_way(url, path)
        meddler.lies = lies
        few = RetryPolicy(base_delay=0.01, max_delay=0.01, attempts=6)
        try:
            await uploader(url, retry=few).upload_file(path)
        except UploadKitError:
            assert running.contents == []
            meddler.lies = 0
            await uploader(url).upload_file(path)
        assert meddler.told >= 1
        assert running.contents == [DATA]


@tried(Failure.EXPIRED)
async def test_expired_uploads_begin_anew(
    venue: Venue, folder: Path, path: Path
) -> None:
    """What the destination lost goes again, under the same session."""
    async with venue.start(folder, killable=False) as running:
        await stop_half_way(running.place.url, path)
        await asyncio.to_thread(running.expire)
        result = await uploader(running.place.url).upload_file(path)
        assert result.bytes_resumed == 0
        await require_whole(running)


@tried(Failure.SERVER)
async def test_servers_may_be_killed(venue: Venue, folder: Path, path: Path) -> None:
    """After kill -9 the upload goes on by itself with the server that comes back."""
    async with venue.start(folder, killable=True) as running:
        assert running.kill is not None
        assert running.restart is not None
        up = uploader(running.place.url, bandwidth_limit=3_000_000.0)
        transfer = up.start(path)
        async for event in transfer:
            if event.progress.sent >= 3 * CHUNK:
                await asyncio.to_thread(running.kill)
                break
        await asyncio.to_thread(running.restart)
        up.bandwidth_limit = None
        result = await transfer
        assert result.retries >= 1
        # A killed server may leave temporary files of its own: nginx does.
        assert await asyncio.to_thread(lambda: running.contents) == [DATA]


@tried(Failure.CLIENT)
async def test_clients_may_be_killed(venue: Venue, folder: Path, path: Path) -> None:
    """After kill -9 another process goes on with what has arrived."""
    async with venue.start(folder, killable=False) as running:
        url = running.place.url
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", textwrap.dedent(_SCRIPT)),
            *(str(path), url, str(CHUNK)),
        )
        async with asyncio.timeout(30):
            assert await process.wait() == -signal.SIGKILL
        if (await capabilities(running)).resumable:
            (session,) = await uploader(url).sessions()
            # All that another process knows is what stands in the session.
            up = uploader(session.destination)
            result = await up.resume(session.session_id)
            assert result.bytes_resumed > 0
        else:
            result = await uploader(url).upload_file(path)
        assert result.sha256 in {None, hashlib.sha256(DATA).hexdigest()}
        await require_whole(running)


@pytest.mark.parametrize("venue", VENUES, ids=lambda venue: venue.name)
async def test_what_is_left_out_is_declared(venue: Venue, folder: Path) -> None:
    """Nothing is left out that the destination's own capabilities make possible."""
    async with venue.start(folder, killable=False) as running:
        found = await capabilities(running)
        proves = bool(found.checksums | found.whole_checksums)
        assert proves or Failure.WRONG in venue.cannot
        assert found.resumable is (Failure.EXPIRED not in venue.cannot)
        tells = found.resumable and running.port is not None
        assert tells is (Failure.LIE not in venue.cannot)
        assert (running.port is None) is (Failure.BUSY in venue.cannot)
        assert {Failure.CUT, Failure.STALL, Failure.LOST}.isdisjoint(venue.cannot)


def test_matrix_is_documented() -> None:
    """The page about tests says of every destination what is not tried, and why."""
    head = "| destination | " + " | ".join(Failure) + " |"
    rows = [head, "|" + " --- |" * (len(Failure) + 1)]
    for venue in VENUES:
        cells = [venue.cannot.get(failure, "yes") for failure in Failure]
        rows.append(f"| {venue.name} | " + " | ".join(cells) + " |")
    assert "\n".join(rows) in _PAGE.read_text()
