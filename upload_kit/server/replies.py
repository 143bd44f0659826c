"""Answers: JSON, and problems as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNER: Final = web.RequestKey("owner", str)
"""Where a request holds whose uploads it may see."""

CLIENT: Final = web.RequestKey("client", str)
"""Where a request holds whom its rates are counted for: a token, or an address."""

CAME_THROUGH: Final = web.RequestKey("came_through", tuple)
"""Where a request holds the servers that its file came through."""

_encode: Final = msgspec.json.Encoder().encode


def json_response(
    document: Mapping[str, object],
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a document as an answer."""
    return web.Response(
        body=_encode(document),
        status=status,
        content_type=content_type,
        headers=headers,
    )


def problem_response(problem: UploadProblem) -> web.Response:
    """Return a problem as an answer."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(problem.retry_after))
    if problem.type is ProblemType.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="upload-kit"'
    return json_response(
        problem.document(),
        status=problem.status,
        content_type="application/problem+json",
        headers=headers,
    )
