"""
The static card of a job: HTML and text that read well wherever they end up.

A saved notebook, an export, a page of GitHub, an untrusted copy: scripts, style sheets,
ARIA and flexible boxes are taken away there, so that only plain blocks with inline
styles are used, colours that can be read on white and on black, and no meaning in a
colour alone.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from upload_kit.models import UploadStatus
from upload_kit.terminal.words import (
    amount,
    count_files,
    count_retries,
    describe_result,
    pace,
    printable,
    proof,
    short_id,
)
from upload_kit.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upload_kit.models import UploadProgress, UploadResult
    from upload_kit.notebook.board import View

COLOURS: Final = {
    UploadStatus.PENDING: "#7d8590",
    UploadStatus.UPLOADING: "#2f7fd6",
    UploadStatus.PAUSED: "#c27c0e",
    UploadStatus.COMPLETE: "#2e9e5b",
    UploadStatus.FAILED: "#d9404c",
    UploadStatus.CANCELLED: "#7d8590",
}
SIGNS: Final = {
    UploadStatus.PENDING: "\N{HORIZONTAL ELLIPSIS}",
    UploadStatus.UPLOADING: "\N{UPWARDS ARROW}",
    UploadStatus.PAUSED: "\N{DOUBLE VERTICAL BAR}",
    UploadStatus.COMPLETE: "\N{CHECK MARK}",
    UploadStatus.FAILED: "\N{MULTIPLICATION X}",
    UploadStatus.CANCELLED: "\N{EN DASH}",
}
_CARD: Final = "border-left: 4px solid {}; padding: 2px 0 2px 12px; line-height: 1.6"
_MUTED: Final = "opacity: 0.75"
_TROUGH: Final = (
    "height: 6px; max-width: 480px; background-color: rgba(128, 128, 128, 0.25);"
    " margin: 4px 0"
)
_CODE: Final = "font-family: monospace; font-size: 90%; opacity: 0.75"
# Nothing went wrong that the same call could not put right.
_NOT_RESUMABLE: Final = frozenset(
    {"ConfigurationError", "SessionExpired", "SessionNotFound", "SourceChanged"}
)


def safe(text: str) -> str:
    """Return text as HTML that shows it: no tags, nothing that steers a terminal."""
    return escape(printable(text))


def card_html(view: View) -> str:
    """Return a job as HTML that needs nothing from the page it stands in."""
    status = view.progress.status
    blocks = [_head(view), *_body(view)]
    style = _CARD.format(COLOURS[status])
    return f'<div class="upload-kit-card" style="{style}">{"".join(blocks)}</div>'


def card_text(view: View) -> str:
    """Return a job as lines of plain text; a file that has ended is one line."""
    if view.files == 1:
        if view.results:
            return _result_text(view.results[0])
        return f"{printable(view.name)}: {view.state}, {amount(view.progress)}"
    lines = [_sum(view), *map(_result_text, view.failed)]
    if len(view.results) == view.files:
        lines = [*lines[:1], *map(_result_text, view.results)]
    return "\n".join(lines)


def how_to_go_on(result: UploadResult) -> str | None:
    """Return the call that goes on with an upload, if there is one."""
    if (
        result.success
        or result.session_id is None
        or result.error_type in _NOT_RESUMABLE
    ):
        return None
    return f'upload_kit.resume("{short_id(result.session_id)}")'


def _head(view: View) -> str:
    status = view.progress.status
    sign = f'<span style="color: {COLOURS[status]}">{SIGNS[status]}</span>'
    name = f"<b>{safe(view.name)}</b>"
    where = ""
    if not view.results and view.destination:
        where = f' <span style="{_MUTED}">to {safe(view.destination)}</span>'
    return f"<div>{sign} {name} {view.state}{where}</div>"


def _body(view: View) -> Iterable[str]:
    if view.files == 1:
        return _one(view.results[0]) if view.results else _unfinished(view)
    shown = [_line(safe(_sum(view)))]
    shown += [
        _line(_failure(result), colour=not result.is_cancelled)
        for result in view.failed
    ]
    if complete := [result for result in view.results if result.success]:
        shown.append(_list(complete, view.more_results))
    return shown


def _unfinished(view: View) -> list[str]:
    lines = [_bar(view.progress), _line(_facts(view.progress))]
    if view.note:
        lines.append(_line(safe(f"It is tried again. {view.note}")))
    return lines


def _bar(progress: UploadProgress) -> str:
    percent = progress.percent or 0.0
    colour = COLOURS[progress.status]
    return (
        f'<div style="{_TROUGH}"><div style="height: 6px; width: {percent:.1f}%;'
        f' background-color: {colour}"></div></div>'
    )


def _one(result: UploadResult) -> list[str]:
    if not result.success:
        lines = [_line(safe(reason(result)), colour=not result.is_cancelled)]
        if (call := how_to_go_on(result)) is not None:
            lines.append(_line(f"Go on with it: <code>{safe(call)}</code>"))
        return lines
    lines = [_line(safe(", ".join(_figures(result))))]
    if result.location:
        lines.append(_line(f"at {safe(result.location)}", style=_MUTED))
    if result.sha256:
        lines.append(_line(f"SHA-256 {result.sha256}", style=_CODE))
    return lines


def _figures(result: UploadResult) -> Iterable[str]:
    speed = f" ({format_rate(result.rate)})" if result.rate else ""
    yield f"{format_size(result.size or 0)} in {format_duration(result.seconds)}{speed}"
    if result.bytes_resumed:
        yield f"{format_size(result.bytes_resumed)} were there already"
    if result.retries:
        yield count_retries(result.retries)
    yield proof(result.verified)


def _failure(result: UploadResult) -> str:
    state = "cancelled: " if result.is_cancelled else ""
    text = f"{printable(result.name)}: {state}{reason(result)}"
    call = how_to_go_on(result)
    return safe(text) + (f" <code>{safe(call)}</code>" if call else "")


def reason(result: UploadResult) -> str:
    """Return why an upload is not complete, and what is there if it was cancelled."""
    if not result.is_cancelled:
        return printable(result.error or "It failed for no known reason.")
    if how_to_go_on(result) is None or result.size is None:
        return "It was cancelled, and nothing is kept."
    there = sum(chunk.size for chunk in result.chunks)
    return f"{format_size(there)} of {format_size(result.size)} are there."


def _result_text(result: UploadResult) -> str:
    if result.success:
        return describe_result(result)
    call = how_to_go_on(result)
    state = "cancelled" if result.is_cancelled else "failed"
    text = f"{printable(result.name)}: {state}: {reason(result)}"
    return f"{text} Go on with it: {call}" if call else text


def _list(complete: list[UploadResult], more: int) -> str:
    rows = "".join(
        f"<div>{SIGNS[UploadStatus.COMPLETE]} {safe(describe_result(result))}</div>"
        for result in complete
    )
    if more:
        rows += f"<div>and {count_files(more)} more</div>"
    summary = "<summary>What arrived</summary>"
    return f'<details style="{_MUTED}">{summary}{rows}</details>'


def _sum(view: View) -> str:
    progress = view.progress
    text = amount(progress)
    if progress.status is UploadStatus.COMPLETE:
        text = format_size(progress.confirmed)
    if view.complete < view.files:
        text = f"{view.complete:,} of {count_files(view.files)} complete, {text}"
    if view.is_final:
        text += f" in {format_duration(progress.elapsed)}"
        if progress.average_rate:
            text += f" ({format_rate(progress.average_rate)})"
    return text


def _facts(progress: UploadProgress) -> str:
    return safe(f"{amount(progress)}, {pace(progress)}")


def _line(html: str, *, style: str = "", colour: bool = False) -> str:
    if colour:
        style = f"color: {COLOURS[UploadStatus.FAILED]}"
    return f'<div style="{style}">{html}</div>' if style else f"<div>{html}</div>"
