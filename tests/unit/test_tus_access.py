"""Who may use the tus server: owners, and pages in browsers."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.tus_api import (
    TusApi,
    checksum,
    published,
    sent_parts,
    tus_server,
)
from upload_kit.config import Secret
from upload_kit.server.folder import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path

DATA: Final = os.urandom(600_000)
SIZE: Final = len(DATA)
_NO_SUCH: Final = f"files/{'0' * 32}"


async def test_uploads_are_their_owners(tmp_path: Path) -> None:
    """Without a token 401; with somebody else's, an upload is not there."""
    tokens = (Secret("a:one"), Secret("b:two"))
    mine = {"Authorization": "Bearer one"}
    theirs = {"Authorization": "Bearer two"}
    async with tus_server(tmp_path / "s", tokens=tokens) as tus:
        assert (await tus.call("OPTIONS", "files/")).status == 204
        reply = await tus.create(Upload_Length="5")
        assert reply.status == 401
        assert reply.headers["Tus-Resumable"] == "1.0.0"
        url = await tus.begun(5, **mine)
        part = await tus.begun(5, Upload_Concat="partial", **mine)
        for who, status in ((theirs, 404), ({}, 401)):
            for reply in (
                await tus.call("HEAD", url, **who),
                await tus.patch(url, 0, b"hello", **who),
                await tus.call("DELETE", url, **who),
                await tus.joined(part, **who),
            ):
                assert reply.status == status
        assert (await tus.patch(url, 0, b"hello", **mine)).status == 204


async def test_limits_are_shared_with_other_protocols(tmp_path: Path) -> None:
    """Unfinished uploads and bytes are counted, and given back."""
    async with tus_server(tmp_path / "s", max_sessions=2, quota=1000) as tus:
        one, two = await tus.begun(600), await tus.begun(None)
        assert (await tus.create(Upload_Length="1")).status == 429
        assert (await tus.patch(two, 0, b"x" * 300)).status == 204
        assert (await tus.patch(two, 300, b"x" * 101)).status == 507
        assert (await tus.patch(two, 300, b"", Upload_Length="401")).status == 507
        assert await tus.offset(two) == 300
        wrong = checksum("sha1", b"other")
        reply = await tus.patch(two, 300, b"x" * 100, Upload_Checksum=wrong)
        assert reply.status == 460
        assert (await tus.patch(two, 300, b"x" * 100)).status == 204
        await tus.delete(one)
        assert (await tus.patch(two, 400, b"", Upload_Length="1000")).status == 204
        assert (await tus.patch(two, 400, b"x" * 600)).status == 204
        assert (await tus.create(Upload_Length="1")).status == 507
        await tus.delete(two)
        assert (await tus.create(Upload_Length="1000")).status == 201


async def test_protocols_leave_each_other_alone(tus: TusApi, tmp_path: Path) -> None:
    """An upload is continued by the protocol that began it; both can be asked about."""
    url = await tus.begun(600_000)
    upload_id = url.rpartition("/")[2]
    await tus.patch(url, 0, DATA[:1000])
    assert (await tus.api.put(upload_id, 0, DATA)).status in {404, 409}
    assert (await tus.api.complete(upload_id)).status == 404
    status = (await tus.api.status(upload_id, "?chunks=1")).body
    assert (status["received_bytes"], status["state"]) == (1000, "uploading")
    assert (status["missing"], status["chunks"]) == ([[0, 1]], [])
    assert await tus.api.sessions() == [upload_id]
    native = await tus.api.begun(b"hello", 5)
    for reply in (
        await tus.head(f"files/{native}"),
        await tus.patch(f"files/{native}", 0, b"hello"),
        await tus.delete(f"files/{native}"),
    ):
        assert reply.status == 404
    assert (await tus.patch(url, 1000, DATA[1000:])).status == 204
    status = (await tus.api.status(upload_id)).body
    assert (status["state"], status["missing"]) == ("complete", [])
    assert published(tmp_path) == [DATA]


async def test_nothing_needs_to_be_kept(tmp_path: Path) -> None:
    """A server that throws bytes away counts them all the same."""
    async with tus_server(tmp_path, directory="null:") as tus:
        url = await tus.begun(None)
        await tus.patch(url, 0, DATA[:1000])
        field = checksum("sha1", DATA[1000:])
        reply = await tus.patch(
            url, 1000, DATA[1000:], Upload_Length=str(SIZE), Upload_Checksum=field
        )
        assert (reply.status, await tus.offset(url)) == (204, SIZE)
        late = await tus.begun(3, Upload_Concat="partial")
        whole = tus.address(await tus.joined(*await sent_parts(tus, b"hel"), late))
        await tus.patch(late, 0, b"lo!")
        assert (await tus.until_complete(whole)).headers["Upload-Length"] == "6"
        assert (await tus.delete(url)).status == 204
        assert (await tus.head(url)).status == 404


async def test_what_another_process_removed_is_gone(
    tus: TusApi, tmp_path: Path
) -> None:
    """A published file that somebody else removed is not there any more."""
    url = await tus.begun(5)
    await tus.patch(url, 0, b"hello")
    assert await tus.offset(url) == 5

    def remove() -> None:
        FolderStorage(tmp_path / "s").open(url.rpartition("/")[2]).discard()

    await asyncio.to_thread(remove)
    assert (await tus.head(url)).status == 404


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ({"https://app.example"}, "https://app.example", True),
        ({"*"}, "https://other.example", True),
        ({"https://app.example"}, "https://other.example", False),
        (set(), "https://app.example", False),
    ],
    ids=["named", "all", "another", "none"],
)
@pytest.mark.parametrize("tokens", [(), (Secret("t"),)], ids=["open", "tokens"])
async def test_pages_of_allowed_origins_may_upload(
    *,
    tmp_path: Path,
    origins: set[str],
    origin: str,
    allowed: bool,
    tokens: tuple[Secret, ...],
) -> None:
    """Browsers are told what their pages may do, on every answer, refusals too."""
    async with tus_server(
        tmp_path / "s", allowed_origins=frozenset(origins), tokens=tokens
    ) as tus:
        asked = "authorization,tus-resumable,upload-length,x-csrf"
        preflight = await tus.call(
            "OPTIONS",
            "files/",
            Tus_Resumable=None,
            Origin=origin,
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers=asked,
        )
        assert preflight.status == 204
        created = await tus.create(
            Upload_Length="5", Origin=origin, Authorization="Bearer t"
        )
        assert created.status == (201 if allowed or tokens else 403)
        missing = await tus.call(
            "HEAD", _NO_SUCH, Origin=origin, Authorization="Bearer t"
        )
        for reply in (preflight, created, missing):
            answer = reply.headers.get("Access-Control-Allow-Origin")
            assert answer == (origin if allowed else None)
            assert ("Origin" in reply.headers.get("Vary", "")) == bool(origins)
        if allowed:
            exposed = created.headers["Access-Control-Expose-Headers"]
            assert {"Location", "Upload-Offset"} <= set(exposed.split(", "))
            methods = preflight.headers["Access-Control-Allow-Methods"]
            assert {"POST", "PATCH", "HEAD", "DELETE"} <= set(methods.split(", "))
            assert preflight.headers["Access-Control-Allow-Headers"] == asked


async def test_other_routes_know_nothing_of_tus(tus: TusApi) -> None:
    """What tus adds to answers stays with its own addresses."""
    reply = await tus.api.call("GET", "healthz")
    assert "Tus-Resumable" not in reply.headers
