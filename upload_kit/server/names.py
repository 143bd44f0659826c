"""File names that clients send, made safe to be the last part of a path."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_FALLBACK: Final = "unnamed"

# ext4, APFS and NTFS all take 255; some bytes are left for suffixes of other tools.
_MAX_BYTES: Final = 240

# What a path, a shell, Windows or a terminal could take for something else.
_FORBIDDEN: Final = re.compile(r'[/\\:*?"<>|]')

# Cc controls, Cf formats (bidi overrides, zero-width), Cs surrogates, Co private use,
# Zl and Zp line ends.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_WINDOWS_RESERVED: Final = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\..*)?",
    re.IGNORECASE,
)


def safe_name(name: str) -> str:
    """
    Return a file name that is safe in any folder of any system, near to the given one.

    The result is never empty, has at most 240 bytes in UTF-8, never begins with a dot,
    and is the same for names that only differ in how their characters are composed.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(c for c in text if unicodedata.category(c) not in _HIDDEN)
    text = _FORBIDDEN.sub("_", text)
    text = _shorten(text.strip().lstrip(". ").rstrip(". "))
    if not text:
        return _FALLBACK
    return f"_{text}" if _WINDOWS_RESERVED.fullmatch(text) else text


def _shorten(name: str) -> str:
    """Cut the stem rather than the extension, and never within a character."""
    if len(name.encode()) <= _MAX_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > 16:
        stem, extension = name, ""
    tail = f".{extension}" if extension else ""
    room = _MAX_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + tail
