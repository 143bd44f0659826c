"""
What a browser asks before a page of another origin may talk to the server.

Source: the Fetch standard, CORS protocol.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

_NAMES: Final = re.compile(r"[A-Za-z0-9_, -]{1,1000}", re.ASCII)
# Seconds that a browser may remember an answer; Chromium takes no more than two hours.
_MAX_AGE: Final = 7200


class Cors:
    """
    Tells browsers what pages of certain origins may do.

    Args:
        origins: Which ones; `*` stands for all of them.

        methods: What they may send.

        exposed: Header fields of answers that their scripts get to see.
    """

    def __init__(self, origins: frozenset[str], *, methods: str, exposed: str) -> None:
        self._origins = origins
        self._methods = methods
        self._exposed = exposed

    def add(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what a browser wants to know, if the page may know it."""
        if not self._origins:
            return
        response.headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is None or not {origin, "*"} & self._origins:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = self._exposed
        if "Access-Control-Request-Method" in request.headers:
            response.headers.update(self._permissions(request.headers))

    def _permissions(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the answer to a question ahead of the request itself."""
        answer = {
            "Access-Control-Allow-Methods": self._methods,
            "Access-Control-Max-Age": str(_MAX_AGE),
        }
        # Which fields a page sets harms nobody: no cookies or passwords come with it.
        wanted = headers.get("Access-Control-Request-Headers", "")
        if _NAMES.fullmatch(wanted):
            answer["Access-Control-Allow-Headers"] = wanted
        return answer
