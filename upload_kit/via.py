"""
Which servers a file came through, so that no forward goes in circles.

A server that forwards has an ID, and sends it along with those that came with the file.
It refuses a file that came through itself, by whatever name and address it was found.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

VIA: Final = "Upload-Kit-Via"
"""The header field, in the request that begins an upload."""

_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def new_server_id() -> str:
    """Return an ID that no other server has."""
    return secrets.token_hex(16)


def format_via(via: Sequence[str]) -> dict[str, str]:
    """Return the header field that tells of these servers; none of them, no field."""
    return {VIA: ", ".join(via)} if via else {}


def parse_via(text: str) -> tuple[str, ...]:
    """
    Return the servers that a header field tells of, the first one first.

    Raises:
        ValueError: It is no list of IDs.
    """
    via = tuple(part.strip() for part in text.split(",")) if text else ()
    if not all(map(_ID.fullmatch, via)):
        raise ValueError(f"no list of server IDs: {text[:40]!r}")
    return via
