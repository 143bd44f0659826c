"""Sizes, rates and durations: what people type is read, what is read is written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.errors import ConfigurationError
from upload_kit.units import (
    GB,
    GIB,
    KB,
    KIB,
    MB,
    MIB,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("7b", 7),
        ("5MiB", 5 * MIB),
        ("5 mib", 5 * MIB),
        ("  10 MB ", 10 * MB),
        ("10M", 10 * MB),
        ("1.5kB", 1500),
        ("0.5KiB", 512),
        ("2GiB", 2 * GIB),
        ("3GB", 3 * GB),
        ("1TB", 1000 * GB),
        ("1PiB", 1024**5),
        (4096, 4096),
        (0, 0),
    ],
    ids=str,
)
def test_size_is_read(text: str | int, size: int) -> None:
    """SI prefixes are powers of 1000, IEC prefixes of 1024; case is no matter."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "5 XB",
        "MiB",
        "5MiBs",
        "1,5MB",
        "1e6",
        "0x10",
        "٣MB",
        "5\nMB\0",
        ".5MB",
    ],
    ids=repr,
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """The message repeats what was given and shows how to write it."""
    with pytest.raises(ConfigurationError, match="Not a size") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)
    assert "5MiB" in str(refused.value)


def test_negative_size_is_refused() -> None:
    """A number below zero is no size, however it is given."""
    with pytest.raises(ConfigurationError, match="-1"):
        parse_size(-1)


@pytest.mark.parametrize("digits", [31, 400, 5000], ids="{}digits".format)
@pytest.mark.parametrize("form", ["{}", "{}.5GB"], ids=["whole", "fraction"])
def test_endless_digits_are_refused(digits: int, form: str) -> None:
    """A number that no disk can hold is a typed error, not an overflow."""
    with pytest.raises(ConfigurationError, match="Not a size"):
        parse_size(form.format("9" * digits))


@given(st.integers(0, 2**60))
def test_bare_number_is_bytes(size: int) -> None:
    """What `str` writes is read back."""
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10MB/s", 10e6),
        ("10MB", 10e6),
        ("4 MiB/s ", 4 * 1024**2),
        ("100kbps", 100e3),
        ("2.5", 2),
        (2.5, 2.5),
        (1, 1.0),
    ],
    ids=str,
)
def test_rate_is_read(text: str | float, rate: float) -> None:
    """A rate is a size a second; a bare number is bytes a second."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["0", "0MB/s", "fast", "", "-5MB/s", 0, -1.0, math.nan, math.inf], ids=repr
)
def test_what_is_no_rate_is_refused(text: str | float) -> None:
    """No limit is None, never zero."""
    with pytest.raises(ConfigurationError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("30s", 30.0),
        ("250ms", 0.25),
        ("1.5 m", 90.0),
        ("48h", 172800.0),
        ("2D", 172800.0),
        (12.5, 12.5),
    ],
    ids=str,
)
def test_duration_is_read(text: str | float, seconds: float) -> None:
    """A bare number is seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1w", "1h30", "∞"], ids=repr)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The message shows how to write it."""
    with pytest.raises(ConfigurationError, match="48h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (KB, "1.00 kB"),
        (KIB, "1.02 kB"),
        (999_999, "1.00 MB"),
        (MB, "1.00 MB"),
        (1_500_000_000, "1.50 GB"),
        (20 * 1000 * GB, "20000.00 GB"),
        (-MB, "-1.00 MB"),
    ],
)
def test_size_is_written_for_people(size: int, text: str) -> None:
    """Two digits after the point, and never a thousand of the smaller unit."""
    assert format_size(size) == text


def test_rate_is_written_for_people() -> None:
    """A size a second."""
    assert format_rate(12_300_000) == "12.30 MB/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00"),
        (65, "1:05"),
        (3599.6, "1:00:00"),
        (7384, "2:03:04"),
        (None, "?"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_duration_is_written_for_people(seconds: float | None, text: str) -> None:
    """What is not known yet is a question mark."""
    assert format_duration(seconds) == text


@given(st.integers(0, 2**62))
def test_written_size_reads_as_about_the_same(size: int) -> None:
    """Writing loses no more than what two digits cannot say."""
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.006)
