"""Whatever waits for somebody else ends in a typed error, within the stated time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest

from tests.servers.held_files import HeldFile
from tests.servers.knobs import KnobServer
from tests.servers.tcp import TcpServer
from upload_kit.config import ConnectionOptions
from upload_kit.destinations.wire import Wire
from upload_kit.errors import RemoteUnavailable, SourceError
from upload_kit.sources.file import FileSource
from upload_kit.threads import in_thread
from upload_kit.units import MIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# Seconds: a wait that has no limit would fail the test after them.
_PATIENCE: Final = 20.0
_LIMIT: Final = 0.3
_CHUNK: Final = 300_000
_ROOT: Final = Path(__file__).parent.parent.parent
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"


@contextlib.asynccontextmanager
async def short_wire() -> AsyncIterator[Wire]:
    wire = Wire(ConnectionOptions(response_timeout=_LIMIT, connect_timeout=_LIMIT))
    try:
        async with asyncio.timeout(_PATIENCE):
            yield wire
    finally:
        await wire.aclose()


class Say:
    """A peer that says something, a little at a time, and then falls silent."""

    def __init__(self, first: bytes, trickle: bytes = b"") -> None:
        self._first = first
        self._trickle = trickle

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._first)
        for byte in self._trickle:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(_LIMIT / 5)
        await asyncio.sleep(2 * _PATIENCE)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: Say(b""), id="nothing"),
        pytest.param(lambda: Say(_HEAD), id="head-and-nothing"),
        pytest.param(lambda: Say(_HEAD + b"{" * 100), id="half-a-body"),
        pytest.param(lambda: Say(b"", _HEAD * 9), id="head-that-trickles"),
        pytest.param(lambda: Say(_HEAD, b" " * 999), id="body-that-trickles"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
async def test_answer_takes_too_long(answer: Callable[[], Say]) -> None:
    """An answer has to be whole in its time, however it is drawn out."""
    async with TcpServer(answer()) as server, short_wire() as wire:
        with pytest.raises(RemoteUnavailable, match="no answer in time"):
            await wire.request("GET", f"http://127.0.0.1:{server.port}/")


@pytest.mark.usefixtures("nothing_left")
async def test_request_that_nobody_reads() -> None:
    """A peer that stops reading holds nobody up, also where no chunk is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Nobody accepts, so no more is taken than fits into this.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with short_wire() as wire:
            with pytest.raises(RemoteUnavailable, match="no answer in time"):
                await wire.request("POST", url, body=bytes(1_000_000))


_LOOK_UP: Final = """
import asyncio, os, sys
from upload_kit import ChunkedUploader, RetryPolicy, UploadKitError

async def main():
    up = ChunkedUploader(
        "http://upload-kit.invalid/",
        connect_timeout=0.5,
        retry=RetryPolicy(attempts=2, base_delay=0.01),
    )
    try:
        await up.upload_file(b"x", name="x")
    except UploadKitError as error:
        print(type(error).__name__, error, sep=": ", flush=True)
    # Python waits for a thread that looks a name up, as long as the system does.
    os._exit(0)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def own_resolver(
    folder: Path, *, answers: bool
) -> AsyncIterator[tuple[list[str], list[bytes]]]:
    """
    Have a command ask a resolver of ours, in a name space of its own.

    Yields:
        What stands before the command, and the questions that came.
    """
    asked: list[bytes] = []

    class Resolver(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            asked.append(data)
            if answers:
                # The question again, as an answer: there is no such name (RFC 1035).
                reply = data[:2] + b"\x81\x83" + data[4:6] + bytes(6) + data[12:]
                self.transport.sendto(reply, addr)

    probe = await asyncio.create_subprocess_exec("unshare", "--mount", "true")
    if await probe.wait():
        pytest.skip("only root may have name spaces of its own")
    # Not the resolver that may stand at 127.0.0.1 or 127.0.0.53.
    host = f"127.{os.getpid() % 250 + 1}.86.53"
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Resolver, local_addr=(host, 53)
        )
    except PermissionError:
        pytest.skip("only root may answer where names are looked up")
    settings = folder / "resolv.conf"
    settings.write_text(f"nameserver {host}\noptions timeout:15 attempts:3\n")
    script = f'mount --bind {settings} /etc/resolv.conf && exec "$@"'
    try:
        yield ["unshare", "--mount", "sh", "-ec", script, "sh"], asked
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        pytest.param(True, "cannot be found", id="no-name"),
        pytest.param(False, "not within 0.5 s", id="never-answers"),
    ],
)
async def test_name_that_does_not_resolve(
    tmp_path: Path, *, answers: bool, said: str
) -> None:
    """Finding a host counts as reaching it: it has the same limit."""
    async with own_resolver(tmp_path, answers=answers) as (prefix, asked):
        process = await asyncio.create_subprocess_exec(
            *prefix,
            sys.executable,
            "-c",
            _LOOK_UP,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        try:
            # Shorter than the resolver's own patience of 45 s.
            async with asyncio.timeout(_PATIENCE):
                out, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    assert asked
    assert out.decode().startswith("RemoteUnavailable: ")
    assert said in out.decode()


class TestDisk:
    @pytest.fixture
    async def server(self) -> AsyncIterator[KnobServer]:
        async with KnobServer() as server:
            yield server

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "big.bin"
        path.write_bytes(random.Random(1).randbytes(10 * _CHUNK))
        return path

    async def test_file_that_does_not_open(
        self, server: KnobServer, path: Path
    ) -> None:
        """A disk that hangs ends an upload before it began."""
        up = ChunkedUploader(server.url, read_timeout=_LIMIT, history=False)
        with HeldFile(path, opens=True), pytest.raises(SourceError, match=r"0\.3 s"):
            await asyncio.wait_for(up.upload_file(path), _PATIENCE)
        assert server.seen == []
        assert (await up.upload_file(path)).success

    @pytest.mark.parametrize(
        "memory", [pytest.param(64 * MIB, id="held"), pytest.param(1, id="streamed")]
    )
    async def test_file_that_hangs_on_its_way(
        self, server: KnobServer, path: Path, tmp_path: Path, memory: int
    ) -> None:
        """It ends with the session to go on with once the disk works again."""
        up = ResumableUploader(
            server.url,
            chunk_size=_CHUNK,
            max_parallel=1,
            read_timeout=_LIMIT,
            memory_budget=memory,
            compression="off",
            session_dir=tmp_path / "sessions",
        )
        with HeldFile(path, spared=8) as disk:
            with pytest.raises(SourceError, match=r"gave nothing for 0\.3 s") as raised:
                await asyncio.wait_for(up.upload_file(path), _PATIENCE)
            assert disk.held.is_set()
            session_id = raised.value.session_id
            assert session_id is not None
            with pytest.raises(SourceError) as again:
                await up.upload_file_resumable(path, session_id)
            assert again.value.session_id == session_id
        result = await up.upload_file_resumable(path, session_id)
        assert result.success
        assert result.bytes_resumed > 0

    async def test_disk_that_hangs_takes_no_thread_from_others(
        self, path: Path
    ) -> None:
        """However many reads hang, other disks are read, and digests computed."""
        with HeldFile(path):
            sources = [FileSource(path) for _ in range(50)]
            async with asyncio.timeout(_PATIENCE), asyncio.TaskGroup() as group:
                for source in sources:
                    group.create_task(self.refused(source))
            assert await asyncio.wait_for(in_thread(lambda: 1), _PATIENCE) == 1
        for source in sources:
            await source.aclose()

    @staticmethod
    async def refused(source: FileSource) -> None:
        with pytest.raises(SourceError):
            await source.open(_LIMIT)

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            pytest.param("for_ever", b"TimeoutError\n", id="hangs"),
            pytest.param("a_while", b"TimeoutError\ndone\n", id="ends"),
        ],
    )
    async def test_program_ends_though_a_disk_hangs(
        self, tmp_path: Path, call: str, said: bytes
    ) -> None:
        """A call that has begun gets its time, but keeps no program from its end."""
        os.mkfifo(tmp_path / "fifo")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _LEAVE_BEHIND,
            call,
            str(tmp_path / "fifo"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), _PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert out == said
        assert process.returncode == 0


# Opening a FIFO waits for its other end, as opening a file waits for a dead disk.
_LEAVE_BEHIND: Final = """
import asyncio, sys, time
from upload_kit.threads import in_thread

def for_ever():
    open(sys.argv[2], "rb")

def a_while():
    time.sleep(1)
    print("done", flush=True)

async def main():
    try:
        async with asyncio.timeout(0.2):
            await in_thread(globals()[sys.argv[1]])
    except TimeoutError as error:
        print(type(error).__name__, flush=True)

asyncio.run(main())
"""
