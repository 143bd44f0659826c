"""Whose uploads are whose, to the end of each request, and what nobody gets to see."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.tus_api import BYTES, TusApi
from tests.servers.upload import RawConnection, Reply, names_in, open_api, plain_batch
from upload_kit.config import Secret
from upload_kit.server import ServerConfig, running_server
from upload_kit.server.app import TOKENS

if TYPE_CHECKING:
    from pathlib import Path

_DATA: Final = b"<script>alert('sent')</script>"
_BYTES: Final = b"0123456789"
_NEVER: Final = "0" * 32


def plain(reply: Reply, *ids: str) -> tuple[int, dict[str, str], str]:
    """Return all of an answer but what differs from one moment to the next."""
    named = {"x-request-id", "date"}
    headers = {name: text for name, text in reply.headers.items() if name not in named}
    text = str(reply.body)
    assert not any(one in f"{text}{headers}" for one in ids)
    return reply.status, headers, text


async def test_absent_and_anothers_are_the_same(tmp_path: Path) -> None:
    """Nothing in an answer tells whether somebody else has an upload of this ID."""
    tokens = (Secret("ann:a"), Secret("bob:b"))
    config = ServerConfig(directory=tmp_path, port=0, tokens=tokens)
    bob = "Authorization: Bearer b"
    version = "Tus-Resumable: 1.0.0"
    patch = ("Upload-Offset: 0", f"Content-Type: {BYTES}", "Content-Length: 0")
    async with running_server(config) as server, open_api(server.url, "a") as ann:
        chunked = await ann.begun(_DATA, 10)
        published = (await ann.foundation(_DATA)).body["session_id"]
        tus = TusApi(ann)
        part = (await tus.begun(5, Upload_Concat="partial")).rpartition("/")[2]
        for theirs in (chunked, published, part):
            for method, path, *lines in (
                ("GET", "/upload/status/{}"),
                ("GET", "/upload/status/{}/events"),
                ("PUT", "/upload/resumable/{}/chunks/0", "Content-Length: 0"),
                ("POST", "/upload/resumable/{}/complete", "Content-Length: 0"),
                ("DELETE", "/upload/resumable/{}"),
                ("HEAD", "/files/{}", version),
                ("PATCH", "/files/{}", version, *patch),
                ("DELETE", "/files/{}", version),
                ("POST", "/files/", version, "Upload-Concat: final;/files/{}"),
            ):
                found = []
                for upload_id in (theirs, _NEVER):
                    asked = [line.format(upload_id) for line in (path, *lines)]
                    async with RawConnection(server.url) as connection:
                        reply = await connection.asked(
                            method, asked[0], bob, *asked[1:]
                        )
                    found.append(plain(reply, upload_id))
                assert found[0] == found[1], (method, path)
        assert set(await ann.sessions()) == {chunked, part}


@pytest.mark.parametrize("way", ["foundation", "streaming", "batch", "chunk", "tus"])
async def test_token_that_ends_in_mid_upload(tmp_path: Path, way: str) -> None:
    """Who may not begin an upload by now may not end one either."""
    file = tmp_path / "tokens"
    file.write_text("ann:hunter2\n")
    config = ServerConfig(directory=tmp_path / "s", port=0, token_file=file)
    async with (
        running_server(config) as server,
        open_api(server.url, "hunter2") as ann,
        RawConnection(server.url) as connection,
    ):
        session_id = await ann.begun(_BYTES, 10)
        upload = (await TusApi(ann).begun(10)).rpartition("/")[2]
        body = plain_batch([_BYTES]) if way == "batch" else _BYTES
        head = {
            "batch": ("POST", "/upload/batch"),
            "foundation": ("POST", "/upload/foundation"),
            "streaming": ("POST", "/upload/streaming", "Accept: application/x-ndjson"),
            "chunk": ("PUT", f"/upload/resumable/{session_id}/chunks/0"),
            "tus": ("PATCH", f"/files/{upload}", "Tus-Resumable: 1.0.0"),
        }[way]
        length = f"Content-Length: {len(body)}"
        lines = ("Authorization: Bearer hunter2", length, *head[2:])
        lines = (*lines, "Expect: 100-continue")
        if way == "tus":
            lines = (*lines, "Upload-Offset: 0", f"Content-Type: {BYTES}")
        await connection.head(head[0], head[1], *lines)
        assert b" 100 " in await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(body[:-5])
        file.write_text("bob:hunter2\n")
        await asyncio.to_thread(server.app[TOKENS].reload)
        await connection.send(body[-5:])
        if way == "streaming":
            text = (await connection.reader.readuntil(b"AuthenticationFailed")).decode()
            assert "somebody else" in text
        else:
            reply = await connection.reply()
            assert (reply.status, reply.problem) == (401, "unauthorized")
    assert names_in(tmp_path / "s" / "files") == []


async def test_nothing_that_was_sent_is_served(tmp_path: Path) -> None:
    """A script that somebody uploads is shown to nobody, under whatever address."""
    config = ServerConfig(directory=tmp_path, port=0)
    async with running_server(config) as server, open_api(server.url) as api:
        headers = {"Content_Type": "text/html", "Upload_Metadata": "a PHNjcmlwdD4="}
        sent = await api.foundation(_DATA, name="<script>.html", **headers)
        upload_id, place = sent.body["session_id"], sent.body["stored_as"]
        paths = [
            *(f"upload/status/{upload_id}", f"upload/resumable/{upload_id}"),
            *(f"files/{upload_id}", f"files/{upload_id}/_script_.html", place),
            *("upload/sessions", "files/", "upload/<script>", "", "openapi.json"),
        ]
        for path in paths:
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                reply = await api.call(method, path, headers={"Accept": "text/html"})
                kind = reply.headers.get("Content-Type", "application/json")
                assert re.match(r"application/(problem\+)?json", kind), (method, path)
                assert reply.headers["X-Content-Type-Options"] == "nosniff"
                assert _DATA.decode() not in str(reply.body)
