"""Sizes, rates and durations: read from what people type, written as they read."""

from __future__ import annotations

import math
import re
from typing import Final

from upload_kit.errors import ConfigurationError

KB: Final = 1000
MB: Final = 1000**2
GB: Final = 1000**3
KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3

# SI prefixes are powers of 1000, IEC prefixes powers of 1024, as IEC 80000-13 has it.
_FACTORS: Final[dict[str, int]] = {
    "": 1,
    **{p: 1000 ** (i + 1) for i, p in enumerate("kmgtp")},
    **{f"{p}i": 1024 ** (i + 1) for i, p in enumerate("kmgtp")},
}
# More digits than any disk needs; thousands of them Python itself refuses to read.
_NUMBER: Final = r"([0-9]{1,30}(?:\.[0-9]{1,30})?)"
_SIZE: Final = re.compile(
    rf"\s*{_NUMBER}\s*([kmgtp]i?)?b?\s*", re.ASCII | re.IGNORECASE
)
_RATE: Final = re.compile(r"(.*?)(?:/s|ps)?\s*", re.ASCII | re.IGNORECASE | re.DOTALL)
_DURATION: Final = re.compile(
    rf"\s*{_NUMBER}\s*(ms|s|m|h|d)?\s*", re.ASCII | re.IGNORECASE
)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str | int) -> int:
    """
    Read a size such as `5MiB`, `10 MB` or `4096`.

    Args:
        text: A number with an optional unit; a bare number is bytes.

    Returns:
        Bytes.

    Raises:
        ConfigurationError: It is no size, or it is negative.
    """
    if isinstance(text, int):
        if text < 0:
            raise ConfigurationError(f"A size cannot be negative: {text}.")
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"Not a size: {text!r}.", hint="Write it like 5MiB, 10MB or 4096."
        )
    number, prefix = match.groups()
    factor = _FACTORS[(prefix or "").lower()]
    return int(number) * factor if number.isdigit() else round(float(number) * factor)


def parse_rate(text: str | float) -> float:
    """
    Read a rate such as `10MB/s`.

    Args:
        text: A size with an optional `/s`; a bare number is bytes a second.

    Returns:
        Bytes a second, above zero.

    Raises:
        ConfigurationError: It is no rate, or it is not above zero.
    """
    if isinstance(text, str):
        match = _RATE.fullmatch(text)
        rate: float = parse_size(match.group(1) if match else text)
    else:
        rate = text
    if not (rate > 0 and math.isfinite(rate)):
        raise ConfigurationError(f"A rate must be above zero: {text}.")
    return rate


def parse_duration(text: str | float) -> float:
    """
    Read a duration such as `30s`, `48h` or `250ms`.

    Args:
        text: A number with an optional unit; a bare number is seconds.

    Returns:
        Seconds.

    Raises:
        ConfigurationError: It is no duration.
    """
    if not isinstance(text, str):
        return text
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"Not a duration: {text!r}.", hint="Write it like 30s, 48h or 2d."
        )
    number, unit = match.groups()
    return float(number) * _SECONDS[(unit or "s").lower()]


def format_size(size: float) -> str:
    """Write bytes for people, with SI prefixes: `1.50 GB`."""
    for factor, unit in ((GB, "GB"), (MB, "MB"), (KB, "kB")):
        # From where two digits would round up to a thousand of the smaller unit.
        if abs(size) >= factor * 0.999995:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"


def format_rate(rate: float) -> str:
    """Write bytes a second for people: `12.30 MB/s`."""
    return f"{format_size(rate)}/s"


def format_duration(seconds: float | None) -> str:
    """Write seconds for people: `0.4 s`, `1:05`, `2:03:04`; `?` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
