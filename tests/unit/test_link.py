"""The shaped link: its rates, its delay, its faults, and nothing else."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.servers.tcp import TcpServer
from upload_kit.bench.faults import Direction, Fault, FaultKind, FaultPlan
from upload_kit.bench.link import ShapedLink
from upload_kit.bench.link_process import start_link_process
from upload_kit.errors import ConfigurationError, UploadKitError
from upload_kit.units import KIB, MB, MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER = b"got it"


class Sink:
    """Keeps what each connection sent until its end, and answers then."""

    def __init__(self) -> None:
        self.got: list[bytearray] = []
        self.ended: list[str] = []
        self.began = asyncio.Event()
        self.changed = asyncio.Condition()

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        mine = bytearray()
        self.got.append(mine)
        try:
            while data := await reader.read(64 * KIB):
                mine += data
                self.began.set()
            await self._note("closed")
            writer.write(ANSWER)
            await writer.drain()
        except ConnectionResetError:
            await self._note("reset")

    async def until_ended(self, connections: int) -> None:
        """Wait until so many connections have come to an end."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: len(self.ended) >= connections)

    async def _note(self, how: str) -> None:
        async with self.changed:
            self.ended.append(how)
            self.changed.notify_all()


@asynccontextmanager
async def linked(
    *faults: tuple[Fault, ...],
    rate_per_connection: float | None = None,
    total_rate: float | None = None,
    latency: float = 0.0,
) -> AsyncIterator[tuple[ShapedLink, Sink]]:
    """Put a link before a sink; the n-th connection suffers the n-th faults."""
    sink = Sink()
    async with (
        TcpServer(sink) as server,
        ShapedLink(
            server.host,
            server.port,
            rate_per_connection=rate_per_connection,
            total_rate=total_rate,
            latency=latency,
            faults=FaultPlan(script=faults),
        ) as link,
    ):
        yield link, sink


async def send(link: ShapedLink, data: bytes) -> bytes:
    """Send everything over a connection of its own, and return the answer."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(link.host, link.port)
        try:
            writer.write(data)
            # A reset that is there already is told by the reader.
            with suppress(OSError):
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def seconds_to_send(link: ShapedLink, *sizes: int) -> float:
    """Send so many bytes over as many connections at once."""
    started = time.monotonic()
    answers = await asyncio.gather(*(send(link, bytes(size)) for size in sizes))
    assert answers == [ANSWER] * len(sizes)
    return time.monotonic() - started


@pytest.mark.parametrize("latency", [0.0, 0.005], ids="{}s".format)
@pytest.mark.parametrize("rate", [None, 50 * MB], ids="{}B/s".format)
@pytest.mark.parametrize("size", [0, 1, 4 * KIB, 3 * MIB + 1], ids="{}B".format)
async def test_bytes_pass_unchanged(
    size: int, rate: float | None, latency: float
) -> None:
    """What goes in comes out, whole and in order, and so does the answer."""
    data = random.Random(size).randbytes(size)
    async with linked(rate_per_connection=rate, latency=latency) as (link, sink):
        assert await send(link, data) == ANSWER
        assert sink.got == [data]
        assert link.stats.bytes_up == size
        assert link.stats.bytes_down == len(ANSWER)


async def test_one_connection_keeps_to_its_rate() -> None:
    """Never faster than the rate; how close to it, the benchmark says."""
    async with linked(rate_per_connection=4 * MB) as (link, _):
        seconds = await seconds_to_send(link, 2 * MB)
    assert 0.495 <= seconds <= 2.0


async def test_connections_have_a_rate_each() -> None:
    """Five connections take as long as one."""
    async with linked(rate_per_connection=4 * MB) as (link, _):
        seconds = await seconds_to_send(link, *[1 * MB] * 5)
    assert 0.245 <= seconds <= 1.0


async def test_connections_share_the_total_rate() -> None:
    """Five connections take five times as long as one."""
    async with linked(total_rate=10 * MB) as (link, _):
        seconds = await seconds_to_send(link, *[1 * MB] * 5)
    assert 0.495 <= seconds <= 2.0


async def test_both_rates_hold_together() -> None:
    """With one that allows five times the other, five connections fill both."""
    async with linked(rate_per_connection=4 * MB, total_rate=20 * MB) as (link, _):
        seconds = await seconds_to_send(link, *[1 * MB] * 5)
    assert 0.245 <= seconds <= 1.0


async def test_answers_are_shaped_too() -> None:
    """The way back has the same rate."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(1 * MB))
        await writer.drain()

    async with (
        TcpServer(answer) as server,
        ShapedLink(server.host, server.port, rate_per_connection=4 * MB) as link,
    ):
        started = time.monotonic()
        assert len(await send(link, b"")) == 1 * MB
        assert 0.245 <= time.monotonic() - started <= 1.0


async def test_idle_link_saves_nothing_up() -> None:
    """After a pause the link carries its rate, not what it could have carried."""
    async with linked(rate_per_connection=4 * MB) as (link, sink):
        reader, writer = await asyncio.open_connection(link.host, link.port)
        writer.write(b"-")
        await asyncio.wait_for(sink.began.wait(), timeout=20)
        await asyncio.sleep(0.3)
        started = time.monotonic()
        writer.write(bytes(1 * MB))
        writer.write_eof()
        assert await reader.read() == ANSWER
        assert time.monotonic() - started >= 0.245
        writer.close()


async def test_sender_cannot_run_far_ahead() -> None:
    """Little more than a megabyte fits between the sender and the link."""

    def push(port: int) -> int:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(0.3)
            sent = 0
            try:
                while sent < 20 * MB:
                    sent += sock.send(bytes(64 * KIB))
            except TimeoutError:
                return sent
        return sent

    async with linked(rate_per_connection=10 * KIB) as (link, _):
        assert await asyncio.to_thread(push, link.port) <= 2 * MB


async def test_server_that_reads_slowly_holds_the_sender_up() -> None:
    """What nobody reads is not taken from the sender, beyond the window."""
    reading = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reading.wait()
        while await reader.read(1 * MIB):
            pass

    async with (
        TcpServer(handle) as server,
        ShapedLink(server.host, server.port) as link,
    ):
        _, writer = await asyncio.open_connection(link.host, link.port)
        writer.write(bytes(64 * MIB))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), timeout=1.0)
        reading.set()
        await asyncio.wait_for(writer.drain(), timeout=20)
        writer.close()


async def test_latency_delays_the_handshake_and_both_ways() -> None:
    """Connect, send, answer: two round trips, as over a real distance."""
    async with linked(latency=0.1) as (link, _):
        seconds = await seconds_to_send(link, 1000)
    assert 0.39 <= seconds <= 1.5


async def test_latency_does_not_lower_the_rate() -> None:
    """Bytes follow one another through the delay without waiting for answers."""
    async with linked(rate_per_connection=4 * MB, latency=0.1) as (link, _):
        seconds = await seconds_to_send(link, 2 * MB)
    assert 0.5 + 0.39 <= seconds <= 0.5 + 1.5


async def test_server_that_is_down_is_a_reset() -> None:
    """Behind the link nobody listens: the client hears of it at once."""
    async with TcpServer(Sink()) as server:
        pass
    async with ShapedLink(server.host, server.port) as link:
        with pytest.raises(ConnectionResetError):
            await send(link, b"hello")


async def test_reset_by_the_client_reaches_the_server() -> None:
    """A client that dies hard does not look like one that has finished."""
    async with linked() as (link, sink):
        _, writer = await asyncio.open_connection(link.host, link.port)
        writer.write(b"half")
        await writer.drain()
        writer.transport.abort()
        await sink.until_ended(1)
        assert link.stats.connections == 1


async def test_closing_the_link_ends_its_connections() -> None:
    """Nobody is left waiting for a link that is gone, and its port is free."""
    async with TcpServer(Sink()) as server:
        link = ShapedLink(server.host, server.port, rate_per_connection=1)
        async with link:
            reader, writer = await asyncio.open_connection(link.host, link.port)
            writer.write(bytes(1000))
            await writer.drain()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(link.host, link.port)


@pytest.mark.parametrize("after", [0, 1, 100_000], ids="{}B".format)
async def test_cut_after_so_many_bytes_up(after: int) -> None:
    """The server gets exactly these bytes and the end; the client gets no answer."""
    fault = Fault(kind=FaultKind.CUT, after=after)
    async with linked((fault,)) as (link, sink):
        with suppress(ConnectionError):
            assert await send(link, bytes(200_000)) == b""
        await sink.until_ended(1)
        assert [len(got) for got in sink.got] == [after]
        assert link.stats.faults == 1


async def test_cut_after_so_many_bytes_down() -> None:
    """The client gets the beginning of the answer, and then the end."""
    fault = Fault(kind=FaultKind.CUT, direction=Direction.DOWN, after=3)
    async with linked((fault,)) as (link, sink):
        assert await send(link, b"whole") == ANSWER[:3]
        assert sink.got == [b"whole"]


async def test_reset_after_so_many_bytes() -> None:
    """Both ends are reset in the middle of the upload."""
    fault = Fault(kind=FaultKind.RESET, after=100_000)
    async with linked((fault,)) as (link, sink):
        with pytest.raises(ConnectionResetError):
            await send(link, bytes(200_000))
        await sink.until_ended(1)
        assert sink.ended == ["reset"]
        assert len(sink.got[0]) <= 100_000


async def test_stall_delays_and_goes_on() -> None:
    """Nothing moves for a while; afterwards everything arrives."""
    fault = Fault(kind=FaultKind.STALL, after=1000, seconds=0.3)
    async with linked((fault,)) as (link, sink):
        seconds = await seconds_to_send(link, 200_000)
        assert sink.got == [bytes(200_000)]
    assert 0.3 <= seconds <= 2.0


async def test_half_open_connection_says_nothing() -> None:
    """A stall without an end: no answer, no end, no error."""
    fault = Fault(kind=FaultKind.STALL, after=1000)
    async with linked((fault,)) as (link, sink):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(link, bytes(200_000)), timeout=0.3)
        assert [len(got) for got in sink.got] == [1000]


async def test_lost_reply_lets_the_server_act() -> None:
    """The server has all of it and has answered; the client is reset."""
    async with linked((Fault(kind=FaultKind.LOSE_REPLY, after=5),)) as (link, sink):
        with pytest.raises(ConnectionResetError):
            await send(link, b"whole")
        assert sink.got == [b"whole"]
        assert sink.ended == ["closed"]
        assert link.stats.bytes_down == 0


@pytest.mark.parametrize("after", [0, 1, 99_999], ids="{}B".format)
async def test_corruption_turns_one_bit_over(after: int) -> None:
    """One byte at that place differs in one bit; all others are right."""
    data = random.Random(1).randbytes(100_000)
    async with linked((Fault(kind=FaultKind.CORRUPT, after=after),)) as (link, sink):
        assert await send(link, data) == ANSWER
        assert len(sink.got[0]) == len(data)
        wrong = [i for i, byte in enumerate(data) if sink.got[0][i] != byte]
        assert wrong == [after]
        assert (sink.got[0][after] ^ data[after]).bit_count() == 1


async def test_refusal_lasts_and_then_ends() -> None:
    """Connections are refused for a while; afterwards they work, on the same port."""
    async with linked((Fault(kind=FaultKind.REFUSE, seconds=0.3),)) as (link, _):
        port = link.port
        with pytest.raises(ConnectionResetError):
            await send(link, b"first")
        with pytest.raises(ConnectionRefusedError):
            await send(link, b"second")
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await send(link, b"third") == ANSWER
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
        assert link.port == port


async def test_refusal_for_good_ends_with_the_link() -> None:
    """Nothing gets through any more, and the link still closes."""
    async with linked((Fault(kind=FaultKind.REFUSE),)) as (link, sink):
        for error in (ConnectionResetError, ConnectionRefusedError):
            with pytest.raises(error):
                await send(link, b"hello")
        assert sink.got == []


@pytest.mark.parametrize("retry_after", [None, 0, 7], ids="retry-after-{}".format)
@pytest.mark.parametrize("status", [429, 500, 502, 503], ids=str)
async def test_busy_time_is_answered_in_the_servers_place(
    status: int, retry_after: int | None
) -> None:
    """The request gets a whole answer and the end; the server hears nothing."""
    fault = Fault(kind=FaultKind.BUSY, status=status, retry_after=retry_after)
    async with linked((fault,)) as (link, sink):
        for _ in range(2):
            answer = await send(link, b"PUT / HTTP/1.1\r\n\r\n" + bytes(200_000))
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            assert (f"Retry-After: {retry_after}\r\n".encode() in answer) == (
                retry_after is not None
            )
            assert answer.endswith(b"\r\n\r\n")
        assert sink.got == []
        assert link.stats.faults == 2


async def test_busy_time_ends() -> None:
    """Afterwards the server is reached again."""
    async with linked((Fault(kind=FaultKind.BUSY, seconds=0.2),)) as (link, sink):
        answers = [await send(link, b"PUT / HTTP/1.1\r\n\r\n")]
        while answers[-1] != ANSWER and len(answers) < 100:
            await asyncio.sleep(0.02)
            answers.append(await send(link, b"PUT / HTTP/1.1\r\n\r\n"))
        assert answers[0].startswith(b"HTTP/1.1 503 ")
        assert answers[-1] == ANSWER
        assert len(sink.got) == 1


async def test_faults_of_one_connection_strike_in_turn() -> None:
    """Several faults compose: here a flipped bit, a stall and the end."""
    faults = (
        Fault(kind=FaultKind.CUT, after=30),
        Fault(kind=FaultKind.CORRUPT, after=10),
        Fault(kind=FaultKind.STALL, after=20, seconds=0.1),
    )
    async with linked(faults) as (link, sink):
        await send(link, bytes(100))
        await sink.until_ended(1)
        assert sink.got == [bytes(10) + b"\x10" + bytes(19)]
        assert link.stats.faults == 3


async def test_fault_of_one_connection_spares_the_others() -> None:
    """The first connection dies, the second one beside it does not."""
    async with linked((Fault(kind=FaultKind.RESET, after=10),)) as (link, sink):
        with pytest.raises(ConnectionResetError):
            await send(link, bytes(100))
        assert await send(link, bytes(100)) == ANSWER
        assert link.stats.connections == 2
        assert len(sink.got[1]) == 100


async def test_link_in_a_process_of_its_own() -> None:
    """It shapes, suffers its faults and says at the end what it carried."""
    sink = Sink()
    plan = FaultPlan(script=((Fault(kind=FaultKind.RESET, after=10),),))
    async with TcpServer(sink) as server:
        link = await asyncio.to_thread(
            start_link_process,
            server.host,
            server.port,
            rate_per_connection=4 * MB,
            faults=plan,
        )
        try:
            reached = ShapedLink(server.host, server.port)
            reached.port = link.port
            with pytest.raises(ConnectionResetError):
                await send(reached, bytes(100))
            assert await seconds_to_send(reached, 1 * MB) >= 0.245
        finally:
            stats = await asyncio.to_thread(link.stop)
    assert (stats.connections, stats.faults) == (2, 1)
    assert stats.bytes_up == 10 + 1 * MB
    assert link.stop() == stats


def test_link_process_that_was_killed_says_so() -> None:
    """Stopping a link whose process has died is an error, not a wait."""
    link = start_link_process("127.0.0.1", 80)
    link.kill()
    with pytest.raises(UploadKitError, match="died"):
        link.stop()


@pytest.mark.parametrize(
    ("rate", "total", "latency"),
    [(0, None, 0), (-1, None, 0), (None, 0, 0), (None, None, -1)],
)
def test_numbers_out_of_range_are_refused(
    rate: float | None, total: float | None, latency: float
) -> None:
    """A link that cannot be is refused before a port is opened or a process started."""
    for make in (ShapedLink, start_link_process):
        with pytest.raises(ConfigurationError):
            make(
                "127.0.0.1",
                80,
                rate_per_connection=rate,
                total_rate=total,
                latency=latency,
            )
