"""
One suite for every destination.

A new destination is a subclass of `DestinationSuite` and a `place` fixture. What it is
able to do is read from its capabilities; nobody asks for its type.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.failures import CHUNK, DATA, gemini_place, tus_node_place
from tests.conformance.places import Place, published, visible
from tests.flow import CountingFlow, body_of, chunk_of
from tests.servers.nginx import NginxServer
from tests.servers.tus_peers import tus_node_server
from upload_kit.bench.peers.gemini_server import KEY as GEMINI_KEY
from upload_kit.bench.peers.gemini_server import GeminiServer
from upload_kit.bench.peers.s3_server import BUCKET, S3Server
from upload_kit.bodies import BufferedBody
from upload_kit.config import ConnectionOptions
from upload_kit.destinations.memory import memory_folder
from upload_kit.destinations.registry import make_destination
from upload_kit.errors import (
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    SourceError,
    UploadKitError,
)
from upload_kit.models import Receipt, UploadSpec
from upload_kit.planning import Plan, plan_chunks
from upload_kit.server import Durability, ServerConfig, running_server
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.servers.tus_peers import PeerServer
    from upload_kit.destinations.base import Destination, RemoteUpload
    from upload_kit.models import ChunkMetadata, RemoteObject
    from upload_kit.planning import Capabilities

pytestmark = pytest.mark.usefixtures("nothing_left")

SMALL: Final = DATA[:1000]
NAMES: Final = (
    "plain.bin",
    "with space.bin",
    "100%.bin",
    "a%2Fb.bin",
    "a+b&c=d.bin",
    "what#now.bin",
    "naïve 😀.bin",
    "имя.bin",
    "n" * 200 + ".bin",
)
HOSTILE: Final = (
    "../evil",
    "../../../../tmp/evil",
    "/tmp/evil",
    "a/../../evil",
    "..",
    ".",
    "",
    "a\0b",
    "a\r\nX-Evil: 1",
    "\x1b[2J",
    "\u202egnp.exe",
    "\udcff",
    "x" * 4096,
    "é" * 300,
    "a/" * 300 + "b",
    "C:\\evil",
    "what?now.bin",
    '"quoted"',
)
TOKENS: Final = (
    "",
    "0" * 32,
    "0" * 31,
    "../../etc",
    "a/b",
    "x" * 5000,
    "?chunks=1",
    "%00",
    "é",
    "[",
    "[1]",
    '["x", "y"]',
    "http://",
    "ftp://127.0.0.1/a",
)


class Sent:
    """One upload, driven through the port as the engine does."""

    def __init__(
        self, spec: UploadSpec, plan: Plan, data: bytes, remote: RemoteUpload
    ) -> None:
        self.spec = spec
        self.plan = plan
        self.data = data
        self.remote = remote
        self.receipts: dict[int, Receipt] = {}

    @property
    def chunks(self) -> list[ChunkMetadata]:
        known = replace(self.plan, size=len(self.data))
        return [chunk_of(self.data, known, chunk.index) for chunk in known.chunks()]

    async def put(self, *indexes: int) -> None:
        """Put these chunks; all of them if none is named."""
        for chunk in self.chunks:
            if not indexes or chunk.index in indexes:
                receipt = await self.remote.put(chunk, body_of(self.data, chunk))
                assert (receipt.index, receipt.size) == (chunk.index, chunk.size)
                assert receipt.sha256 in {None, chunk.sha256}
                self.receipts[chunk.index] = receipt

    async def complete(self, *, sha256: str | None = "ours") -> RemoteObject:
        """Publish; the digest that is sent along is ours, another one, or none."""
        ours = hashlib.sha256(self.data).hexdigest()
        receipts = [self.receipts[index] for index in sorted(self.receipts)]
        return await self.remote.complete(
            receipts, sha256=ours if sha256 == "ours" else sha256
        )


class ArrivalSuite:
    """
    What is tried at every URL: files arrive whole, and half of them goes on.

    The fixture `place` says where that is.
    """

    @pytest.fixture
    async def destination(self, place: Place) -> AsyncIterator[Destination]:
        destination = make_destination(place.url)
        yield destination
        await destination.aclose()

    async def begin(
        self,
        destination: Destination,
        data: bytes = DATA,
        *,
        name: str = "data.bin",
        overwrite: bool = True,
        length_known: bool = True,
    ) -> Sent:
        """Negotiate, plan and open."""
        size = len(data) if length_known else None
        spec = UploadSpec(name=name, size=size, overwrite=overwrite, whole_digest=True)
        capabilities = await destination.negotiate(spec)
        plan = plan_chunks(size, CHUNK, capabilities)
        return Sent(spec, plan, data, await destination.open(spec, plan))

    async def capabilities(
        self, destination: Destination, size: int | None = len(DATA)
    ) -> Capabilities:
        return await destination.negotiate(UploadSpec(name="a", size=size))

    async def test_capabilities_contradict_nothing(
        self, destination: Destination
    ) -> None:
        """A plan can be made for any size of file."""
        for size in (0, 1, MIB, 10**9):
            found = await self.capabilities(destination, size)
            plan_chunks(size, CHUNK, found)
            assert found.encodings <= {"gzip", "zstd"}
            assert found.lanes is None or found.lanes > 0
            assert found.resumable or found.max_chunks == 1
            assert found == await self.capabilities(destination, size)

    @pytest.mark.parametrize(
        "size", [0, 1, CHUNK, MIB, MIB + 1, 4 * CHUNK, len(DATA)], ids=str
    )
    async def test_bytes_stand_there(
        self, destination: Destination, place: Place, size: int
    ) -> None:
        """Under their name, no more and no less, and nothing is left beside them."""
        sent = await self.begin(destination, DATA[:size])
        # Of an empty file everything may be there from the beginning.
        assert size == 0 or await sent.remote.held() == []
        await sent.put()
        stored = await sent.complete()
        assert place.files() == [("data.bin", DATA[:size])]
        assert place.litter() == []
        assert stored.size in {None, size}
        assert stored.sha256 in {None, hashlib.sha256(DATA[:size]).hexdigest()}
        assert stored.location

    @pytest.mark.parametrize("done", [0, 1, 5, 6])
    async def test_another_process_goes_on(self, place: Place, done: int) -> None:
        """With nothing but the token: none, one, all but one, all of the chunks."""
        first, second = make_destination(place.url), make_destination(place.url)
        sent = await self.begin(first)
        if (await self.capabilities(first)).resumable:
            if done:
                await sent.put(*range(done))
            await first.aclose()
            await second.negotiate(sent.spec)
            again = await second.reopen(sent.spec, sent.plan, sent.remote.token)
            sent.remote = again
            sent.receipts = {receipt.index: receipt for receipt in await again.held()}
            assert sorted(sent.receipts) == list(range(done))
            if done < 6:
                await sent.put(*range(done, 6))
            await sent.complete()
            assert place.files() == [("data.bin", DATA)]
        await first.aclose()
        await second.aclose()

    async def test_abort_leaves_nothing(
        self, destination: Destination, place: Place
    ) -> None:
        """Whatever was put, and however often it is asked for."""
        sent = await self.begin(destination)
        found = await self.capabilities(destination)
        if found.resumable:
            await sent.put(0, 1)
        await sent.remote.abort()
        await sent.remote.abort()
        assert place.files() == []
        assert place.litter() == []
        if found.resumable:
            with pytest.raises(RemoteGone):
                await sent.remote.held()
            with pytest.raises(RemoteGone):
                await sent.put(2)
            with pytest.raises(RemoteGone):
                await sent.complete()
            with pytest.raises(RemoteGone):
                await destination.reopen(sent.spec, sent.plan, sent.remote.token)

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    async def test_file_that_must_not_be_overwritten(
        self, destination: Destination, place: Place, data: bytes
    ) -> None:
        """It is refused before or at the end, and the old one stays."""
        old = await self.begin(destination, b"old")
        await old.put()
        await old.complete()
        if place.one_name_one_file:
            with pytest.raises(RemoteRejected, match="exists already"):
                await self.send(destination, data, overwrite=False)
        assert ("data.bin", b"old") in place.files()
        assert place.litter() == []

    async def send(
        self, destination: Destination, data: bytes, *, overwrite: bool
    ) -> None:
        sent = await self.begin(destination, data, overwrite=overwrite)
        try:
            await sent.put()
            await sent.complete()
        except UploadKitError:
            await sent.remote.abort()
            raise

    async def test_closing_twice_and_before_anything(self, place: Place) -> None:
        """There may be nothing to let go of."""
        destination = make_destination(place.url)
        await destination.aclose()
        await self.capabilities(destination)
        await destination.aclose()
        await destination.aclose()


class DestinationSuite(ArrivalSuite):
    """What every destination promises."""

    async def test_destination_proves_what_it_says_it_can(
        self, destination: Destination
    ) -> None:
        """One that compares whole digests gives the file's digest back."""
        found = await self.capabilities(destination)
        sent = await self.begin(destination)
        await sent.put()
        stored = await sent.complete()
        if "sha256" in found.whole_checksums:
            assert stored.sha256 == hashlib.sha256(DATA).hexdigest()

    @pytest.mark.parametrize("seed", range(3))
    async def test_chunks_come_in_any_order(
        self, destination: Destination, place: Place, seed: int
    ) -> None:
        """Where there are no lanes."""
        sent = await self.begin(destination)
        order = list(range(len(sent.chunks)))
        if (await self.capabilities(destination)).lanes is None:
            random.Random(seed).shuffle(order)
        for index in order:
            await sent.put(index)
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]

    async def test_chunks_come_all_at_once(
        self, destination: Destination, place: Place
    ) -> None:
        """Where there are no lanes."""
        sent = await self.begin(destination)
        if (await self.capabilities(destination)).lanes is None:
            indexes = range(len(sent.chunks))
            await asyncio.gather(*(sent.put(index) for index in indexes))
        else:
            await sent.put()
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]

    async def test_chunk_again_is_the_same_chunk(
        self, destination: Destination, place: Place
    ) -> None:
        """Once more after it was acknowledged, and once more after that."""
        sent = await self.begin(destination)
        await sent.put()
        await sent.put(0)
        await sent.put(len(sent.chunks) - 1)
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    async def test_chunk_again_after_it_was_cancelled(
        self, destination: Destination, place: Place, data: bytes
    ) -> None:
        """Half of a chunk that was on its way harms nobody."""
        sent = await self.begin(destination, data)
        chunk = sent.chunks[0]
        reached = asyncio.Event()

        class Stuck(CountingFlow):
            async def admit(self, size: int) -> None:
                await super().admit(size)
                if self.admitted > chunk.size // 2:
                    reached.set()
                    await asyncio.Event().wait()

        putting = asyncio.create_task(
            sent.remote.put(chunk, body_of(data, chunk, Stuck(100_000)))
        )
        await asyncio.wait_for(reached.wait(), 10)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert place.files() == []
        await sent.put()
        await sent.complete()
        assert place.files() == [("data.bin", data)]

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    async def test_chunk_again_after_its_source_failed(
        self, destination: Destination, place: Place, data: bytes
    ) -> None:
        """The source's own error comes through, and nothing counts."""
        sent = await self.begin(destination, data)
        chunk = sent.chunks[0]

        class Broken(CountingFlow):
            async def admit(self, size: int) -> None:
                await super().admit(size)
                if self.admitted > chunk.size // 2:
                    raise SourceError("The disk is gone.")

        with pytest.raises(SourceError, match="The disk is gone"):
            await sent.remote.put(chunk, body_of(data, chunk, Broken(100_000)))
        assert place.files() == []
        assert await sent.remote.held() == []
        await sent.put()
        await sent.complete()
        assert place.files() == [("data.bin", data)]

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    async def test_chunk_of_other_bytes_does_not_count(
        self, destination: Destination, place: Place, data: bytes
    ) -> None:
        """Where digests of chunks are checked."""
        sent = await self.begin(destination, data)
        if "sha256" not in (await self.capabilities(destination)).checksums:
            return
        chunk = sent.chunks[0]
        wrong = bytearray(data[: chunk.size])
        wrong[len(wrong) // 2] ^= 1
        body = BufferedBody(chunk, memoryview(wrong), CountingFlow())
        with pytest.raises(IntegrityError):
            await sent.remote.put(chunk, body)
        assert await sent.remote.held() == []
        assert place.files() == []
        await sent.put()
        await sent.complete()
        assert place.files() == [("data.bin", data)]

    async def test_file_of_other_bytes_is_not_published(
        self, destination: Destination, place: Place
    ) -> None:
        """Where whole files are compared; with the right digest it goes on."""
        sent = await self.begin(destination)
        if "sha256" not in (await self.capabilities(destination)).whole_checksums:
            return
        await sent.put()
        with pytest.raises(IntegrityError):
            await sent.complete(sha256="0" * 64)
        assert place.files() == []
        assert len(await sent.remote.held()) == len(sent.chunks)
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]

    async def test_file_with_a_chunk_missing_is_not_published(
        self, destination: Destination, place: Place
    ) -> None:
        """Though whoever completes it believes that all are there."""
        sent = await self.begin(destination)
        in_order = (await self.capabilities(destination)).lanes is not None
        if len(sent.chunks) == 1 or in_order:
            return
        await sent.put(0, 1, 2, 3, 5)
        sent.receipts[4] = Receipt(index=4, size=CHUNK)
        with pytest.raises((OffsetConflict, IntegrityError)):
            await sent.complete()
        assert place.files() == []
        await sent.put(4)
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]

    @pytest.mark.parametrize("data", [DATA, SMALL, b""], ids=len)
    async def test_complete_twice_is_once(
        self, destination: Destination, place: Place, data: bytes
    ) -> None:
        """The reply to the first may have been lost."""
        sent = await self.begin(destination, data)
        await sent.put()
        first = await sent.complete()
        assert await sent.complete() == first
        assert place.files() == [("data.bin", data)]

    async def test_held_is_the_truth(self, destination: Destination) -> None:
        """What was put is held, whatever was tried besides."""
        sent = await self.begin(destination)
        if not (await self.capabilities(destination)).resumable:
            return
        held = await sent.remote.held()
        for index in (0, 1, 2):
            await sent.put(index)
            held = await sent.remote.held()
            assert sorted(receipt.index for receipt in held) == list(range(index + 1))
        for receipt in held:
            chunk = sent.chunks[receipt.index]
            assert receipt.size == chunk.size
            assert receipt.sha256 in {None, chunk.sha256}
        await sent.remote.abort()

    async def test_token_that_stands_for_nothing(
        self, destination: Destination
    ) -> None:
        """It is gone, or refused; never a path, never another request."""
        spec = UploadSpec(name="data.bin", size=len(DATA))
        await destination.negotiate(spec)
        plan = Plan(size=10, chunk_size=5)
        for token in TOKENS:
            with pytest.raises((RemoteGone, RemoteRejected)):
                await destination.reopen(spec, plan, token)

    async def test_abort_before_anything_was_put(
        self, destination: Destination, place: Place
    ) -> None:
        """An upload that was only begun leaves nothing either."""
        for data in (DATA, SMALL, b""):
            sent = await self.begin(destination, data)
            await sent.remote.abort()
        assert place.files() == []
        assert place.litter() == []

    async def test_second_file_of_a_name(
        self, destination: Destination, place: Place
    ) -> None:
        """It takes the place of the first, or stands beside it; none is half."""
        for data in (DATA, SMALL, DATA[:700_000]):
            sent = await self.begin(destination, data)
            await sent.put()
            await sent.complete()
        expected = [DATA[:700_000]]
        if not place.one_name_one_file:
            expected += [DATA, SMALL]
        files = sorted(place.files(), key=lambda file: len(file[1]))
        expected.sort(key=len)
        assert files == [("data.bin", data) for data in expected]

    async def test_two_that_must_not_overwrite_each_other(
        self, destination: Destination, place: Place
    ) -> None:
        """Whoever completes first wins; the other is refused, not merged."""
        first = await self.begin(destination, DATA, overwrite=False)
        second = await self.begin(destination, DATA[::-1], overwrite=False)
        if len(first.chunks) == 1:
            return
        await first.put()
        await second.put()
        await first.complete()
        if place.one_name_one_file:
            with pytest.raises(RemoteRejected, match="exists already"):
                await second.complete()
            await second.remote.abort()
            assert place.files() == [("data.bin", DATA)]
        assert ("data.bin", DATA) in place.files()

    async def test_uploads_beside_each_other_do_not_mix(
        self, destination: Destination, place: Place
    ) -> None:
        """Different names, at the same time, through one destination."""
        names = [f"{number}.bin" for number in range(4)]
        parts = {name: DATA[number:] for number, name in enumerate(names)}

        async def send(name: str) -> None:
            sent = await self.begin(destination, parts[name], name=name)
            await sent.put()
            await sent.complete()

        await asyncio.gather(*(send(name) for name in names))
        assert sorted(place.files()) == sorted(parts.items())

    async def test_many_chunks(self, destination: Destination, place: Place) -> None:
        """More of them than connections, buffers or a page of an answer."""
        spec = UploadSpec(name="data.bin", size=len(DATA), whole_digest=True)
        found = await destination.negotiate(spec)
        plan = plan_chunks(len(DATA), 12_000, found)
        remote = await destination.open(spec, plan)
        sent = Sent(spec, plan, DATA, remote)
        await sent.put()
        if found.resumable:
            assert len(await remote.held()) == len(sent.chunks)
            assert len(sent.chunks) == min(126, found.max_chunks or 126)
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]

    @pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK, len(DATA)])
    async def test_length_that_shows_only_at_the_end(
        self, destination: Destination, place: Place, size: int
    ) -> None:
        """Where that is possible; elsewhere it is refused before a byte goes."""
        if not (await self.capabilities(destination, None)).unknown_length:
            with pytest.raises(ConfigurationError):
                await self.begin(destination, DATA[:size], length_known=False)
            return
        sent = await self.begin(destination, DATA[:size], length_known=False)
        await sent.put()
        await sent.complete()
        assert place.files() == [("data.bin", DATA[:size])]

    async def test_name_arrives_as_it_is(
        self, destination: Destination, place: Place
    ) -> None:
        """Nothing in it is taken for a part of a URL, of a small or a large file."""
        for name in NAMES:
            for data in (SMALL, DATA):
                sent = await self.begin(destination, data, name=name)
                await sent.put()
                await sent.complete()
        expected = {(name, DATA) for name in NAMES}
        if not place.one_name_one_file:
            expected |= {(name, SMALL) for name in NAMES}
        assert set(place.files()) == expected

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    async def test_hostile_name_leads_nowhere(
        self, destination: Destination, place: Place, data: bytes
    ) -> None:
        """It is refused as no name, or stored inside, whole; never elsewhere."""
        stored = 0
        for name in HOSTILE:
            try:
                sent = await self.begin(destination, data, name=name)
                await sent.put()
                await sent.complete()
            except (ConfigurationError, RemoteRejected, RemoteUnavailable):
                # A server may say 500 to a name that its file system does not take.
                continue
            stored += 1
        assert [found for _, found in place.files()] == stored * [data]
        assert place.litter() == []

    async def test_metadata_of_any_kind(
        self, destination: Destination, place: Place
    ) -> None:
        """What cannot be kept is left out or refused, for small and large files."""
        for metadata in (
            {"run": "7"},
            {"key with space": "Zoë\n"},
            {"k": "v" * 10_000},
        ):
            for data in (DATA, SMALL):
                spec = UploadSpec(
                    name="data.bin",
                    size=len(data),
                    metadata=metadata,
                    content_type="x/y",
                )
                try:
                    plan = plan_chunks(
                        len(data), CHUNK, await destination.negotiate(spec)
                    )
                    remote = await destination.open(spec, plan)
                    sent = Sent(spec, plan, data, remote)
                    await sent.put()
                    await sent.complete()
                except (ConfigurationError, RemoteRejected):
                    # What cannot stand in a header is refused, not cut off.
                    assert metadata != {"run": "7"}
                else:
                    assert ("data.bin", data) in place.files()


class TestMemory(DestinationSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        folder = memory_folder(tmp_path.name)
        return Place(
            url=f"memory://{tmp_path.name}/",
            files=lambda: sorted(folder.objects.items()),
            litter=lambda: list(folder.parts),
        )


class TestFile(DestinationSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        folder = tmp_path / "inside" / "store"

        def files() -> list[tuple[str, bytes]]:
            return [
                (str((tmp_path / name).relative_to(folder)), data)
                for name, data in visible(tmp_path)
            ]

        return Place(
            url=folder.as_uri(),
            files=files,
            litter=lambda: [str(path) for path in tmp_path.rglob(".upload_kit-*")],
        )

    @pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "file/inside"])
    async def test_name_that_the_folder_never_takes(
        self, destination: Destination, place: Place, name: str
    ) -> None:
        """It is refused for good, not tried again until the disk is better."""
        sent = await self.begin(destination, SMALL, name="file")
        await sent.put()
        await sent.complete()
        with pytest.raises(RemoteRejected, match="Cannot write"):
            await self.begin(destination, SMALL, name=name)

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"\xff\xfe garbage \n",
            b"\n999 5 " + b"0" * 64 + b"\n",
            b"\n0 300000 " + b"0" * 63 + b"\n",
            b"\n" + b"9" * 5000 + b" 5 " + b"0" * 64 + b"\n",
        ],
        ids=lambda damage: ascii(damage[:12]),
    )
    async def test_journal_that_a_crash_has_torn(
        self, destination: Destination, place: Place, damage: bytes
    ) -> None:
        """Its chunks are sent again, and the file is whole."""
        sent = await self.begin(destination)
        await sent.put(0)
        spoil(place, damage)
        assert [receipt.index for receipt in await sent.remote.held()] == [0]
        await sent.put(1, 2, 3, 4, 5)
        await sent.complete()
        assert place.files() == [("data.bin", DATA)]


def spoil(place: Place, damage: bytes) -> None:
    """Add bytes to the journal that no writer of ours has written."""
    (journal,) = (path for path in place.litter() if path.endswith("journal"))
    with Path(journal).open("ab") as file:
        file.write(damage)


class NativePlace:
    scheme = "native+"
    path = ""

    @pytest.fixture
    async def place(self, tmp_path: Path) -> AsyncIterator[Place]:
        root = tmp_path / "store"
        config = ServerConfig(
            directory=root, port=0, durability=Durability.PAGE_CACHE, grace=0.1
        )
        async with running_server(config) as server:
            yield Place(
                url=self.scheme + server.url + self.path,
                files=published(tmp_path),
                litter=lambda: [str(path) for path in (root / "incoming").iterdir()],
                one_name_one_file=False,
            )


class TestNative(NativePlace, DestinationSuite):
    """Our own server."""


class TestNativeFound(NativePlace, ArrivalSuite):
    """Our own server at an `http://` URL that says nothing of a protocol."""

    scheme = ""


class TestTus(NativePlace, DestinationSuite):
    """Our own server, in tus."""

    scheme = "tus+"
    path = "files/"


class TestTusParts(NativePlace, DestinationSuite):
    """Our own server, in tus, a file in parts that it joins."""

    scheme = "tus+"
    path = "files/?parts=6"


class TestTusFound(NativePlace, ArrivalSuite):
    """Our own server's tus side, found by what it says of itself."""

    scheme = ""
    path = "files/"


@pytest.fixture(scope="module")
def tus_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerServer]:
    with tus_node_server(tmp_path_factory.mktemp("tus") / "peer") as server:
        yield server


class TestTusElsewhere(ArrivalSuite):
    """What `@tus/server` serves, which checks no digest."""

    @pytest.fixture
    def place(self, tus_node: PeerServer) -> Place:
        for path in tus_node.folder.iterdir():
            path.unlink()
        return tus_node_place(tus_node)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    with NginxServer(tmp_path_factory.mktemp("nginx")) as server:
        yield server


class PutPlace:
    scheme = "put+"

    @pytest.fixture
    def place(self, nginx: NginxServer, tmp_path: Path) -> Place:
        root = nginx.root / tmp_path.name

        def files() -> list[tuple[str, bytes]]:
            found = nginx.root.parent.rglob(f"*{tmp_path.name}/**/*")
            return sorted(
                (str(path.relative_to(root)), path.read_bytes())
                for path in found
                if path.is_file()
            )

        return Place(
            url=f"{self.scheme}{nginx.url}{tmp_path.name}/",
            files=files,
            litter=lambda: [str(p) for p in (nginx.root.parent / "body").rglob("*")],
        )


class TestPut(PutPlace, DestinationSuite):
    """An nginx with WebDAV."""


class TestPutFound(PutPlace, ArrivalSuite):
    """An nginx at an `http://` URL that says nothing of a protocol."""

    scheme = ""


class TestGemini(DestinationSuite):
    """The scripted Gemini Files API; a file there is published with its last chunk."""

    @pytest.fixture
    async def place(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
        monkeypatch.setenv("GEMINI_API_KEY", GEMINI_KEY)
        async with GeminiServer(granularity=None, commit=1) as server:
            yield gemini_place(server)

    async def test_file_of_other_bytes_is_not_published(
        self, destination: Destination, place: Place
    ) -> None:
        """It is deleted again, so that the upload must begin anew."""
        sent = await self.begin(destination)
        await sent.put()
        with pytest.raises(IntegrityError):
            await sent.complete(sha256="0" * 64)
        assert place.files() == []
        with pytest.raises(RemoteGone):
            await sent.remote.held()


@pytest.fixture(scope="module")
def s3(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    if reason := S3Server.missing(request.param):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("s3") / "store"
    with S3Server(request.param, folder, min_part=1) as server:
        yield server


class S3Place:
    more = ""

    @pytest.fixture
    def place(
        self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Place:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        prefix = f"{tmp_path.name}/"
        return Place(
            url=f"s3://{BUCKET}/{prefix}?min_part=1{self.more}",
            files=lambda: s3.objects(prefix),
            litter=lambda: s3.unfinished(prefix),
        )


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
class TestS3(S3Place, DestinationSuite):
    """moto, which takes small parts, and checks no digest."""

    more = "&md5=off"


@pytest.mark.parametrize("s3", ["rclone"], indirect=True)
class TestS3Elsewhere(S3Place, ArrivalSuite):
    """What rclone serves, which knows no conditions."""


HIDDEN: Final = "s3cr3t"


class SecretSuite:
    """What is told of an upload does not tell the password in its URL."""

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    async def test_password_is_in_nothing_that_is_told(
        self, place: Place, data: bytes
    ) -> None:
        """Neither in the location of the file nor in the destination's own text."""
        url = place.url.replace("//", f"//user:{HIDDEN}@")
        destination = make_destination(url, ConnectionOptions())
        sent = await DestinationSuite().begin(destination, data)
        await sent.put()
        stored = await sent.complete()
        await destination.aclose()
        assert HIDDEN not in stored.to_json()
        assert HIDDEN not in repr(destination)


class TestNativeSecrets(NativePlace, SecretSuite):
    """Our own server."""


class TestPutSecrets(PutPlace, SecretSuite):
    """An nginx with WebDAV."""
