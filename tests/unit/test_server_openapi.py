"""The OpenAPI document is valid, complete, and what the server really answers."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from tests.servers.upload import (
    UploadApi,
    batch_of,
    listed,
    open_api,
    sha256,
    upload_server,
)
from upload_kit.config import Secret
from upload_kit.models import StreamingProgress
from upload_kit.server import Forwarding, ServerConfig, create_app, running_server
from upload_kit.server.openapi import openapi_document
from upload_kit.server.problems import ProblemType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DOCUMENT = openapi_document(ServerConfig(directory="x"))


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[UploadApi]:
    async with upload_server(tmp_path) as api:
        yield api


def check(schema: str, body: Any) -> None:
    """Raise if a body is not what a schema of the document says."""
    whole = {"$ref": f"#/components/schemas/{schema}", **DOCUMENT}
    OAS31Validator(whole).validate(body)


@pytest.mark.parametrize("tokens", [(), (Secret("a:b"),)], ids=["open", "tokens"])
def test_document_is_valid(tokens: tuple[Secret, ...]) -> None:
    """The document is OpenAPI 3.1, with tokens and without."""
    config = ServerConfig(directory="x", tokens=tokens)
    document = openapi_document(config)
    validate(document)
    assert ("security" in document) == bool(tokens)


def test_every_route_of_ours_is_in_it(tmp_path: Path) -> None:
    """What the protocol page names, the application has and the document tells."""
    app = create_app(ServerConfig(directory=tmp_path))
    routes = {
        (resource.canonical, route.method.lower())
        for resource in app.router.resources()
        for route in resource
    }
    described = {
        (path, method) for path, item in DOCUMENT["paths"].items() for method in item
    }
    ours = {
        (path, m) for path, m in routes if path.startswith("/upload") or path == "/"
    }
    assert ours
    assert {r for r in ours if r[1] != "head"} <= described
    assert described <= routes


def test_problems_have_schemas() -> None:
    """Every type of problem that can be answered is one that the schema allows."""
    allowed = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert {kind.rpartition(":")[2] for kind in allowed} == set(ProblemType)


async def test_answers_are_what_it_says(api: UploadApi) -> None:
    """Real answers of every kind match their schemas."""
    data = os.urandom(25)
    check("Discovery", (await api.call("OPTIONS", "upload")).body)
    check("Health", (await api.call("GET", "healthz")).body)
    check("Health", (await api.call("GET", "readyz")).body)
    check("Status", (await api.foundation(data)).body)
    entries = [listed(data, 0), listed(data, 1, sha256="0" * 64)]
    batch = batch_of([data, data], entries)
    check("Batch", (await api.call("POST", "upload/batch", data=batch)).body)
    session_id = await api.begun(data, 10)
    check("Status", (await api.status(session_id)).body)
    check("Sessions", (await api.call("GET", "upload/sessions")).body)
    check("Problem", (await api.complete(session_id)).body)
    check("Receipt", (await api.put(session_id, 0, data[:10])).body)
    await api.send(session_id, data, 10)
    done = await api.complete(session_id, sha256=sha256(data))
    check("Status", done.body)
    check("Status", (await api.status(session_id, "?chunks=1")).body)
    check("Cleanup", (await api.call("POST", "upload/cleanup")).body)
    check("Problem", (await api.call("GET", "nowhere")).body)


async def test_lines_are_what_it_says(api: UploadApi) -> None:
    """Lines of progress match their schema."""
    reply = await api.call(
        "POST",
        "upload/streaming",
        data=b"x",
        headers={"Accept": "application/x-ndjson"},
    )
    for line in reply.body.splitlines():
        check("StreamingProgress", StreamingProgress.from_json(line).to_dict())


async def test_forwards_are_what_it_says(tmp_path: Path) -> None:
    """What a server that forwards adds to its answers is in the document too."""
    forward = Forwarding(url=Secret((tmp_path / "b").as_uri()))
    async with upload_server(tmp_path / "a", forward=forward) as api:
        check("Health", (await api.call("GET", "readyz")).body)
        reply = await api.call(
            "POST",
            "upload/streaming",
            data=b"x",
            headers={"Accept": "application/x-ndjson"},
        )
        lines = [json.loads(line) for line in reply.body.splitlines()]
        for line in lines:
            check("StreamingProgress", line)
        status = (await api.status(lines[-1]["result"]["transfer_id"])).body
    check("Status", status)
    check("Forwarded", status["forwarded"])


async def test_document_is_served(tmp_path: Path) -> None:
    """It is there without a token, and says where the server is."""
    config = ServerConfig(
        directory=tmp_path, port=0, prefix="/store", tokens=(Secret("a:b"),)
    )
    async with running_server(config) as server, open_api(server.url) as api:
        body = (await api.call("GET", "openapi.json")).body
    validate(body)
    assert body["servers"] == [{"url": "/store"}]
