"""What bad input gets: a typed error that helps, and nothing half done anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from tests.servers.knobs import Fault, KnobServer, Step
from tests.servers.tcp import TcpServer
from upload_kit import (
    AuthenticationFailed,
    ChunkedUploader,
    ConfigurationError,
    IntegrityError,
    ParallelUploader,
    RemoteRejected,
    RemoteUnavailable,
    ResumableUploader,
    RetryPolicy,
    Secret,
    SessionCorrupt,
    SourceChanged,
    SourceError,
    UploadKitError,
)
from upload_kit.server import ServerConfig, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    Layer = Callable[..., ChunkedUploader]

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 200_000
DATA: Final = random.Random(14).randbytes(8 * CHUNK + 1)
AT_ONCE: Final = RetryPolicy(base_delay=0.0, attempts=2)
LAYERS: Final = [ChunkedUploader, ParallelUploader, ResumableUploader]


@pytest.fixture
async def server() -> AsyncIterator[KnobServer]:
    async with KnobServer() as server:
        yield server


@pytest.fixture(params=LAYERS, ids=lambda layer: layer.layer.value)
def layer(request: pytest.FixtureRequest) -> Layer:
    """Return what makes an uploader of each layer."""
    return layer_of(request.param)


def layer_of(kind: type[ChunkedUploader]) -> Layer:
    def make(url: str, **options: Any) -> ChunkedUploader:
        settings: dict[str, Any] = {
            "chunk_size": CHUNK,
            "retry": AT_ONCE,
            "history": False,
            **options,
        }
        if kind is ResumableUploader:
            settings.setdefault("session_dir", "memory:")
        return kind(url, **settings)

    return make


async def refusal(layer: Layer, url: str, source: Any) -> UploadKitError:
    """Return the error that an upload ends with: soon, and with something to read."""
    up = layer(url)
    with pytest.raises(UploadKitError) as refused:
        await asyncio.wait_for(up.upload_file(source), 20)
    assert len(str(refused.value)) > 20
    assert "Traceback" not in str(refused.value)
    return refused.value


class TestSources:
    async def test_missing_file(self, server: KnobServer, layer: Layer) -> None:
        """Named; the server was not even asked."""
        error = await refusal(layer, server.url, "/no/such/file.bin")
        assert isinstance(error, SourceError)
        assert "/no/such/file.bin" in str(error)
        assert server.seen == []

    async def test_directory(
        self, server: KnobServer, layer: Layer, tmp_path: Path
    ) -> None:
        """The hint says to name the files in it."""
        error = await refusal(layer, server.url, tmp_path)
        assert isinstance(error, SourceError)
        assert "files in it" in str(error)

    async def test_fifo(self, server: KnobServer, layer: Layer, tmp_path: Path) -> None:
        """No waiting for whoever might write to it."""
        os.mkfifo(tmp_path / "pipe")
        error = await refusal(layer, server.url, tmp_path / "pipe")
        assert isinstance(error, SourceError)

    async def test_empty_file(
        self, server: KnobServer, layer: Layer, tmp_path: Path
    ) -> None:
        """It uploads like any other."""
        path = tmp_path / "empty"
        path.touch()
        result = await layer(server.url).upload_file(path)
        assert (result.success, result.size) == (True, 0)
        assert server.published == {"empty": b""}

    @pytest.mark.parametrize("change", ["grow", "shrink", "touch"])
    async def test_file_that_changes_on_its_way(
        self, server: KnobServer, layer: Layer, tmp_path: Path, change: str
    ) -> None:
        """Neither the old one nor the new one nor a mixture is published."""
        path = tmp_path / "a"
        await asyncio.to_thread(path.write_bytes, DATA)
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate, times=None))
        transfer = layer(server.url).start(path)
        await server.until(lambda: server.open_chunks >= 1)
        size = {"grow": len(DATA) + 5, "shrink": len(DATA) - 5, "touch": len(DATA)}
        os.truncate(path, size[change])
        os.utime(path, ns=(1, 1))
        gate.set()
        with pytest.raises(SourceChanged, match=str(path)):
            await transfer
        assert server.published == {}

    async def test_file_that_is_removed_on_its_way(
        self, server: KnobServer, layer: Layer, tmp_path: Path
    ) -> None:
        """It is open, so it is whole: either it arrives or it is said to be gone."""
        path = tmp_path / "a"
        await asyncio.to_thread(path.write_bytes, DATA)
        gate = asyncio.Event()
        server.fault(Step.CHUNK, Fault(gate=gate))
        transfer = layer(server.url).start(path)
        await server.until(lambda: server.open_chunks >= 1)
        await asyncio.to_thread(path.unlink)
        gate.set()
        with contextlib.suppress(SourceChanged):
            await transfer
        assert server.published in ({}, {"a": DATA})


class TestPlaces:
    @pytest.mark.parametrize(
        "url", ["", "big.bin", "ftp://host/", "http:/host", "http://host:port/", "://"]
    )
    def test_url_that_cannot_work(self, layer: Layer, url: str) -> None:
        """Told when the uploader is made."""
        with pytest.raises(ConfigurationError):
            layer(url)

    async def test_nobody_listens(self, layer: Layer) -> None:
        """After few tries; a wrong port should not take a minute to tell."""

        async def close(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            """Say nothing."""

        async with TcpServer(close) as gone:
            url = f"http://127.0.0.1:{gone.port}/"
        error = await refusal(layer, url, DATA)
        assert isinstance(error, RemoteUnavailable)
        assert "Is the server running" in str(error)

    @pytest.mark.parametrize("token", [None, "wrong"], ids=str)
    @pytest.mark.parametrize("size", [10, len(DATA)], ids=["small", "large"])
    async def test_wrong_token(
        self, layer: Layer, tmp_path: Path, token: str | None, size: int
    ) -> None:
        """Told at once; the token is in no message."""
        config = ServerConfig(
            directory=tmp_path / "store", port=0, tokens=(Secret("right"),), grace=0.1
        )
        async with running_server(config) as place:
            up = layer(place.url, token=token)
            with pytest.raises(AuthenticationFailed) as refused:
                await up.upload_file(DATA[:size])
            assert "right" not in str(refused.value)
            assert "wrong" not in str(refused.value)
            good = await layer(place.url, token="right").upload_file(DATA[:size])
            assert good.success

    def test_disk_that_takes_no_more(self, layer: Layer, tmp_path: Path) -> None:
        """No half file under its name; what the disk says is told."""
        source = tmp_path / "a"
        source.write_bytes(DATA)
        script = f"""
            import asyncio, resource
            from upload_kit import {type(layer("memory://x/")).__name__} as Uploader
            from upload_kit import RetryPolicy, UploadKitError
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
            up = Uploader({(tmp_path / "to").as_uri()!r}, history=False,
                chunk_size=200_000, retry=RetryPolicy(attempts=2, base_delay=0.0))
            try:
                asyncio.run(up.upload_file({str(source)!r}))
            except UploadKitError as error:
                print(type(error).__name__, error)
        """
        told = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert "Cannot write" in told
        assert "File too large" in told
        assert not (tmp_path / "to" / "a").exists()


# What a broken or hostile server may say of itself, besides what it should.
BROKEN_FACTS: Final[list[dict[str, Any]]] = [
    {"max_chunk": 0},
    {"max_chunk": -1},
    {"max_chunk": "big"},
    {"max_chunk": 1e300},
    {"min_chunk": -1},
    {"min_chunk": 0},
    {"min_chunk": 2**70},
    {"max_chunks": 0},
    {"max_chunks": -1},
    {"max_chunks": 3, "max_chunk": 10},
    {"max_size": -1},
    {"max_size": 10},
    {"checksums": None},
    {"checksums": ["md5"]},
    {"encodings": ["zip", "\0"]},
    {"expires_after": -1.0},
    {"protocol": "upload-kit/99"},
]


class TestServers:
    @pytest.fixture
    def layer(self) -> Layer:
        """One will do: the layers share what speaks to a server."""
        return layer_of(ParallelUploader)

    @pytest.mark.parametrize("facts", BROKEN_FACTS, ids=str)
    async def test_server_whose_limits_are_impossible(
        self, layer: Layer, facts: dict[str, Any]
    ) -> None:
        """Refused, or gone along with; never a crash, never a wrong file."""
        async with KnobServer(**facts) as server:
            try:
                result = await asyncio.wait_for(
                    layer(server.url).upload_file(DATA, name="a"), 20
                )
            except (ConfigurationError, RemoteRejected):
                assert server.published == {}
            else:
                assert result.success
                assert server.published == {"a": DATA}

    @pytest.mark.parametrize(
        "step", [Step.OPTIONS, Step.BEGIN, Step.CHUNK, Step.COMPLETE]
    )
    @pytest.mark.parametrize(
        "body", [b"", b"{}", b"[]", b"null", b"<html>", b"\xff", b'{"a":' * 9999]
    )
    async def test_server_that_answers_nonsense(
        self, server: KnobServer, layer: Layer, step: Step, body: bytes
    ) -> None:
        """It is not the server we took it for."""
        server.fault(step, Fault(body=body, times=None))
        error = await refusal(layer, server.url, DATA)
        assert isinstance(error, (RemoteRejected, IntegrityError, RemoteUnavailable))

    async def test_duplicate_chunk_of_other_bytes(
        self, server: KnobServer, layer: Layer
    ) -> None:
        """A server that has another chunk already is believed: nothing is mixed."""
        server.fault(Step.CHUNK, Fault(refuse=409, chunk=2, times=None))
        error = await refusal(layer, server.url, DATA)
        assert isinstance(error, RemoteRejected)
        assert server.published == {}

    @pytest.mark.parametrize(
        "options",
        [
            {"content_type": "text/plain\r\nX-Evil: 1"},
            {"content_type": "a\0b"},
            {"name": "a\r\nX-Evil: 1"},
        ],
        ids=str,
    )
    async def test_line_break_that_would_begin_a_header(
        self, layer: Layer, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        """It is data, or refused; it never reaches the wire as a header."""
        config = ServerConfig(directory=tmp_path / "store", port=0, grace=0.1)
        async with running_server(config) as place:
            for data in (b"small", DATA):
                with contextlib.suppress(ConfigurationError, RemoteRejected):
                    result = await layer(place.url).upload_file(data, **options)
                    assert result.success


async def test_nested_json_is_the_clients_fault(tmp_path: Path) -> None:
    """A body that nests thousands deep is a 400, not a failure of the server."""
    config = ServerConfig(directory=tmp_path / "store", port=0, grace=0.1)
    async with running_server(config) as place, aiohttp.ClientSession() as client:
        url = f"{place.url}upload/resumable"
        headers = {"Content-Type": "application/json"}
        body = b'{"a":' * 9999
        async with client.post(url, data=body, headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json(content_type=None))["status"] == 400


class TestSessionFiles:
    @pytest.mark.parametrize(
        "damage", [b"", b"{", b"\xff\xfe\0", b'{"version": 10e999}'], ids=repr
    )
    async def test_corrupt_session_file(
        self, server: KnobServer, tmp_path: Path, damage: bytes
    ) -> None:
        """Set aside and reported; the upload begins anew."""
        path, folder = tmp_path / "a", tmp_path / "sessions"
        await asyncio.to_thread(path.write_bytes, DATA)

        def uploader() -> ResumableUploader:
            return ResumableUploader(
                server.url, chunk_size=CHUNK, session_dir=folder, history=False
            )

        server.fault(Step.CHUNK, Fault(refuse=413, chunk=3))
        with pytest.raises(RemoteRejected) as raised:
            await uploader().upload_file(path)
        session_id = raised.value.session_id or ""
        overwrite(folder, session_id, damage)
        with pytest.raises(SessionCorrupt) as corrupt:
            await uploader().resume(session_id)
        assert session_id in str(corrupt.value)
        result = await uploader().upload_file(path)
        assert (result.success, result.bytes_resumed) == (True, 0)
        assert server.published["a"] == DATA


def overwrite(folder: Path, session_id: str, damage: bytes) -> None:
    """Damage what is written of a session."""
    files = [each for each in folder.rglob(f"*{session_id}*") if each.is_file()]
    assert files
    for file in files:
        file.write_bytes(damage)
