"""
For random files, plans, lanes, failures and moments to stop: bytes out equal bytes in.

What is drawn is a script: which requests go wrong and how, when the upload is paused,
cancelled and gone on with. At the end `sent == confirmed == total`, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.knobs import Fault, KnobServer, Step
from upload_kit import (
    ChunkedUploader,
    ParallelUploader,
    ResumableUploader,
    RetryPolicy,
    UploadCancelled,
    UploadKitError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from upload_kit import Transfer, UploadEvent

# Each example runs a server: few of them usually, many to prove it.
PROPERTY: Final = settings(
    max_examples=max(25, settings().max_examples // 4),
    suppress_health_check=[HealthCheck.too_slow],
)
POOL: Final = random.Random(15).randbytes(3_000_000)
AT_ONCE: Final = RetryPolicy(base_delay=0.0, attempts=6)
FAILING: Final = [Step.OPTIONS, Step.BEGIN, Step.STATUS, Step.COMPLETE]

# Sizes around one request (1 MiB), none, and a few chunks.
sizes: Final = st.sampled_from([0, 1, 100, 1_048_576, 1_048_577]) | st.integers(
    0, len(POOL)
)
chunk_sizes: Final = st.integers(60_000, 1_500_000)


@st.composite
def faults(draw: st.DrawFn) -> tuple[Step, Fault]:
    """Something that goes wrong once and may go right the next time."""
    step = draw(st.sampled_from([Step.CHUNK] * 5 + [Step.ONCE] * 2 + FAILING))
    kinds: list[dict[str, Any]] = [
        {"refuse": draw(st.sampled_from([408, 429, 500, 502, 503]))},
        {"cut_after": draw(st.integers(0, 1_000_000))},
        {"act_and_cut": True},
        {"refuse": 503, "headers": {"Retry-After": "0"}},
    ]
    if step is Step.CHUNK:
        kinds.append({"change": {"sha256": "0" * 64}})
        kinds.append({"forget": True})
    if step is Step.COMPLETE:
        kinds.append({"drop_chunk": draw(st.integers(0, 5))})
    return step, Fault(
        **draw(st.sampled_from(kinds)), after=draw(st.integers(0, 6)), times=1
    )


def survivable(script: list[tuple[Step, Fault]]) -> list[tuple[Step, Fault]]:
    """Keep what an upload survives: one loss or lie, three failures of a contact."""
    kept: list[tuple[Step, Fault]] = []
    seen: Counter[str] = Counter()
    for step, fault in script:
        grave = fault.forget or fault.change or fault.drop_chunk is not None
        kind = "grave" if grave else step
        seen[kind] += 1
        if seen[kind] <= (1 if grave else 3):
            kept.append((step, fault))
    return kept


def run(work: Awaitable[None]) -> None:
    """Run in a loop of its own, never for ever."""

    async def limited() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(limited())


def uploader(url: str, kind: type[ChunkedUploader], **options: Any) -> ChunkedUploader:
    given_: dict[str, Any] = {"retry": AT_ONCE, "history": False, **options}
    if kind is ChunkedUploader:
        given_.pop("max_parallel", None)
    if kind is ResumableUploader:
        given_.setdefault("session_dir", "memory:")
    return kind(url, **given_)


def prove(server: KnobServer, transfer: Transfer, data: bytes) -> None:
    """Make sure of the bytes, and of every sum."""
    result, state = transfer.result(), transfer.progress
    assert server.published["a"] == data
    assert state.sent == state.confirmed == state.total == len(data)
    assert state.chunks_confirmed == state.chunks_total == len(result.chunks)
    assert result.size == len(data)
    position = 0
    for index, chunk in enumerate(result.chunks):
        assert (chunk.index, chunk.start) == (index, position)
        part = data[chunk.start : chunk.end]
        assert chunk.sha256 == hashlib.sha256(part).hexdigest()
        position = chunk.end
    assert position == len(data)
    assert result.sha256 in {None, hashlib.sha256(data).hexdigest()}


def check_story(events: list[UploadEvent]) -> None:
    """Make sure that what was told was possible at every moment."""
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    for event in events:
        state = event.progress
        assert 0 <= state.confirmed <= state.sent
        assert state.total is None or state.sent <= state.total
        assert 0 <= state.resumed <= state.confirmed
    assert [event for event in events if event.kind.is_final] == events[-1:]


async def pieces(data: bytes, step: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


@pytest.mark.parametrize("kind", [ChunkedUploader, ParallelUploader, ResumableUploader])
@PROPERTY
@given(
    size=sizes,
    chunk_size=chunk_sizes,
    lanes=st.integers(1, 5),
    budget=st.integers(300_000, 6_000_000),
    script=st.lists(faults(), max_size=6).map(survivable),
    streamed=st.none() | st.integers(1_000, 700_000),
)
def test_bytes_out_equal_bytes_in(
    *,
    kind: type[ChunkedUploader],
    size: int,
    chunk_size: int,
    lanes: int,
    budget: int,
    script: list[tuple[Step, Fault]],
    streamed: int | None,
) -> None:
    """Whatever goes wrong on the way, as long as it goes right in the end."""
    data = POOL[:size]
    lossy = any(fault.forget or fault.drop_chunk is not None for _, fault in script)

    async def upload() -> None:
        async with KnobServer() as server:
            for step, fault in script:
                server.fault(step, fault)
            up = uploader(
                server.url,
                kind,
                chunk_size=chunk_size,
                max_parallel=lanes,
                memory_budget=budget,
            )
            # What was lost there can be sent again only if it can be read again.
            once_only = streamed is not None and not lossy
            source = pieces(data, streamed or 1) if once_only else data
            transfer = up.start(source, name="a")
            events = [event async for event in transfer]
            await transfer
            check_story(events)
            prove(server, transfer, data)
            assert server.peak_chunks <= (lanes if kind is not ChunkedUploader else 1)

    run(upload())


@PROPERTY
@given(
    size=st.integers(1_048_577, len(POOL)),
    chunk_size=st.integers(60_000, 900_000),
    lanes=st.integers(1, 4),
    stops=st.lists(st.integers(0, 25), max_size=4),
    ending=st.sampled_from(["cancel", "interrupt", "server"]),
)
def test_stopped_anywhere_and_gone_on_with(
    *, size: int, chunk_size: int, lanes: int, stops: list[int], ending: str
) -> None:
    """Each run goes on where the last one ended; in the end the file is whole."""
    data = POOL[:size]

    async def upload() -> None:
        with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as to:
            await asyncio.to_thread(file.write, data)
            await asyncio.to_thread(file.flush)
            async with KnobServer() as server:
                options = {
                    "chunk_size": chunk_size,
                    "max_parallel": lanes,
                    "session_dir": to,
                }
                for stop in stops:
                    up = uploader(server.url, ResumableUploader, **options)
                    if ending == "server":
                        fault = Fault(refuse=413, after=stop, times=None)
                        server.fault(Step.CHUNK, fault)
                    transfer = up.start(file.name, name="a")
                    await stop_at(transfer, stop, ending)
                    server.clear_faults()
                    if transfer.progress.status == "complete":
                        server.published.clear()
                held = max((len(u.parts) for u in server.uploads.values()), default=0)
                before = server.count(Step.CHUNK)
                up = uploader(server.url, ResumableUploader, **options)
                transfer = up.start(file.name, name="a")
                await transfer
                prove(server, transfer, data)
                if not any(each.done for each in list(server.uploads.values())[:-1]):
                    sent = server.count(Step.CHUNK) - before
                    assert sent <= len(transfer.result().chunks) - held

    run(upload())


async def stop_at(transfer: Transfer, event_number: int, ending: str) -> None:
    """End an upload at one of its events, unless it ends before."""
    seen = 0
    async for _ in transfer:
        if seen == event_number and ending != "server":
            getattr(transfer, ending)()
        seen += 1
    try:
        await transfer
    except UploadCancelled:
        assert transfer.progress.status == "cancelled"
    except UploadKitError:
        assert transfer.progress.status == "failed"


@PROPERTY
@given(
    moments=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=8),
    lanes=st.integers(1, 4),
)
def test_paused_and_resumed_at_any_moment(
    *, moments: list[tuple[int, bool]], lanes: int
) -> None:
    """A pause loses nothing and sends nothing twice."""
    data = POOL[:2_000_000]

    async def upload() -> None:
        async with KnobServer() as server:
            up = uploader(
                server.url, ParallelUploader, chunk_size=150_000, max_parallel=lanes
            )
            transfer = up.start(data, name="a")
            number = 0
            async for event in transfer:
                for moment, pause in moments:
                    if moment == number:
                        (transfer.pause if pause else transfer.resume)()
                number += 1
                if event.kind == "paused":
                    # Whatever is on its way may end; then it goes on.
                    await asyncio.sleep(0)
                    transfer.resume()
            await transfer
            prove(server, transfer, data)
            assert transfer.result().retries == 0

    run(upload())


@PROPERTY
@given(
    files=st.lists(st.tuples(st.integers(0, 1_200_000), st.booleans()), max_size=8),
    lanes=st.integers(1, 4),
    budget=st.integers(200_000, 2_000_000),
)
def test_files_that_fail_take_no_other_with_them(
    *, files: list[tuple[int, bool]], lanes: int, budget: int
) -> None:
    """Each good one arrives whole, each bad one says why, in the order given."""

    async def broken(size: int) -> AsyncIterator[bytes]:
        yield POOL[:size]
        raise ValueError("a bug of the caller")

    async def upload() -> None:
        async with KnobServer() as server:
            up = ParallelUploader(
                server.url,
                chunk_size=150_000,
                max_parallel=lanes,
                memory_budget=budget,
                retry=AT_ONCE,
                history=False,
            )
            sources: dict[str, Any] = {
                str(number): broken(size) if bad else POOL[:size]
                for number, (size, bad) in enumerate(files)
            }
            results = await up.upload_files(sources)
            assert [result.success for result in results] == [not b for _, b in files]
            assert [result.name for result in results] == list(sources)
            assert server.published == {
                str(number): POOL[:size]
                for number, (size, bad) in enumerate(files)
                if not bad
            }
            assert server.peak_chunks <= lanes
            assert all(upload.done for upload in server.uploads.values())

    run(upload())


json_values: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS: Final = [
    *("protocol", "min_chunk", "max_chunk", "max_chunks", "max_size", "checksums"),
    *("encodings", "expires_after", "session_id", "chunk_size", "size", "sha256"),
    *("location", "chunks", "index", "state", "missing"),
]


@PROPERTY
@given(
    step=st.sampled_from([Step.ONCE, Step.CHUNK, *FAILING]),
    change=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3),
    status=st.none() | st.sampled_from([200, 204, 301, 400, 404, 409, 418, 422, 599]),
    size=st.sampled_from([10, 1_500_000]),
)
def test_server_that_says_anything(
    *, step: Step, change: dict[str, Any], status: int | None, size: int
) -> None:
    """A typed error, or success with the right bytes; never a bare exception."""
    data = POOL[:size]

    async def upload() -> None:
        async with KnobServer() as server:
            server.fault(step, Fault(change=change, refuse=status, times=None))
            up = uploader(server.url, ResumableUploader, chunk_size=400_000)
            transfer = up.start(data, name="a")
            with contextlib.suppress(UploadKitError):
                await transfer
            (last,) = [event async for event in transfer]
            assert last.result is not None
            assert last.kind == ("completed" if last.result.success else "failed")
            assert len(last.error or "") < 2000
            if last.result.success:
                assert server.published["a"] == data

    run(upload())
