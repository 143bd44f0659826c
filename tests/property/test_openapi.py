"""
Whatever is asked of a real server, it answers as its own description says.

schemathesis makes requests out of `/openapi.json`, good ones and bad ones.
"""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from upload_kit.api.serving import serve
from upload_kit.server import ServerConfig
from upload_kit.server.openapi import openapi_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
_OPERATIONS: Final = [
    (path, method.upper())
    for path, item in openapi_document(ServerConfig(directory="x"))["paths"].items()
    for method in item
]
_SECONDS: Final = 20
# Whoever watches an upload that is there hears of it until it ends.
_ENDLESS: Final = "/upload/status/{id}/events"
# Making a request out of a schema takes longer than answering it.
_SHARE: Final = 10


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("store")
    with serve(folder) as server:
        yield server.url


@pytest.fixture(scope="module")
def schema(url: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{url}openapi.json")


def begin(url: str) -> str:
    """Begin an upload of two chunks, of which one is there; return its ID."""
    body = json.dumps({"name": "a", "size": 4, "chunk_size": 2}).encode()
    with urllib.request.urlopen(
        f"{url}upload/resumable", data=body, timeout=_SECONDS
    ) as answer:
        session_id = str(json.load(answer)["session_id"])
    chunk = urllib.request.Request(
        f"{url}upload/resumable/{session_id}/chunks/0", data=b"ab", method="PUT"
    )
    urllib.request.urlopen(chunk, timeout=_SECONDS).close()
    return session_id


@pytest.mark.parametrize(("path", "method"), _OPERATIONS)
def test_server_is_what_it_says(
    schema: schemathesis.BaseSchema, url: str, path: str, method: str
) -> None:
    """No request makes it fail, and no answer is of a kind that it does not name."""
    few = settings().max_examples // _SHARE
    mode = st.sampled_from(list(schemathesis.GenerationMode))
    operation = schema[path][method]
    cases = mode.flatmap(lambda one: operation.as_strategy(generation_mode=one))
    is_of_one = "{id}" in path and path != _ENDLESS

    @settings(
        max_examples=few,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, is_there=st.booleans())
    def check(case: schemathesis.Case[Any], *, is_there: bool) -> None:
        if is_there and is_of_one:
            case.path_parameters["id"] = begin(url)
        response = case.call(timeout=_SECONDS)
        case.validate_response(response, checks=_CHECKS)

    check()
