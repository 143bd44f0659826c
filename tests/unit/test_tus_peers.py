"""tus against software that was not written here: our client, and our server."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from tests.servers.tus_api import TusApi
from tests.servers.tus_peers import (
    require_python,
    tus_js,
    tus_node_server,
    tuspyserver,
)
from tests.servers.upload import ServeProcess, files_below, open_api, upload_server
from upload_kit.bench.faults import Fault, FaultKind, FaultPlan
from upload_kit.bench.link import ShapedLink
from upload_kit.config import RetryPolicy, Secret
from upload_kit.errors import UploadCancelled
from upload_kit.events import EventKind
from upload_kit.models import Verification
from upload_kit.units import KIB, MIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers.tus_peers import PeerServer

# Patient enough for a server that is started again.
QUICK: Final = RetryPolicy(base_delay=0.1, max_delay=2.0)
CHUNK: Final = 256 * KIB
SIZE: Final = 5 * CHUNK + 7
# No multiple of any chunk: tus-js-client waits for ever for an empty last one.
DATA: Final = os.urandom(8 * MIB + 7)
_ROOT: Final = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def private_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep sessions and history away from the user's."""
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "state"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture(params=[tuspyserver, tus_node_server], ids=["tuspyserver", "tus-node"])
async def peer(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[PeerServer]:
    async with request.param(tmp_path / "peer") as server:
        yield server


def _uploader(
    kind: type[ChunkedUploader], url: str, query: str = "", **options: Any
) -> ChunkedUploader:
    settings = {"chunk_size": CHUNK, "retry": QUICK, "history": False, **options}
    return kind(f"tus+{url}{query}", **settings)


# -- our client and other servers


@pytest.mark.parametrize("size", [0, 1, CHUNK, SIZE], ids=str)
@pytest.mark.parametrize(
    "layer",
    [ChunkedUploader, ParallelUploader, ResumableUploader],
    ids=lambda layer: layer.layer.value,
)
async def test_other_servers_get_what_we_have(
    peer: PeerServer, layer: type[ChunkedUploader], size: int
) -> None:
    """Whatever layer sends it, a file arrives as it is."""
    result = await _uploader(layer, peer.url).upload_file(DATA[:size], name="a.bin")
    assert peer.contents() == [DATA[:size]]
    assert result.verified is Verification.SIZE
    assert result.retries == 0


async def test_other_servers_are_found_out(peer: PeerServer) -> None:
    """`http://` finds tus by what the server says of itself."""
    await ChunkedUploader(peer.url, history=False).upload_file(DATA[:SIZE])
    assert peer.contents() == [DATA[:SIZE]]


@pytest.mark.parametrize("size", [0, 1, 2 * CHUNK, SIZE], ids=str)
async def test_other_servers_take_what_has_no_length(
    peer: PeerServer, size: int
) -> None:
    """A stream of unknown length arrives as well."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 100_000):
            yield DATA[start : min(start + 100_000, size)]

    await _uploader(ChunkedUploader, peer.url).upload_file(pieces(), name="a.bin")
    assert peer.contents() == [DATA[:size]]


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.RESET, FaultKind.LOSE_REPLY])
async def test_other_servers_are_gone_on_with_in_mid_chunk(
    peer: PeerServer, kind: FaultKind
) -> None:
    """What a server kept of a broken chunk is not sent again."""
    address = urlsplit(peer.url)
    after = 2 * MIB + 100_000
    # The first connection asks what there is, the second one breaks.
    plan = FaultPlan(script=((Fault(kind=kind, after=after),),) * 3)
    async with ShapedLink("127.0.0.1", address.port or 0, faults=plan) as link:
        url = peer.url.replace(f":{address.port}", f":{link.port}")
        result = await _uploader(ChunkedUploader, url, chunk_size=4 * MIB).upload_file(
            DATA, name="a.bin"
        )
        assert result.retries >= 1
        # Of the 8 MiB, less than what was on the wire at the breaks goes twice.
        assert link.stats.bytes_up < len(DATA) + 2 * MIB
    assert peer.contents() == [DATA]


async def test_another_server_may_be_killed(tmp_path: Path) -> None:
    """
    After kill -9 and a restart of the server the upload goes on.

    Not so with tuspyserver: what it wrote and had not noted stays in its file, and the
    same bytes are appended behind it once more, unnoticed.
    """
    async with tus_node_server(tmp_path / "peer") as peer:
        uploader = _uploader(ChunkedUploader, peer.url)
        async with uploader:
            transfer = uploader.start(DATA, name="a.bin")
            async for event in transfer:
                if event.kind is EventKind.CONFIRMED and event.chunk == 3:
                    await peer.kill()
                    await peer.start()
            result = await transfer
        assert result.retries >= 1
        assert peer.contents() == [DATA]


_PROGRAM: Final = """
import asyncio, sys
from upload_kit.events import EventKind
from upload_kit.uploaders.resumable import ResumableUploader
from upload_kit.units import KIB

async def main(url, path, query):
    uploader = ResumableUploader(
        f"tus+{url}{query}", chunk_size=256 * KIB, history=False, bandwidth_limit=4e6
    )
    async with uploader:
        transfer = uploader.start(path)
        async for event in transfer:
            print(event.progress.confirmed, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def _kill_after(url: str, path: Path, query: str, confirmed: int) -> None:
    """Upload in another process, and end that with kill -9 on its way."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, url, path, query),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if int(line) >= confirmed:
            process.send_signal(signal.SIGKILL)
            break
    await process.communicate()


async def test_our_client_may_be_killed(peer: PeerServer, file: Path) -> None:
    """After kill -9 another process goes on with the same upload."""
    await _kill_after(peer.url, file, "", 4 * CHUNK)
    result = await _uploader(ResumableUploader, peer.url).upload_file(file)
    assert result.bytes_resumed >= 4 * CHUNK
    assert peer.contents() == [DATA]


async def test_an_upload_that_vanished_there_is_begun_anew(
    peer: PeerServer, file: Path
) -> None:
    """When the other server lost it between two processes, all of it goes again."""
    await _kill_after(peer.url, file, "", 4 * CHUNK)
    for path in files_below(peer.folder):
        path.unlink()
    result = await _uploader(ResumableUploader, peer.url).upload_file(file)
    assert result.bytes_resumed == 0
    assert peer.contents() == [DATA]


async def test_a_cancelled_upload_is_removed_there(peer: PeerServer) -> None:
    """Termination leaves nothing of a cancelled upload."""
    uploader = _uploader(ChunkedUploader, peer.url)
    async with uploader:
        transfer = uploader.start(DATA, name="a.bin")
        async for event in transfer:
            if event.kind is EventKind.CONFIRMED:
                transfer.cancel()
        with pytest.raises((UploadCancelled, asyncio.CancelledError)):
            await transfer
    assert peer.contents() == []


async def test_parts_are_joined_by_another_server(tmp_path: Path, file: Path) -> None:
    """Partial uploads at once, one of them broken, become one file there."""
    async with tuspyserver(tmp_path / "peer") as peer:
        address = urlsplit(peer.url)
        plan = FaultPlan(script=((), (Fault(kind=FaultKind.CUT, after=MIB),)))
        async with ShapedLink("127.0.0.1", address.port or 0, faults=plan) as link:
            url = peer.url.replace(f":{address.port}", f":{link.port}")
            result = await _uploader(
                ParallelUploader, url, "?parts=4", max_parallel=4
            ).upload_file(file)
        assert result.size == len(DATA)
        assert peer.contents() == [DATA]


async def test_parts_of_a_killed_client_are_gone_on_with(
    tmp_path: Path, file: Path
) -> None:
    """After kill -9 each part goes on where it was, and then they are joined."""
    async with tuspyserver(tmp_path / "peer") as peer:
        await _kill_after(peer.url, file, "?parts=4", 2 * MIB)
        uploader = _uploader(ResumableUploader, peer.url, "?parts=4")
        result = await uploader.upload_file(file)
        assert result.bytes_resumed >= 2 * MIB
        assert peer.contents() == [DATA]


# -- other clients and our server


def _stored(folder: Path) -> list[bytes]:
    return [
        path.read_bytes()
        for path in files_below(folder / "files")
        if not path.name.startswith(".")
    ]


@pytest.fixture
async def tus(tmp_path: Path) -> AsyncIterator[TusApi]:
    async with upload_server(tmp_path / "s") as api:
        yield TusApi(api)


class _TusPy:
    """
    `tuspy`, in a thread, since it blocks.

    It gets an open file: of those that it opens itself it closes none.
    """

    def __init__(self, endpoint: str, path: Path, **options: Any) -> None:
        require_python("tusclient")
        self._endpoint = endpoint
        self._path = path
        self._headers = options.pop("headers", None)
        self._options = options

    def _client(self) -> Any:
        client: Any = importlib.import_module("tusclient.client")
        return client.TusClient(self._endpoint, headers=self._headers)

    async def upload(self, stop_at: int | None = None) -> str:
        """Upload, perhaps not to the end; return the upload's address."""

        def work() -> str:
            with self._path.open("rb") as file:
                uploader = self._client().uploader(file_stream=file, **self._options)
                uploader.upload(stop_at=stop_at)
                return str(uploader.url)

        return await asyncio.to_thread(work)

    async def upload_async(self) -> None:
        """Upload with its asyncio side."""
        file = await asyncio.to_thread(self._path.open, "rb")
        with file:
            client = self._client()
            await client.async_uploader(file_stream=file, **self._options).upload()


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checksums"])
@pytest.mark.parametrize("chunk_size", [MIB, 20 * MIB], ids=["chunks", "whole"])
async def test_tuspy_uploads(
    tus: TusApi, tmp_path: Path, file: Path, *, checked: bool, chunk_size: int
) -> None:
    """What tuspy sends arrives, with a SHA-1 that every request is checked by."""
    client = _TusPy(
        tus.url,
        file,
        chunk_size=chunk_size,
        upload_checksum=checked,
        metadata={"filename": "größe.bin"},
    )
    url = await client.upload()
    assert _stored(tmp_path / "s") == [DATA]
    status = await tus.api.status(url.rpartition("/")[2])
    assert status.body["name"] == "größe.bin"


async def test_tuspy_uploads_from_a_loop(
    tus: TusApi, tmp_path: Path, file: Path
) -> None:
    """Its asyncio side arrives too."""
    await _TusPy(tus.url, file, chunk_size=MIB).upload_async()
    assert _stored(tmp_path / "s") == [DATA]


async def test_tuspy_goes_on(tus: TusApi, tmp_path: Path, file: Path) -> None:
    """It stops in the middle, and another tuspy goes on from there."""
    url = await _TusPy(tus.url, file, chunk_size=MIB).upload(stop_at=3 * MIB)
    assert await tus.offset(url) == 3 * MIB
    again = await _TusPy(tus.url, file, chunk_size=MIB, url=url).upload()
    assert again == url
    assert _stored(tmp_path / "s") == [DATA]


async def test_tuspy_knows_who_it_is(tmp_path: Path, file: Path) -> None:
    """A token in its headers is a token."""
    async with upload_server(tmp_path / "s", tokens=(Secret("s3cret"),)) as api:
        headers = {"Authorization": "Bearer s3cret"}
        client = _TusPy(TusApi(api).url, file, chunk_size=MIB, headers=headers)
        await client.upload()
    assert _stored(tmp_path / "s") == [DATA]


async def test_tuspy_empty_file(tus: TusApi, tmp_path: Path) -> None:
    """An empty file needs no PATCH."""
    path = tmp_path / "empty"
    path.touch()
    await _TusPy(tus.url, path).upload()
    assert _stored(tmp_path / "s") == [b""]


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        ({}, {"POST", "PATCH"}),
        ({"chunkSize": MIB}, {"POST", "PATCH"}),
        ({"chunkSize": MIB, "uploadDataDuringCreation": True}, {"POST", "PATCH"}),
        ({"uploadDataDuringCreation": True}, {"POST"}),
        ({"chunkSize": MIB, "uploadLengthDeferred": True}, {"POST", "PATCH"}),
        ({"chunkSize": MIB, "overridePatchMethod": True}, {"POST"}),
        ({"parallelUploads": 4}, {"POST", "PATCH"}),
        ({"parallelUploads": 3, "chunkSize": MIB}, {"POST", "PATCH"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
async def test_tus_js_uploads(
    *,
    tus: TusApi,
    tmp_path: Path,
    file: Path,
    options: dict[str, Any],
    methods: set[str],
) -> None:
    """tus-js-client's file arrives in every way that it knows."""
    metadata = {"filename": "a.bin", "filetype": "text/x"}
    async with tus_js(file, tus.url, metadata=metadata, **options) as client:
        result = await client.result()
    assert set(result["requests"]) == methods, result
    assert _stored(tmp_path / "s") == [DATA]
    status = await tus.api.status(result["url"].rpartition("/")[2])
    assert (status.body["name"], status.body["content_type"]) == ("a.bin", "text/x")


async def test_tus_js_empty_file(tus: TusApi, tmp_path: Path) -> None:
    """An empty file is complete with its creation."""
    path = tmp_path / "empty"
    path.touch()
    async with tus_js(path, tus.url) as client:
        assert "url" in await client.result()
    assert _stored(tmp_path / "s") == [b""]


@asynccontextmanager
async def _slow(url: str) -> AsyncIterator[str]:
    """Make a server slow enough for things to happen in mid-upload."""
    port = urlsplit(url).port or 0
    async with ShapedLink("127.0.0.1", port, rate_per_connection=8_000_000) as link:
        yield url.replace(f":{port}", f":{link.port}")


async def test_tus_js_stops_and_goes_on(
    tus: TusApi, tmp_path: Path, file: Path
) -> None:
    """What it stopped in the middle of a request is kept, and gone on with."""
    urls = tmp_path / "urls"
    urls.touch()
    async with _slow(tus.url) as slow:
        async with tus_js(file, slow, urls=str(urls), stopAfter=2 * MIB) as client:
            stopped = (await client.result())["stopped"]
        async with tus_js(file, slow, urls=str(urls)) as client:
            result = await client.result()
    assert result["url"] == stopped
    assert result["requests"] == ["HEAD", "PATCH"]
    assert _stored(tmp_path / "s") == [DATA]


async def test_tus_js_removes_what_it_stops(
    tus: TusApi, tmp_path: Path, file: Path
) -> None:
    """Told to terminate, it leaves nothing behind."""
    async with (
        _slow(tus.url) as slow,
        tus_js(file, slow, stopAfter=MIB, terminate=True) as client,
    ):
        assert "stopped" in await client.result()
    assert files_below(tmp_path / "s" / "files") == []
    assert files_below(tmp_path / "s" / "incoming") == []


async def test_tus_js_may_be_killed(tus: TusApi, tmp_path: Path, file: Path) -> None:
    """After kill -9 of the client another one takes over from its open request."""
    urls = tmp_path / "urls"
    urls.touch()
    async with _slow(tus.url) as slow:
        async with tus_js(file, slow, urls=str(urls)) as client:
            async for line in client.lines():
                if line.get("sent", 0) >= 4 * MIB:
                    await client.kill()
        async with tus_js(file, slow, urls=str(urls)) as client:
            result = await client.result()
    assert result["requests"][0] == "HEAD", result
    assert _stored(tmp_path / "s") == [DATA]


async def test_our_server_may_be_killed(tmp_path: Path, file: Path) -> None:
    """After kill -9 of the server, tus-js-client goes on with the one that follows."""
    async with ServeProcess(tmp_path / "s") as server:
        delays = [100, 300, 1000, 1000, 1000, 1000, 3000, 3000]
        options = {"chunkSize": MIB, "retryDelays": delays}
        async with tus_js(file, f"{server.url}files/", **options) as client:
            killed = False
            result: dict[str, Any] = {}
            async for result in client.lines():
                if not killed and result.get("accepted", 0) >= 3 * MIB:
                    killed = True
                    await server.kill()
                    await server.start()
        assert killed
        assert "HEAD" in result["requests"], result
        async with open_api(server.url) as api:
            assert await TusApi(api).offset(result["url"]) == len(DATA)
    assert _stored(tmp_path / "s") == [DATA]


# -- our client and our server


@pytest.mark.parametrize("query", ["", "?parts=4", "?checksum=off"])
async def test_ours_and_ours(
    tus: TusApi, tmp_path: Path, file: Path, query: str
) -> None:
    """The whole file's digest is computed there and compared here."""
    uploader = _uploader(ResumableUploader, tus.url, query)
    result = await uploader.upload_file(file)
    assert result.verified is Verification.SHA256
    assert _stored(tmp_path / "s") == [DATA]


@pytest.mark.parametrize("query", ["?checksum=off", "?parts=4"], ids=["one", "parts"])
async def test_ours_may_be_killed_on_both_sides(
    tmp_path: Path, file: Path, query: str
) -> None:
    """After kill -9 of the client, then of the server, the next two end the upload."""
    async with ServeProcess(tmp_path / "s") as server:
        url = f"{server.url}files/"
        await _kill_after(url, file, query, 2 * MIB)
        await server.kill()
        await server.start()
        result = await _uploader(ResumableUploader, url, query).upload_file(file)
        assert result.bytes_resumed >= 2 * MIB
        assert result.verified is Verification.SHA256
    assert _stored(tmp_path / "s") == [DATA]
