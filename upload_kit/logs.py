"""
Log lines: which upload and request they are about, and how a program writes them.

The library logs below `upload_kit`, adds no handler and never prints. Programs of this
package, the shell and the server, call `set_up_logging`; others add `IdFilter` to a
handler of theirs to have the IDs on every record.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TextIO

from upload_kit.locations import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = "upload_kit"
"""The logger above all of ours."""

# Warnings about retries come from here; a display tells of them too.
_TRANSFERS: Final = "upload_kit.transfer"

_ids: ContextVar[Mapping[str, str]] = ContextVar("upload_kit_ids")

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_CREDENTIAL: Final = re.compile(r"\b(bearer|basic)\s+[^\s'\",;]+", re.IGNORECASE)
# What could end a line, or move a terminal's cursor; written as its escape instead.
_CONTROL: Final = {
    code: repr(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    """For people."""

    JSON = "json"
    """One JSON object a line, for programs."""


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """
    Have every record that is logged inside carry these IDs.

    Tasks that are started inside carry them too; threads do not.

    Args:
        ids: By what they are of: `transfer`, `request`, `upload`.
    """
    token = _ids.set({**current_ids(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def note(**ids: str) -> None:
    """Add IDs that show only later, until the surrounding `about` ends."""
    _ids.set({**current_ids(), **ids})


def current_ids() -> Mapping[str, str]:
    """Return the IDs of what is being worked on here, by what they are of."""
    return _ids.get({})


class IdFilter(logging.Filter):
    """Puts `transfer_id`, `request_id` and `upload_id` on each record, or ``None``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the IDs; every record passes."""
        ids = current_ids()
        for kind in ("transfer", "request", "upload"):
            setattr(record, f"{kind}_id", ids.get(kind))
        record.upload_kit_ids = ids
        return True


def scrub(text: str) -> str:
    """Return a text without what looks like a credential: the last line of defence."""
    shown = _URL.sub(lambda match: redact(match[0]), text)
    return _CREDENTIAL.sub(r"\1 ***", shown)


class TextFormatter(logging.Formatter):
    """
    Writes a line for people; a traceback follows in lines of its own.

    Control characters, which a file name may hold, are written as escapes: no message
    can pass for two.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        ids = " ".join(f"{kind}={value}" for kind, value in _ids_of(record).items())
        message = f"{f' [{ids}]' if ids else ''}: {scrub(record.getMessage())}"
        moment = datetime.fromtimestamp(record.created).astimezone()
        line = (
            f"{moment.isoformat(sep=' ', timespec='milliseconds')}"
            f" {record.levelname:<7} {record.name}{message.translate(_CONTROL)}"
        )
        trace = _traceback_of(record)
        return line if trace is None else f"{line}\n{scrub(trace)}"


class JsonFormatter(logging.Formatter):
    """Writes one JSON object: time, level, logger, message, IDs, and the error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        moment = datetime.fromtimestamp(record.created, tz=UTC)
        document: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrub(record.getMessage()),
        }
        ids = _ids_of(record)
        document |= {f"{kind}_id": value for kind, value in ids.items()}
        trace = _traceback_of(record)
        if trace is not None:
            document["traceback"] = scrub(trace)
        return json.dumps(document)


class StderrHandler(logging.Handler):
    """Writes to standard error, and where bars are drawn, above them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            line = self.format(record)
            bars = sys.modules.get("upload_kit.terminal.bars")
            if bars is None:
                # As it is now: a program may have replaced it since.
                _write_line(line, sys.stderr)
            else:
                bars.print_above(line, sys.stderr)
        except OSError:
            self.handleError(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a program logs, and how."""

    verbosity: int = 0
    """0 for warnings, 1 for the start and the end of uploads too, 2 for requests."""

    form: LogFormat = LogFormat.TEXT
    """How lines are written."""

    has_display: bool = False
    """Whether something else tells people of retries, so that lines need not."""

    @property
    def level(self) -> int:
        """The level of `logging` that the verbosity stands for."""
        levels = (logging.WARNING, logging.INFO, logging.DEBUG)
        return levels[max(0, min(self.verbosity, len(levels) - 1))]


def set_up_logging(
    settings: LogSettings, *, handler: logging.Handler | None = None
) -> None:
    """
    Write what is logged to standard error; for programs only.

    Safe to call again: the new settings replace those of the last call.

    Args:
        settings: How much, and how.

        handler: Takes the records, instead of one for standard error.
    """
    logger = logging.getLogger(ROOT)
    for old in [one for one in logger.handlers if _is_ours(one)]:
        logger.removeHandler(old)
    new = handler or StderrHandler()
    as_json = settings.form is LogFormat.JSON
    new.addFilter(IdFilter())
    new.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logger.addHandler(new)
    logger.setLevel(settings.level)
    told = settings.has_display and not as_json and settings.verbosity == 0
    transfers = logging.getLogger(_TRANSFERS)
    transfers.setLevel(logging.ERROR if told else logging.NOTSET)


def log_settings() -> LogSettings:
    """Return what is in force in this process, for another process to do the same."""
    logger = logging.getLogger(ROOT)
    ours = [one.formatter for one in logger.handlers if _is_ours(one)]
    as_json = any(isinstance(formatter, JsonFormatter) for formatter in ours)
    level = logger.getEffectiveLevel()
    return LogSettings(
        verbosity=(level <= logging.INFO) + (level <= logging.DEBUG),
        form=LogFormat.JSON if as_json else LogFormat.TEXT,
    )


def _is_ours(handler: logging.Handler) -> bool:
    return isinstance(handler.formatter, TextFormatter | JsonFormatter)


def _ids_of(record: logging.LogRecord) -> Mapping[str, str]:
    ids: Mapping[str, str] = getattr(record, "upload_kit_ids", None) or current_ids()
    return ids


def _traceback_of(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    return "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")


def _write_line(line: str, stream: TextIO | None) -> None:
    if stream is not None:
        stream.write(f"{line}\n")
