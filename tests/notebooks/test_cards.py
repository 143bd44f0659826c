"""Cards and panels as HTML and text: readable, safe, and true."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.api.starting import prepare, prepare_many
from upload_kit.models import (
    Stage,
    UploadProgress,
    UploadResult,
    UploadStatus,
    Verification,
)
from upload_kit.notebook.board import Board, Row, View
from upload_kit.notebook.card import card_html, card_text
from upload_kit.notebook.live import live_html

if TYPE_CHECKING:
    from upload_kit.api.jobs import Job
    from upload_kit.sources.factory import SourceLike

# What JupyterLab takes away from HTML that it does not trust.
STRIPPED = re.compile(r"<(?:script|style|svg|link)|role=|aria-|flex|var\(")


class Checker(HTMLParser):
    """Fails on a tag that is not closed, and on tags that we do not write."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        allowed = {"div", "span", "b", "i", "code", "details", "summary"}
        assert tag in allowed
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(html: str) -> str:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    return checker.text


def progress(**changes: Any) -> UploadProgress:
    return UploadProgress(
        **{
            "transfer_id": "t",
            "name": "big.bin",
            "stage": Stage.UPLOADING,
            "status": UploadStatus.UPLOADING,
            "total": 100_000_000,
            "sent": 45_000_000,
            "confirmed": 40_000_000,
            "rate": 12_000_000.0,
            "average_rate": 10_000_000.0,
            "elapsed": 4.0,
            "eta": 5.5,
            **changes,
        }
    )


def view(**changes: Any) -> View:
    made = {
        "name": "big.bin",
        "destination": "http://127.0.0.1/",
        "progress": progress(),
        **changes,
    }
    return View(**made)


COMPLETE = UploadResult(
    success=True,
    name="big.bin",
    location="http://127.0.0.1/big.bin",
    size=100_000_000,
    sha256="ab" * 32,
    verified=Verification.SHA256,
    seconds=4.0,
    bytes_resumed=20_000_000,
    retries=2,
)
FAILED = UploadResult(
    success=False,
    name="big.bin",
    error="The server answered 503. Try again later.",
    error_type="RemoteUnavailable",
    session_id="cd" * 16,
)


def test_a_live_panel_tells_confirmed_from_in_flight() -> None:
    """Bytes that only left are not taken for bytes that arrived."""
    html = live_html(view())
    text = text_of(html)
    assert "40.00 MB of 100.00 MB confirmed" in text
    assert "5.00 MB in flight" in text
    assert "12.00 MB/s now" in text
    assert "10.00 MB/s on average" in text
    assert "uploading, 5.5 s left" in text
    assert "40\u2009%" in text
    assert 'class="uk-done" style="width: 40.00%"' in html
    assert 'class="uk-sent" style="width: 5.00%"' in html
    assert 'aria-valuenow="40"' in html


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"status": UploadStatus.PENDING}, "starting", id="pending"),
        pytest.param({"status": UploadStatus.PAUSED}, "paused", id="paused"),
        pytest.param({"stage": Stage.VERIFYING}, "verifying", id="verifying"),
        pytest.param({"status": UploadStatus.FAILED}, "failed", id="failed"),
        pytest.param({"total": None, "eta": None}, "40.00 MB confirmed", id="unknown"),
        pytest.param({"resumed": 10_000_000}, "were there already", id="resumed"),
        pytest.param({"total": 0, "sent": 0, "confirmed": 0}, "0 B of 0 B", id="empty"),
    ],
)
def test_the_state_is_a_word(changes: dict[str, Any], words: str) -> None:
    """Nobody has to know colours to know how it stands."""
    assert words in text_of(live_html(view(progress=progress(**changes))))


def test_retries_are_shown_with_their_cause() -> None:
    """Why it was tried again stands below the bar."""
    shown = view(progress=progress(retries=2), note="Chunk 3: connection reset")
    assert "2 retries. Chunk 3: connection reset" in text_of(live_html(shown))


def test_it_says_that_it_tries_again_while_nothing_moves() -> None:
    """The time that the pace of before would take is no promise any more."""
    stuck = view(progress=progress(retries=2, rate=0.0), note="Cannot connect")
    assert "trying again" in text_of(live_html(stuck))
    assert "left" not in text_of(live_html(stuck))
    moving = view(progress=progress(retries=2), note="Cannot connect")
    assert "uploading, 5.5 s left" in text_of(live_html(moving))


def test_files_of_unknown_size_are_counted() -> None:
    """The bar of many moves, also where not every size is known."""
    unsized = progress(total=None, eta=None)
    shown = view(name="4 files", files=4, ended=3, complete=3, progress=unsized)
    assert 'class="uk-done" style="width: 75.00%"' in live_html(shown)


def test_what_was_cancelled_is_not_told_as_a_failure() -> None:
    """Among many too: it says so in a word, and not in red."""
    cancelled = replace(FAILED, name="b.bin", error_type="UploadCancelled")
    shown = view(name="2 files", files=2, ended=2, results=(FAILED, cancelled))
    html = card_html(shown)
    assert "b.bin: cancelled: " in text_of(html)
    assert html.count("color: #d9404c") == 1
    live = live_html(shown)
    assert "b.bin: cancelled: " in text_of(live)
    assert live.count('class="uk-bad"') == 1
    assert "b.bin: cancelled: " in card_text(shown)


def test_many_files_show_some_and_count_the_rest() -> None:
    """Rows for those under way, one line for the others, a line a failure."""
    shown = view(
        name="2,000 files",
        files=2000,
        ended=1500,
        complete=1499,
        rows=(Row(progress=progress(retries=1), note="It stalled"),),
        more_rows=3,
        results=(FAILED,),
    )
    text = text_of(live_html(shown))
    assert "1,500 of 2,000 files" in text
    assert "and 3 more under way" in text
    assert "1 retry. It stalled" in text
    assert 'upload_kit.resume("cdcdcdcdcdcd")' in text
    card = text_of(card_html(shown))
    assert "1,499 of 2,000 files complete" in card


def test_a_complete_card_tells_the_story() -> None:
    """Size, time, speed, proof, retries, place and digest; the same as text."""
    shown = view(
        progress=progress(status=UploadStatus.COMPLETE, confirmed=100_000_000),
        ended=1,
        complete=1,
        results=(COMPLETE,),
    )
    html, text = card_html(shown), card_text(shown)
    assert not STRIPPED.search(html)
    for said in ("100.00 MB in 4.0 s", "20.00 MB/s", "2 retries", "SHA-256 verified"):
        assert said in text_of(html)
        assert said in text
    assert "ab" * 32 in html
    assert "\n" not in text


def test_a_failed_card_says_what_to_do() -> None:
    """One red line, and the call that goes on."""
    shown = view(
        progress=progress(status=UploadStatus.FAILED), ended=1, results=(FAILED,)
    )
    text = text_of(card_html(shown))
    assert "The server answered 503. Try again later." in text
    assert 'Go on with it: upload_kit.resume("cdcdcdcdcdcd")' in text
    assert card_text(shown).startswith("big.bin: failed: The server answered 503.")


def test_a_card_that_cannot_go_on_says_nothing_of_it() -> None:
    """A changed source has no session to go on with."""
    gone = replace(FAILED, error_type="SourceChanged")
    shown = view(
        progress=progress(status=UploadStatus.FAILED), ended=1, results=(gone,)
    )
    assert "resume" not in card_html(shown) + card_text(shown)


def test_an_unfinished_card_has_a_bar() -> None:
    """A saved notebook of an upload under way says how far it was."""
    html = card_html(view(note="It stalled"))
    assert not STRIPPED.search(html)
    assert "width: 40.0%" in html
    assert "It is tried again. It stalled" in text_of(html)
    assert card_text(view()) == "big.bin: uploading, 40.00 MB of 100.00 MB"


@given(st.text(max_size=60))
def test_names_cannot_break_out(name: str) -> None:
    """Whatever a file is called, or an error says, it is text."""
    name = f"<script>alert(1)</script>{name}\x1b[2J"
    bad = replace(FAILED, name=name, error=name)
    shown = view(
        name=name,
        destination=name,
        progress=progress(name=name, retries=1),
        note=name,
        files=2,
        ended=1,
        rows=(Row(progress=progress(name=name, retries=1), note=name),),
        results=(bad, replace(COMPLETE, name=name, location=name)),
    )
    for html in (live_html(shown), card_html(shown)):
        text_of(html)
        assert "<script" not in html
        assert "\x1b" not in html
    assert "\x1b" not in card_text(shown)


def watched(job: Job[Any]) -> Board:
    """Return a board that saw every event of a job."""
    board = Board(job)
    feed = job.subscribe()
    job.begin()
    job.wait(30)

    async def read() -> None:
        async for event in feed:
            board.update([event])

    asyncio.run(read())
    return board


def test_the_board_of_one_upload() -> None:
    """What the events of a real upload add up to."""
    board = watched(prepare(bytes(100_000), "memory://board/", name="a.bin"))
    shown = board.view()
    assert shown.is_final
    assert shown.results[0].success
    assert "a.bin" in card_text(shown)


def test_the_board_of_many() -> None:
    """Failures come first, and every file is counted."""
    sources: dict[str, SourceLike] = {f"{index}": bytes(1000) for index in range(30)}
    sources["bad"] = "/no/such"
    job = prepare_many(sources, "memory://board/")
    shown = watched(job).view()
    assert (shown.ended, shown.complete, shown.files) == (31, 30, 31)
    assert not shown.results[0].success
    assert len(shown.results) + shown.more_results == 31
    text = card_text(shown)
    assert "31 files incomplete" in text_of(card_html(shown))
    assert ">incomplete<" in live_html(shown)
    assert "30 of 31 files complete" in text
    assert "bad: failed: There is no file" in text
