"""One upload from source to destination, whatever the destination is and does."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest

from upload_kit import (
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    ParallelUploader,
    RemoteGone,
    RetryPolicy,
    SourceChanged,
    Verification,
)
from upload_kit.destinations import registry
from upload_kit.models import Receipt, RemoteObject
from upload_kit.planning import Capabilities

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

pytestmark = pytest.mark.usefixtures("nothing_left")

CHUNK: Final = 1000
DATA: Final = random.Random(8).randbytes(5 * CHUNK + 1)
AT_ONCE: Final = RetryPolicy(base_delay=0.0, attempts=3)


@dataclass
class Shelf:
    """What stands at a destination that a test has told how to be."""

    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(checksums=frozenset({"sha256"}))
    )
    parts: dict[int, bytes] = field(default_factory=dict)
    whole: bytes | None = None
    calls: list[str] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    says: dict[str, Any] = field(default_factory=dict)
    skip: int = 0
    busy: int = 0
    peak: int = 0

    def call(self, verb: str) -> None:
        self.calls.append(verb)
        if self.errors.get(verb):
            raise self.errors[verb].pop(0)


class ShelfDestination:
    """`shelf://name/`: a whole destination, of any capabilities, that can fail."""

    shelves: ClassVar[dict[str, Shelf]] = {}

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        self._shelf = self.shelves[location.host]

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        self._shelf.call("negotiate")
        return self._shelf.capabilities

    async def open(self, spec: UploadSpec, plan: Plan) -> ShelfUpload:
        self._shelf.call("open")
        return ShelfUpload(self._shelf)

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> ShelfUpload:
        self._shelf.call("reopen")
        return ShelfUpload(self._shelf)

    async def aclose(self) -> None:
        self._shelf.call("aclose")


class ShelfUpload:
    token = "the only one"

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def held(self) -> Sequence[Receipt]:
        self._shelf.call("held")
        return [
            Receipt(index=i, size=len(part), sha256=hashlib.sha256(part).hexdigest())
            for i, part in self._shelf.parts.items()
        ]

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        shelf = self._shelf
        shelf.call("put")
        shelf.busy += 1
        shelf.peak = max(shelf.peak, shelf.busy)
        try:
            skip = min(shelf.skip, chunk.size)
            data = b"".join([bytes(piece) async for piece in body.stream(skip)])
        finally:
            shelf.busy -= 1
        shelf.parts[chunk.index] = DATA[chunk.start : chunk.start + skip] + data
        shelf.call("answer")
        return Receipt(index=chunk.index, size=chunk.size)

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        self._shelf.call("complete")
        self._shelf.whole = b"".join(
            self._shelf.parts[receipt.index] for receipt in receipts
        )
        return RemoteObject(location="shelf", **self._shelf.says)

    async def abort(self) -> None:
        self._shelf.call("abort")
        self._shelf.parts.clear()


@pytest.fixture
def shelf(request: pytest.FixtureRequest) -> Shelf:
    """Return a destination of this test's own, at `shelf://a/`."""
    registry.register("shelf", f"{__name__}:ShelfDestination")
    ShelfDestination.shelves["a"] = Shelf()
    return ShelfDestination.shelves["a"]


def uploader(**options: Any) -> ParallelUploader:
    settings: dict[str, Any] = {
        "chunk_size": CHUNK,
        "retry": AT_ONCE,
        "history": False,
        **options,
    }
    return ParallelUploader("shelf://a/", **settings)


async def pieces(data: bytes = DATA) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 77):
        yield data[start : start + 77]


async def test_calls_come_in_the_order_of_the_port(shelf: Shelf) -> None:
    """Negotiate, open, ask, put each chunk, complete, close."""
    await uploader(max_parallel=1).upload_file(DATA)
    assert shelf.calls == [
        "negotiate",
        "open",
        "held",
        *(["put", "answer"] * 6),
        "complete",
        "aclose",
    ]
    assert shelf.whole == DATA


@pytest.mark.parametrize("lanes", [1, 2, 3, None])
async def test_destination_says_how_many_lanes(shelf: Shelf, lanes: int | None) -> None:
    """A destination of one lane gets one chunk at a time, in order."""
    shelf.capabilities = Capabilities(lanes=lanes)
    await uploader(max_parallel=4).upload_file(DATA)
    assert shelf.peak <= (lanes or 4)
    assert shelf.whole == DATA


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({"max_chunk": 600}, [600] * 8 + [201]),
        ({"min_chunk": 3000}, [3000, 2001]),
        ({"chunk_multiple": 512}, [1024] * 4 + [905]),
        ({"max_chunks": 2}, [2501, 2500]),
        ({"max_chunks": 1}, [5001]),
    ],
    ids=str,
)
async def test_destination_says_how_large_chunks_are(
    shelf: Shelf, limits: dict[str, Any], sizes: list[int]
) -> None:
    """The plan fits its limits, whatever the uploader wants."""
    shelf.capabilities = Capabilities(**limits)
    result = await uploader().upload_file(DATA)
    assert [chunk.size for chunk in result.chunks] == sizes
    assert shelf.whole == DATA


@pytest.mark.parametrize(
    ("capabilities", "says", "verified"),
    [
        ({"checksums": frozenset({"sha256"})}, {}, Verification.CHUNKS),
        ({}, {"size": len(DATA)}, Verification.SIZE),
        ({}, {}, Verification.NONE),
        (
            {"whole_checksums": frozenset({"sha256"})},
            {"sha256": hashlib.sha256(DATA).hexdigest()},
            Verification.SHA256,
        ),
    ],
    ids=str,
)
async def test_result_says_how_far_the_bytes_were_compared(
    shelf: Shelf,
    capabilities: dict[str, Any],
    says: dict[str, Any],
    verified: Verification,
) -> None:
    """Never more than the destination gave to compare."""
    shelf.capabilities = Capabilities(**capabilities)
    shelf.says = says
    assert (await uploader().upload_file(DATA)).verified is verified


@pytest.mark.parametrize("says", [{"size": 1}, {"sha256": "0" * 64}], ids=str)
async def test_destination_that_holds_something_else(
    shelf: Shelf, says: dict[str, Any]
) -> None:
    """The upload has failed, and what is there is thrown away."""
    shelf.says = says
    with pytest.raises(IntegrityError):
        await uploader(whole_digest=True).upload_file(DATA)
    assert shelf.calls[-2:] == ["abort", "aclose"]


@pytest.mark.parametrize("skip", [1, 500, CHUNK])
async def test_destination_that_has_a_part_already(shelf: Shelf, skip: int) -> None:
    """Bytes that are skipped count as sent; all the sums agree."""
    shelf.skip = skip
    transfer = uploader().start(DATA)
    result = await transfer
    state = transfer.progress
    assert state.sent == state.confirmed == state.total == len(DATA)
    assert result.bytes_sent == len(DATA) - 5 * skip - 1
    assert shelf.whole == DATA


async def test_chunks_that_the_destination_has_are_not_sent(shelf: Shelf) -> None:
    """Asked before the first byte; compared, counted as resumed."""
    shelf.parts = {0: DATA[:CHUNK], 3: DATA[3 * CHUNK : 4 * CHUNK]}
    result = await uploader().upload_file(DATA)
    assert shelf.calls.count("put") == 4
    assert result.bytes_resumed == 2 * CHUNK
    assert shelf.whole == DATA


async def test_chunk_that_was_lost_after_all_is_sent_again(shelf: Shelf) -> None:
    """A destination that misses chunks it acknowledged gets them, once."""
    shelf.errors["complete"] = [OffsetConflict("Chunk 2 is missing.")]
    result = await uploader().upload_file(DATA)
    assert result.success
    assert shelf.calls.count("complete") == 2
    assert shelf.calls.count("held") == 2


async def test_destination_that_always_misses_something(shelf: Shelf) -> None:
    """It is asked once more, not for ever."""
    shelf.errors["complete"] = [OffsetConflict("Missing.") for _ in range(9)]
    with pytest.raises(OffsetConflict):
        await uploader().upload_file(DATA)
    assert shelf.calls.count("complete") <= 2


@pytest.mark.parametrize("verb", ["held", "put", "answer", "complete"])
async def test_upload_that_is_gone_is_begun_anew(shelf: Shelf, verb: str) -> None:
    """Once: the remote lost what it had."""
    shelf.errors[verb] = [RemoteGone("Expired.")]
    result = await uploader().upload_file(DATA)
    assert result.success
    assert shelf.calls.count("open") == 2
    assert shelf.whole == DATA


async def test_upload_that_is_gone_twice(shelf: Shelf) -> None:
    """A destination that keeps nothing is not asked for ever."""
    shelf.errors["put"] = [RemoteGone("Expired.") for _ in range(99)]
    with pytest.raises(RemoteGone):
        await uploader(max_parallel=1).upload_file(DATA)
    assert shelf.calls.count("open") == 2


@pytest.mark.parametrize("verb", ["put", "complete"])
@pytest.mark.parametrize("error", [RemoteGone("X."), OffsetConflict("X.")], ids=repr)
async def test_stream_that_cannot_be_read_again(
    shelf: Shelf, verb: str, error: Exception
) -> None:
    """What was lost there cannot be sent again, and the error says what happened."""
    shelf.capabilities = Capabilities(unknown_length=True)
    shelf.errors[verb] = [error for _ in range(9)]
    with pytest.raises(type(error)):
        await uploader(max_parallel=1).upload_file(pieces())
    assert shelf.calls.count("open") == 1


@pytest.mark.parametrize(
    "verb", ["negotiate", "open", "held", "put", "answer", "complete"]
)
async def test_bug_of_an_adapter_is_raised_as_it_is(
    shelf: Shelf, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever awaits gets it, it is logged, and what arrived is thrown away."""
    shelf.errors[verb] = [KeyError("a bug")]
    with pytest.raises(KeyError, match="a bug"):
        await uploader().upload_file(DATA)
    assert "met a bug" in caplog.text
    assert ("abort" in shelf.calls) is (verb not in {"negotiate", "open"})
    assert shelf.calls[-1] == "aclose"


async def test_bug_in_one_file_stops_no_other(shelf: Shelf) -> None:
    """Its result says what it was."""
    shelf.errors["open"] = [KeyError("a bug")]
    results = await uploader(max_parallel=1).upload_files([DATA, DATA])
    assert sorted(result.success for result in results) == [False, True]
    (failed,) = [result for result in results if not result.success]
    assert failed.error_type == "KeyError"


@pytest.mark.parametrize("error", [KeyError("x"), OSError("x")], ids=repr)
async def test_clearing_up_that_fails_hides_no_error(
    shelf: Shelf, error: Exception
) -> None:
    """The first error is the one that counts."""
    shelf.errors["put"] = [IntegrityError("Differs.") for _ in range(9)]
    shelf.errors["abort"] = [error]
    with pytest.raises(IntegrityError):
        await uploader(max_parallel=1).upload_file(DATA)


async def test_closing_that_fails_hides_no_result(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """What has arrived has arrived."""
    shelf.errors["aclose"] = [OSError("x")]
    result = await uploader().upload_file(DATA)
    assert result.success
    assert "could not be closed" in caplog.text


async def test_stream_longer_than_memory_for_one_piece(shelf: Shelf) -> None:
    """What goes in one piece and is read once cannot be held: told before it is."""
    shelf.capabilities = Capabilities(max_chunks=1, lanes=1)
    up = uploader(memory_budget=2000)
    with pytest.raises(ConfigurationError, match="memory"):
        await up.upload_file(pieces(), size=len(DATA))
    assert "put" not in shelf.calls


async def test_chunks_of_a_stream_are_no_larger_than_the_memory(shelf: Shelf) -> None:
    """Where the destination takes any chunk size, smaller ones are made."""
    shelf.capabilities = Capabilities(unknown_length=True)
    result = await uploader(chunk_size=10**9, memory_budget=2000).upload_file(pieces())
    assert max(chunk.size for chunk in result.chunks) <= 2000
    assert shelf.whole == DATA


@pytest.mark.parametrize("checksums", [frozenset(), frozenset({"sha256"})], ids=len)
async def test_file_larger_than_memory_in_one_piece(
    shelf: Shelf, checksums: frozenset[str]
) -> None:
    """It is read while it travels, and its digest is known all the same."""
    shelf.capabilities = Capabilities(max_chunks=1, lanes=1, checksums=checksums)
    up = uploader(memory_budget=2000)
    result = await up.upload_file(DATA)
    assert shelf.whole == DATA
    assert result.sha256 == hashlib.sha256(DATA).hexdigest()
    pool = up._resources
    assert pool._shared is None


async def test_logs_tell_of_start_end_and_retries(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """INFO a transfer's start and end, WARNING a retry, nothing above."""
    caplog.set_level(logging.INFO, "upload_kit")
    shelf.errors["put"] = [OffsetConflict("Elsewhere.")]
    await uploader().upload_file(DATA, name="a.bin")
    levels = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "upload_kit.transfer"
    ]
    assert [level for level, _ in levels] == ["INFO", "WARNING", "INFO"]
    assert all("a.bin" in message for _, message in levels)


async def test_no_event_is_made_when_nobody_listens(shelf: Shelf) -> None:
    """The last one is there all the same, for whoever comes late."""
    transfer = uploader(chunk_size=10).start(DATA)
    await transfer
    (last,) = [event async for event in transfer]
    assert last.result is not None
    assert last.progress.chunks_confirmed == len(last.result.chunks) == 501


async def test_uploader_in_two_event_loops_one_after_another() -> None:
    """A script may call `asyncio.run` twice with one uploader."""
    up = ParallelUploader("memory://loops/", history=False)

    def run(name: str) -> bool:
        return asyncio.run(up.upload_file(DATA, name=name)).success

    assert await asyncio.to_thread(run, "a")
    assert await asyncio.to_thread(run, "b")
    assert (await up.upload_file(DATA, name="c")).success


async def test_policy_may_be_refined_by_a_subclass(shelf: Shelf) -> None:
    """As the layers do it."""

    class Small(ParallelUploader):
        def policy(self) -> Any:
            return replace(super().policy(), chunk_size=2000)

    result = await Small("shelf://a/", history=False).upload_file(DATA)
    assert [chunk.size for chunk in result.chunks] == [2000, 2000, 1001]


async def test_source_that_changes_between_two_reads(shelf: Shelf) -> None:
    """A file in memory that somebody writes to is not sent half and half."""
    data = bytearray(DATA)
    shelf.parts = {0: DATA[:CHUNK]}
    data[5] ^= 1
    with pytest.raises(SourceChanged):
        await uploader().upload_file(data)
