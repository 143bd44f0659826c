"""File names that clients send become harmless, and stay recognisable."""

from __future__ import annotations

import unicodedata
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upload_kit.server.names import safe_name

_PATHS: Final = set('/\\:*?"<>|')


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("data.csv", "data.csv", id="plain"),
        pytest.param("Über uns.pdf", "Über uns.pdf", id="letters-and-spaces"),
        pytest.param("日本語.txt", "日本語.txt", id="other-scripts"),
        pytest.param("../../etc/passwd", "_.._etc_passwd", id="traversal"),
        pytest.param("C:\\temp\\x.exe", "C__temp_x.exe", id="windows-path"),
        pytest.param(".bashrc", "bashrc", id="hidden"),
        pytest.param("....", "unnamed", id="only-dots"),
        pytest.param("", "unnamed", id="empty"),
        pytest.param("\x00\x01\x7f", "unnamed", id="only-controls"),
        pytest.param("a\x00b\r\nc.txt", "abc.txt", id="controls"),
        pytest.param("x. . .", "x", id="ends-in-dots-and-spaces"),
        pytest.param("CON", "_CON", id="windows-device"),
        pytest.param("nul.tar.gz", "_nul.tar.gz", id="windows-device-with-extension"),
        pytest.param("com¹.txt", "_com¹.txt", id="windows-superscript-device"),
        pytest.param("console.log", "console.log", id="only-begins-like-a-device"),
        pytest.param("ann\u202egnp.exe", "anngnp.exe", id="right-to-left-override"),
        pytest.param("a\u200bb.txt", "ab.txt", id="zero-width"),
        pytest.param("e\u0301.txt", "\u00e9.txt", id="composed"),
        pytest.param("\ud800x", "x", id="lone-surrogate"),
    ],
)
def test_name_becomes(name: str, expected: str) -> None:
    """What could be taken for something else is gone; the rest is as it was."""
    assert safe_name(name) == expected


def test_long_name_keeps_its_extension() -> None:
    """4 KB of name are cut to 240 bytes in the stem, never inside a character."""
    name = safe_name("ü" * 2000 + ".parquet")
    assert len(name.encode()) <= 240
    assert name.endswith("ü.parquet")


def test_endless_extension_is_no_extension() -> None:
    """A name that is all extension is cut at its end."""
    assert safe_name("a." + "b" * 4096) == "a." + "b" * 238


@given(st.text(max_size=400))
@example("con." + "." * 300)
@example("aux" + "\u0300")
def test_any_name_is_safe(name: str) -> None:
    """Whatever comes: one path component, short, visible, the same when done twice."""
    safe = safe_name(name)
    assert safe
    assert len(safe.encode()) <= 241
    assert not _PATHS & set(safe)
    assert not safe.startswith(".")
    assert not safe.endswith((".", " "))
    assert not any(unicodedata.category(c).startswith("C") for c in safe)
    assert safe_name(safe) == safe
