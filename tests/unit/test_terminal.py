"""What a terminal, a pipe and a program are shown of events."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import struct
import termios
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import (
    Stage,
    StreamingProgress,
    UploadProgress,
    UploadResult,
    UploadStatus,
    Verification,
)
from upload_kit.progress.feeds import Feed
from upload_kit.terminal import Silent, follow, make_display
from upload_kit.terminal.bars import Bars, fit
from upload_kit.terminal.lines import JsonLines, PlainLines
from upload_kit.terminal.table import Column, format_table
from upload_kit.terminal.tally import Tally
from upload_kit.terminal.words import (
    amount,
    count_files,
    count_retries,
    describe_result,
    pace,
    percent,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MB = 1_000_000


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def state(
    name: str = "a.bin", *, confirmed: int = 0, total: int | None = 10 * MB, **more: Any
) -> UploadProgress:
    usual = UploadProgress(
        transfer_id=name,
        name=name,
        stage=Stage.UPLOADING,
        status=UploadStatus.UPLOADING,
        total=total,
        sent=confirmed,
        confirmed=confirmed,
        chunks_total=10,
        rate=2.0 * MB,
        eta=3.0,
    )
    return replace(usual, **more)


def event(
    kind: EventKind, progress: UploadProgress, *, seq: int = 0, **more: Any
) -> UploadEvent:
    return UploadEvent(
        kind=kind,
        transfer_id=progress.transfer_id,
        seq=seq,
        at=0.0,
        progress=progress,
        **more,
    )


def ending(progress: UploadProgress, *, success: bool = True) -> UploadEvent:
    """Return the last event of an upload."""
    return event(
        EventKind.COMPLETED if success else EventKind.FAILED,
        replace(
            progress,
            status=UploadStatus.COMPLETE if success else UploadStatus.FAILED,
            stage=Stage.COMPLETE if success else Stage.FAILED,
        ),
        result=UploadResult(
            success=success,
            name=progress.name,
            size=progress.total,
            seconds=2.0,
            location="memory://x/a.bin" if success else None,
            verified=Verification.SHA256,
            error=None if success else "It broke.",
        ),
    )


class TestWords:
    @pytest.mark.parametrize(
        "text",
        ["a\x1b[2Jb", "a\nb", "a\x00b", "a\u202eb", os.fsdecode(b"a\xffb"), "a\x9bb"],
        ids=["escape", "line", "nul", "bidi", "bytes", "c1"],
    )
    def test_names_cannot_steer_a_terminal(self, text: str) -> None:
        """Whatever is no visible character is replaced, and can be encoded."""
        shown = printable(text)
        assert shown.isprintable()
        assert shown.encode()
        assert (shown[0], shown[-1]) == ("a", "b")

    def test_usual_names_stay(self) -> None:
        """Spaces, umlauts and emojis are no danger."""
        assert printable("Ü 日本 🎉.bin") == "Ü 日本 🎉.bin"

    def test_a_hundred_percent_means_that_nothing_is_missing(self) -> None:
        """Shares are rounded down."""
        assert percent(state(confirmed=10 * MB - 1)) == " 99%"
        assert percent(state(confirmed=10 * MB)) == "100%"
        assert percent(state(total=None)) == "    "

    def test_amounts(self) -> None:
        """An unknown total is not made up."""
        assert amount(state(confirmed=MB)) == "1.00 MB of 10.00 MB"
        assert amount(state(confirmed=MB, total=None)) == "1.00 MB"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({}, "2.00 MB/s, 3.0 s left"),
            ({"eta": None}, "2.00 MB/s"),
            ({"status": UploadStatus.PENDING}, "starting"),
            ({"status": UploadStatus.PAUSED}, "paused"),
            ({"stage": Stage.VERIFYING}, "verifying"),
            ({"status": UploadStatus.COMPLETE, "elapsed": 65.0}, "done in 1:05"),
            ({"status": UploadStatus.FAILED}, "failed"),
            ({"status": UploadStatus.CANCELLED}, "cancelled"),
        ],
    )
    def test_pace(self, changes: dict[str, Any], said: str) -> None:
        """Speed and time left while bytes move, else what happens."""
        assert pace(state(**changes)) == said

    def test_results(self) -> None:
        """A result is one line, with what was special about it."""
        done = ending(state()).result
        assert done is not None
        assert describe_result(done) == (
            "a.bin: 10.00 MB in 2.0 s (5.00 MB/s), SHA-256 verified, at"
            " memory://x/a.bin"
        )
        harder = replace(done, bytes_resumed=4 * MB, retries=2)
        assert "4.00 MB were there already, 2 retries" in describe_result(harder)
        failed = ending(state(), success=False).result
        assert failed is not None
        assert describe_result(failed) == "a.bin: failed: It broke."
        cancelled = replace(failed, error_type="UploadCancelled")
        assert describe_result(cancelled) == "a.bin: cancelled"

    def test_counts(self) -> None:
        """One is one, and thousands can be read."""
        assert (count_files(1), count_files(2000)) == ("1 file", "2,000 files")
        assert (count_retries(1), count_retries(2)) == ("1 retry", "2 retries")


def test_tables_stand_in_columns() -> None:
    """Cells are padded, numbers to the left; nothing trails."""
    columns = [Column(title="NAME"), Column(title="SIZE", right=True)]
    assert format_table(columns, [["a", "10"], ["long", "5"]]) == (
        "NAME  SIZE\na       10\nlong     5"
    )
    assert format_table(columns, []) == "NAME  SIZE"


class TestTally:
    def test_it_counts_files_and_bytes(self) -> None:
        """The total is that of the command, also for files that have not begun."""
        tally = Tally(files=3, size=30 * MB)
        tally.update(event(EventKind.CONFIRMED, state("a", confirmed=4 * MB)))
        tally.update(ending(state("b", confirmed=10 * MB)))
        total = tally.total()
        assert (total.name, total.confirmed, total.total) == (
            "1 of 3 files",
            14 * MB,
            30 * MB,
        )
        assert total.status is UploadStatus.UPLOADING
        assert [one.transfer_id for one in tally.active.values()] == ["a"]

    def test_failures_are_counted(self) -> None:
        """A file that failed has ended, and is not complete; nor are all then."""
        tally = Tally(files=2, size=None)
        tally.update(ending(state("a"), success=False))
        tally.update(ending(state("b")))
        assert (tally.ended, tally.complete, tally.failed) == (2, 1, 1)
        stopped = state("c", status=UploadStatus.CANCELLED)
        tally.update(event(EventKind.CANCELLED, stopped))
        assert (tally.ended, tally.failed) == (3, 1)
        assert tally.total().status is UploadStatus.FAILED
        assert tally.total().percent is None

    def test_what_was_there_before_does_not_count_as_speed(self) -> None:
        """Resumed bytes are done at once; speed is of those that moved."""
        clock = Clock()
        tally = Tally(files=1, size=10 * MB, clock=clock)
        clock.now += 1
        tally.update(
            event(EventKind.CONFIRMED, state(confirmed=8 * MB, resumed=8 * MB))
        )
        clock.now += 1
        tally.update(
            event(EventKind.CONFIRMED, state(confirmed=9 * MB, resumed=8 * MB))
        )
        total = tally.total()
        assert (total.confirmed, total.resumed) == (9 * MB, 8 * MB)
        assert total.average_rate == MB / 2

    @given(
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.integers(0, 100), st.booleans()),
            max_size=40,
        )
    )
    def test_the_sum_is_that_of_the_last_states(
        self, steps: list[tuple[str, int, bool]]
    ) -> None:
        """However events interleave, the sum is that of each upload's last state."""
        tally = Tally(files=4, size=400)
        last: dict[str, int] = {}
        over = set()
        for name, confirmed, ends in steps:
            if name in over:
                continue
            now = state(name, confirmed=confirmed, total=100)
            tally.update(ending(now) if ends else event(EventKind.BYTES, now))
            last[name] = confirmed
            if ends:
                over.add(name)
        assert tally.total().confirmed == sum(last.values())
        assert tally.ended == len(over)
        assert set(tally.active) == set(last) - over


class TestJsonLines:
    def test_each_event_is_a_line_that_parses(self) -> None:
        """What is written comes back as records."""
        out = io.StringIO()
        display = JsonLines(out)
        display.show([event(EventKind.STARTED, state()), ending(state())])
        display.show([])
        display.close()
        first, second = map(StreamingProgress.from_json, out.getvalue().splitlines())
        assert (first.kind, second.kind) == ("started", "completed")
        assert second.result is not None


class TestPlainLines:
    def lines(
        self,
        steps: Sequence[tuple[float, list[UploadEvent]]],
        *,
        files: int = 1,
        size: int | None = 10 * MB,
    ) -> list[str]:
        """Return what is written when time passes and events come."""
        clock, out = Clock(), io.StringIO()
        display = PlainLines(out, Tally(files=files, size=size), clock=clock)
        for seconds, events in steps:
            clock.now += seconds
            display.show(events)
        display.close()
        return out.getvalue().splitlines()

    def test_start_and_end(self) -> None:
        """A quick upload has two lines."""
        lines = self.lines(
            [(0, [event(EventKind.PLANNED, state())]), (0.5, [ending(state())])]
        )
        assert lines[0] == "a.bin: uploading 10.00 MB in 10 chunks"
        assert lines[1].startswith("a.bin: 10.00 MB in 2.0 s")
        assert len(lines) == 2

    def test_tenths_at_most_every_two_seconds(self) -> None:
        """Of a hundred states in ten seconds five are told, each a tenth further."""
        steps = [(0.0, [event(EventKind.PLANNED, state())])]
        steps += [
            (0.1, [event(EventKind.CONFIRMED, state(confirmed=i * MB // 10))])
            for i in range(100)
        ]
        lines = self.lines(steps)[1:]
        assert 4 <= len(lines) <= 5
        assert lines[0].startswith("a.bin: 1")
        assert " of 10.00 MB, 2.00 MB/s, 3.0 s left" in lines[0]

    def test_a_slow_upload_still_says_something(self) -> None:
        """A log that is watched for silence hears from it once a minute."""
        steps: list[tuple[float, list[UploadEvent]]] = [
            (0.0, [event(EventKind.PLANNED, state())])
        ]
        steps += [(1.0, []) for _ in range(10)]
        steps += [(0.0, [event(EventKind.BYTES, state(confirmed=1000))])]
        steps += [(10.0, []) for _ in range(13)]
        assert len(self.lines(steps)) == 3

    def test_retries_are_told_with_their_cause(self) -> None:
        """Three lanes that fail at once make one line."""
        retry = event(
            EventKind.RETRYING,
            state(retries=1),
            error="The server is\nbusy.",
            wait=1.25,
            attempt=1,
        )
        lines = self.lines([(0, [retry, retry, retry])])
        assert lines == [
            "a.bin: tries again in 1.2 s: The server is\N{REPLACEMENT CHARACTER}busy."
        ]

    def test_many_files_are_told_as_one(self) -> None:
        """Of many files the sum is told, not each of them."""
        steps = [(1.0, [ending(state(f"{i}.bin", confirmed=MB))]) for i in range(10)]
        lines = self.lines(steps, files=10, size=10 * MB)
        assert 3 <= len(lines) <= 5
        assert all(" of 10 files: " in line for line in lines)

    def test_an_unknown_size(self) -> None:
        """A stream has a beginning and an end, and no share."""
        lines = self.lines(
            [(0, [event(EventKind.PLANNED, state(total=None))])], size=None
        )
        assert lines == ["a.bin: uploading, size not known yet"]


class TestBars:
    def drawn(
        self, batches: Sequence[Sequence[UploadEvent]], *, files: int = 1
    ) -> tuple[Bars, io.StringIO]:
        out = io.StringIO()
        bars = Bars(out, Tally(files=files, size=None), clock=Clock())
        for events in batches:
            bars.show(events)
        return bars, out

    def test_a_retry_is_shown_with_its_cause_until_bytes_are_confirmed(self) -> None:
        """People see why nothing moves, and that it is over."""
        retry = event(EventKind.RETRYING, state(retries=2), error="No route.", wait=3.0)
        bars, out = self.drawn([[retry]])
        assert "retry 2 in 3.0 s: No route." in out.getvalue()
        out.truncate(0)
        bars.show([event(EventKind.CONFIRMED, state(confirmed=MB, retries=2))])
        assert "No route" not in out.getvalue()
        assert "2 retries" in out.getvalue()
        bars.close()

    def test_a_stalled_upload_does_not_keep_its_speed(self) -> None:
        """A speed of seconds ago is none."""
        clock, out = Clock(), io.StringIO()
        bars = Bars(out, Tally(files=1, size=None), clock=clock)
        bars.show([event(EventKind.BYTES, state(confirmed=MB))])
        assert "2.00 MB/s" in out.getvalue()
        out.truncate(0)
        clock.now += 5
        bars.show([])
        assert "no answer yet" in out.getvalue()
        assert "2.00 MB/s" not in out.getvalue()
        bars.close()

    def test_rows_are_given_to_those_that_run(self) -> None:
        """Whoever has ended makes room; there are never more than five rows."""
        first = [event(EventKind.BYTES, state(f"{i}.bin")) for i in range(8)]
        bars, out = self.drawn([first], files=8)
        assert "4.bin" in out.getvalue()
        assert "5.bin" not in out.getvalue()
        bars.show([ending(state("0.bin"))])
        bars.show([event(EventKind.BYTES, state("7.bin"))])
        assert "5.bin" in out.getvalue()
        bars.close()

    def test_nothing_is_left_running(self) -> None:
        """Bars start no thread: the program's end waits for none."""
        before = threading.active_count()
        bars, _ = self.drawn([[event(EventKind.BYTES, state())]])
        assert threading.active_count() == before
        bars.close()

    def test_results_can_be_left_out(self) -> None:
        """Whoever tells of results elsewhere turns the lines off."""
        out = io.StringIO()
        bars = Bars(out, Tally(files=1, size=None), tells_results=False)
        bars.show([ending(state())])
        bars.close()
        assert "verified" not in out.getvalue()

    @pytest.mark.parametrize(
        ("text", "width", "fitted"),
        [
            ("a", 3, "a  "),
            ("abc", 3, "abc"),
            ("abcdefgh", 5, "ab…gh"),
            ("日本語", 4, "…語 "),
            ("日本語", 5, "日…語"),
            ("abc", 1, "…"),
        ],
    )
    def test_names_are_cut_in_their_middle(
        self, text: str, width: int, fitted: str
    ) -> None:
        """The end of a name says as much as its beginning."""
        assert fit(text, width) == fitted


@pytest.mark.parametrize("columns", [2, 20, 40, 200])
def test_any_width_of_a_terminal_will_do(columns: int) -> None:
    """However narrow a terminal is, drawing ends, and no line is too long."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 9, columns, 0, 0))
    with os.fdopen(theirs, "w") as out:
        bars = Bars(out, Tally(files=1, size=None), tells_results=False)
        bars.show([event(EventKind.BYTES, state("name" * 10, confirmed=MB))])
        bars.close()
        out.flush()
        drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert max(len(frame.strip("\n")) for frame in drawn.split("\r")) <= columns


class TestFollow:
    async def test_everything_comes_in_order(self) -> None:
        """A display that keeps up sees each event once."""
        out, feed = io.StringIO(), Feed()
        for seq in range(50):
            feed.put(event(EventKind.CONFIRMED, state(confirmed=seq), seq=seq))
        feed.close()
        await follow(feed, JsonLines(out))
        shown = map(StreamingProgress.from_json, out.getvalue().splitlines())
        assert [line.progress.confirmed for line in shown] == list(range(50))

    async def test_a_display_that_blocks_blocks_nothing_else(self) -> None:
        """While a terminal is stopped, the event loop goes on."""
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as pipe:
            feed = Feed()
            # More than a pipe takes: the display waits for a reader.
            for seq in range(1000):
                feed.put(event(EventKind.CONFIRMED, state("n" * 1000), seq=seq))
            feed.close()
            shown = asyncio.create_task(follow(feed, JsonLines(pipe)))
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert not shown.done()
            lines = await asyncio.to_thread(_read_lines, reading, 1000)
            await shown
        assert lines == 1000

    async def test_a_reader_that_goes_away_is_forgotten(self) -> None:
        """Nobody listens any more: the feed is emptied to its end."""
        reading, writing = os.pipe()
        os.close(reading)
        with (
            os.fdopen(writing, "wb", buffering=0) as raw,
            io.TextIOWrapper(raw, write_through=True) as pipe,
        ):
            feed = Feed()
            shown = asyncio.create_task(follow(feed, JsonLines(pipe)))
            for seq in range(10):
                feed.put(event(EventKind.CONFIRMED, state(), seq=seq))
                await asyncio.sleep(0)
            feed.close()
            await shown
            assert feed.drain() == []

    async def test_a_broken_display_is_heard_of(self) -> None:
        """A defect of a display is not swallowed."""

        class Broken(Silent):
            def show(self, events: Sequence[UploadEvent]) -> None:
                raise ZeroDivisionError

        feed = Feed()
        feed.put(event(EventKind.STARTED, state()))
        feed.close()
        with pytest.raises(ZeroDivisionError):
            await follow(feed, Broken())

    async def test_a_silent_feed_still_ticks(self) -> None:
        """A display hears at least once a second that nothing happened."""
        ticked = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Ticking(Silent):
            def show(self, events: Sequence[UploadEvent]) -> None:
                assert not events
                loop.call_soon_threadsafe(ticked.set)

        feed = Feed()
        shown = asyncio.create_task(follow(feed, Ticking()))
        async with asyncio.timeout(10):
            await ticked.wait()
        feed.close()
        await shown


def test_which_display_fits() -> None:
    """JSON wins over quiet; what is no terminal gets lines."""
    out = io.StringIO()
    assert isinstance(make_display(out, json=True, quiet=True), JsonLines)
    assert isinstance(make_display(out, quiet=True), Silent)
    assert isinstance(make_display(out), PlainLines)


def _read_lines(descriptor: int, count: int) -> int:
    with os.fdopen(descriptor) as pipe:
        return sum(1 for _, _line in zip(range(count), pipe, strict=False))
