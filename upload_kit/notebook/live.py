"""The moving part of a panel: bars and figures as HTML, drawn anew at each paint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from upload_kit.models import Stage, UploadStatus
from upload_kit.notebook.card import COLOURS, how_to_go_on, reason, safe
from upload_kit.terminal.words import (
    amount,
    count_files,
    count_retries,
    proof,
)
from upload_kit.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upload_kit.models import UploadProgress, UploadResult
    from upload_kit.notebook.board import Row, View

STYLE: Final = """<style>
.upload-kit-panel {
  box-sizing: border-box; max-width: 720px; padding: 10px 14px;
  border: 1px solid var(--jp-border-color2, rgba(128, 128, 128, 0.4));
  border-radius: 8px; background: var(--jp-layout-color1, transparent);
}
.upload-kit-panel .widget-html-content { width: 100%; line-height: 1.5; }
.uk-live {
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 13px;
  color: var(--jp-ui-font-color1, inherit); font-variant-numeric: tabular-nums;
}
.uk-head { display: flex; align-items: baseline; gap: 10px; }
.uk-name { font-weight: 600; font-size: 14px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.uk-to { flex: 1; color: var(--jp-ui-font-color2, inherit); overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.uk-state { font-weight: 600; color: var(--uk-colour); white-space: nowrap; }
.uk-percent { font-weight: 600; font-size: 14px; min-width: 3.2em; text-align: right; }
.uk-bar { display: flex; height: 8px; margin: 7px 0 6px; border-radius: 4px;
  overflow: hidden; background: rgba(128, 128, 128, 0.22); }
.uk-done { background: var(--uk-colour); transition: width 0.2s linear; }
.uk-sent { transition: width 0.2s linear; background: repeating-linear-gradient(
  -45deg, var(--uk-colour) 0 4px, transparent 4px 8px); opacity: 0.55; }
.uk-facts { display: flex; flex-wrap: wrap; gap: 0 18px;
  color: var(--jp-ui-font-color1, inherit); }
.uk-facts span { white-space: nowrap; }
.uk-facts i { font-style: normal; color: var(--jp-ui-font-color2, inherit); }
.uk-note { color: #b7720b; overflow-wrap: anywhere; }
.jp-mod-dark .uk-note, [data-jp-theme-light="false"] .uk-note { color: #e0a33e; }
.uk-bad { color: #d9404c; overflow-wrap: anywhere; }
[data-jp-theme-light="false"] .uk-bad { color: #ff7b81; }
.uk-row { margin-top: 6px; }
.uk-row .uk-bar { height: 4px; margin: 3px 0 2px; }
.uk-row .uk-name { font-size: 12px; font-weight: 500; flex: 1; }
.uk-row .uk-percent { font-size: 12px; font-weight: 500; }
.uk-row .uk-facts { font-size: 12px; }
.upload-kit-panel .jupyter-button { border-radius: 6px; height: 26px; line-height: 24px;
  font-size: 12px; border: 1px solid var(--jp-border-color2, rgba(128, 128, 128, 0.4));
  background: var(--jp-layout-color2, transparent); }
.upload-kit-panel .uk-hint { font-size: 12px;
  color: var(--jp-ui-font-color2, inherit); }
</style>"""
"""Stands once in each panel; without Jupyter's variables the fallbacks hold."""


def live_html(view: View) -> str:
    """Return a job as HTML for a widget, which nothing is taken away from."""
    progress = view.progress
    parts = [_head(view), _bar(progress, view.name, _files_done(view)), _facts(view)]
    if view.note and view.progress.retries:
        tries = count_retries(progress.retries)
        parts.append(f'<div class="uk-note">{tries}. {safe(view.note)}</div>')
    parts += [_row(row) for row in view.rows]
    if view.more_rows:
        parts.append(f'<div class="uk-row">and {view.more_rows} more under way</div>')
    parts += [_failure(result) for result in view.failed]
    colour = COLOURS[progress.status]
    return f'<div class="uk-live" style="--uk-colour: {colour}">{"".join(parts)}</div>'


def _head(view: View) -> str:
    to = f"\N{RIGHTWARDS ARROW} {safe(view.destination)}" if view.destination else ""
    return (
        '<div class="uk-head">'
        f'<span class="uk-name">{safe(view.name)}</span>'
        f'<span class="uk-to">{to}</span>'
        f'<span class="uk-state">{_word(view)}</span>'
        f'<span class="uk-percent">{_percent(view.progress)}</span></div>'
    )


def _word(view: View) -> str:
    progress = view.progress
    if progress.status is UploadStatus.PENDING:
        return "starting"
    uploading = progress.status is UploadStatus.UPLOADING
    if uploading and view.note and not progress.rate:
        # How long it would take at the pace of before says nothing now.
        return "trying again"
    if uploading and progress.stage is Stage.VERIFYING:
        return "verifying"
    if uploading and progress.eta is not None:
        return f"uploading, {format_duration(progress.eta)} left"
    return view.state


def _percent(progress: UploadProgress) -> str:
    # Rounded down: 100 % means that nothing is missing.
    return "" if progress.percent is None else f"{int(progress.percent)}\u2009%"


def _files_done(view: View) -> float:
    """Return the percentage of files that have ended: all there is without sizes."""
    return 100 * view.ended / view.files if view.files > 1 else 0.0


def _bar(progress: UploadProgress, name: str, unsized: float = 0.0) -> str:
    """Return a bar; `unsized` is the percentage where the total is not known."""
    total = progress.total
    if not total:
        done = 100.0 if progress.status is UploadStatus.COMPLETE else unsized
        sent = 0.0
    else:
        done = 100 * progress.confirmed / total
        sent = min(100 - done, 100 * progress.in_flight / total)
    value = "" if progress.percent is None else f' aria-valuenow="{int(done)}"'
    return (
        f'<div class="uk-bar" role="progressbar" aria-label="{safe(name)}"'
        f' aria-valuemin="0" aria-valuemax="100"{value}>'
        f'<div class="uk-done" style="width: {done:.2f}%"></div>'
        f'<div class="uk-sent" style="width: {sent:.2f}%"></div></div>'
    )


def _facts(view: View) -> str:
    spans = "".join(f"<span>{fact}</span>" for fact in _figures(view))
    return f'<div class="uk-facts">{spans}</div>'


def _figures(view: View) -> Iterable[str]:
    progress = view.progress
    if view.files > 1:
        yield f"{view.ended:,} of {count_files(view.files)}"
    yield f"{amount(progress)} <i>confirmed</i>"
    if progress.status.is_final:
        yield f"<i>in</i> {format_duration(progress.elapsed)}"
        yield f"{format_rate(progress.average_rate)} <i>on average</i>"
        if view.files == 1 and view.results and view.results[0].success:
            yield proof(view.results[0].verified)
        return
    if progress.in_flight > 0:
        yield f"{format_size(progress.in_flight)} <i>in flight</i>"
    if progress.status is UploadStatus.UPLOADING:
        yield f"{format_rate(progress.rate)} <i>now</i>"
    yield f"{format_rate(progress.average_rate)} <i>on average</i>"
    if progress.resumed:
        yield f"{format_size(progress.resumed)} <i>were there already</i>"


def _row(row: Row) -> str:
    progress = row.progress
    note = ""
    if row.note:
        tries = count_retries(progress.retries)
        note = f'<div class="uk-note">{tries}. {safe(row.note)}</div>'
    return (
        '<div class="uk-row"><div class="uk-head">'
        f'<span class="uk-name">{safe(progress.name)}</span>'
        f"<span>{amount(progress)}</span>"
        f'<span class="uk-percent">{_percent(progress)}</span></div>'
        f"{_bar(progress, progress.name)}{note}</div>"
    )


def _failure(result: UploadResult) -> str:
    call = how_to_go_on(result)
    hint = f" <code>{safe(call)}</code>" if call else ""
    name, why = safe(result.name), safe(reason(result))
    if result.is_cancelled:
        return f'<div class="uk-row">{name}: cancelled: {why}{hint}</div>'
    return f'<div class="uk-bad">{name}: {why}{hint}</div>'
