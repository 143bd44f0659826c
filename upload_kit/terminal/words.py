"""Progress and results in words, short enough for one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from upload_kit.models import Stage, UploadStatus, Verification
from upload_kit.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from upload_kit.models import UploadProgress, UploadResult

_STATES: Final = {
    UploadStatus.PENDING: "starting",
    UploadStatus.PAUSED: "paused",
    UploadStatus.FAILED: "failed",
    UploadStatus.CANCELLED: "cancelled",
}
_SHORT: Final = 12
_PROOFS: Final = {
    Verification.SHA256: "SHA-256 verified",
    Verification.CHUNKS: "SHA-256 of each chunk verified",
    Verification.SIZE: "only its size verified",
    Verification.NONE: "not verified",
}


def printable(text: str) -> str:
    """
    Return text that cannot steer a terminal.

    A file name may hold escape sequences, line ends, and bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def short_id(session_id: str) -> str:
    """Return as much of a session's ID as people need to tell it from others."""
    return session_id[:_SHORT]


def percent(progress: UploadProgress) -> str:
    """Return the confirmed share in four characters, such as ` 41%`."""
    # Rounded down: 100 % means that nothing is missing.
    return "    " if progress.percent is None else f"{int(progress.percent):3}%"


def amount(progress: UploadProgress) -> str:
    """Return the confirmed bytes: `110.10 MB of 268.44 MB`."""
    if progress.total is None:
        return format_size(progress.confirmed)
    return f"{format_size(progress.confirmed)} of {format_size(progress.total)}"


def pace(progress: UploadProgress) -> str:
    """Return what it is doing: speed and time left, or its state."""
    if progress.status in _STATES:
        return _STATES[progress.status]
    if progress.status is UploadStatus.COMPLETE:
        return f"done in {format_duration(progress.elapsed)}"
    if progress.stage is Stage.VERIFYING:
        return "verifying"
    rate = format_rate(progress.rate)
    if progress.eta is None:
        return rate
    return f"{rate}, {format_duration(progress.eta)} left"


def describe_result(result: UploadResult) -> str:
    """Return how an upload ended, in one line without its line end."""
    name = printable(result.name)
    if result.is_cancelled:
        return f"{name}: cancelled"
    if not result.success:
        return f"{name}: failed: {printable(result.error or 'for no known reason')}"
    parts = [f"{format_size(result.size or 0)} in {format_duration(result.seconds)}"]
    if result.rate:
        parts[0] += f" ({format_rate(result.rate)})"
    if result.bytes_resumed:
        parts.append(f"{format_size(result.bytes_resumed)} were there already")
    if result.retries:
        parts.append(count_retries(result.retries))
    parts.append(proof(result.verified))
    return f"{name}: {', '.join(parts)}, at {printable(result.location or '?')}"


def proof(verification: Verification) -> str:
    """Return how far it is certain that the right bytes arrived."""
    return _PROOFS[verification]


def count_files(count: int) -> str:
    """Return `1 file` or `2,000 files`."""
    return _count(count, "file", "files")


def count_retries(count: int) -> str:
    """Return `1 retry` or `3 retries`."""
    return _count(count, "retry", "retries")


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
