"""Files that come in one request: stored whole, once, and checked; or not at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.servers.upload import (
    RawConnection,
    Reply,
    UploadApi,
    digest_field,
    files_below,
    names_in,
    open_api,
    sha256,
    until,
    upload_server,
)
from upload_kit.config import Secret
from upload_kit.server import ServerConfig, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[UploadApi]:
    async with upload_server(tmp_path) as api:
        yield api


def stored(folder: Path) -> list[bytes]:
    """Return the bytes of every published file."""
    return [
        path.read_bytes()
        for path in (folder / "files").glob("*/*")
        if not path.name.startswith(".")
    ]


def left(folder: Path) -> list[str]:
    """Return what is still there of unfinished files."""
    return names_in(folder / "incoming")


@pytest.mark.parametrize(
    "size", [0, 1, 16_384, 300_000, 5 * MIB + 1], ids=lambda size: f"{size}-bytes"
)
async def test_file_is_stored(api: UploadApi, tmp_path: Path, size: int) -> None:
    """The answer describes the file, and the file is the bytes that were sent."""
    data = os.urandom(size)
    reply = await api.foundation(data, "größe.bin", Content_Digest=digest_field(data))
    assert reply.status == 201
    body = reply.body
    assert body["state"] == "complete"
    assert body["name"] == "größe.bin"
    assert body["size"] == body["received_bytes"] == size
    assert body["sha256"] == sha256(data)
    assert body["missing"] == []
    assert body["total_chunks"] == body["received_chunks"] == 1
    assert body["chunks"] == [
        {"index": 0, "start": 0, "size": size, "sha256": sha256(data)}
    ]
    assert (tmp_path / body["stored_as"]).read_bytes() == data
    assert (await api.status(body["session_id"], "?chunks=1")).body == body


async def test_file_without_a_length(api: UploadApi, tmp_path: Path) -> None:
    """A body in HTTP chunks is stored as well; its size shows at the end."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(100_000)

    reply = await api.foundation(pieces())
    assert reply.status == 201
    assert reply.body["size"] == 5_000_000
    assert stored(tmp_path) == [bytes(5_000_000)]


async def test_file_as_a_form(api: UploadApi, tmp_path: Path) -> None:
    """A browser's form with one file is stored under the name that it gives."""
    data = os.urandom(3 * MIB)
    form = aiohttp.FormData(quote_fields=False)
    form.add_field(
        "file", io.BytesIO(data), filename="bericht ä.pdf", content_type="text/pdf"
    )
    reply = await api.call("POST", "upload/foundation?name=other", data=form)
    assert reply.status == 201
    assert reply.body["name"] == "bericht ä.pdf"
    assert reply.body["content_type"] == "text/pdf"
    assert stored(tmp_path) == [data]


async def test_form_with_two_files(api: UploadApi, tmp_path: Path) -> None:
    """Two parts are refused, and nothing of either is left."""
    form = aiohttp.FormData()
    form.add_field("one", io.BytesIO(bytes(3 * MIB)), filename="a")
    form.add_field("two", b"two", filename="b")
    reply = await api.call("POST", "upload/foundation", data=form)
    assert reply.problem == "malformed"
    assert stored(tmp_path) == []
    assert left(tmp_path) == []


async def test_form_with_a_digest_of_the_whole(api: UploadApi) -> None:
    """A digest over a form is not one over a file, and must not pass for it."""
    form = aiohttp.FormData()
    form.add_field("file", b"x", filename="a")
    headers = {"Content-Digest": digest_field(b"x")}
    reply = await api.call("POST", "upload/foundation", data=form, headers=headers)
    assert reply.problem == "malformed"


async def test_what_is_said_of_a_file_is_kept(api: UploadApi) -> None:
    """Name, type and metadata come back as they were sent."""
    value = base64.b64encode("Ünïcode".encode()).decode()
    reply = await api.foundation(
        b"x",
        "query.txt",
        Content_Disposition="attachment; filename*=UTF-8''header%20%C3%BC.txt",
        Content_Type="text/plain; charset=utf-8",
        Upload_Metadata=f"origin {value},empty",
    )
    assert reply.body["name"] == "header ü.txt"
    assert reply.body["content_type"] == "text/plain"
    assert reply.body["metadata"] == {"origin": "Ünïcode", "empty": ""}


@pytest.mark.parametrize("size", [10, 5 * MIB])
async def test_wrong_digest_leaves_nothing(
    api: UploadApi, tmp_path: Path, size: int
) -> None:
    """A file that is not what its digest says is refused, whole."""
    reply = await api.foundation(bytes(size), Content_Digest=digest_field(b"other"))
    assert reply.status == 422
    assert reply.problem == "digest-mismatch"
    assert reply.body["actual"] == sha256(bytes(size))
    assert stored(tmp_path) == []
    assert left(tmp_path) == []


@pytest.mark.parametrize("size", [10, 5 * MIB])
async def test_same_key_stores_once(api: UploadApi, tmp_path: Path, size: int) -> None:
    """A repeat after a lost answer gets that answer, and no second file."""
    key = "k" * 16
    first = await api.foundation(bytes(size), Idempotency_Key=key)
    again = await api.foundation(bytes(size), Idempotency_Key=key)
    assert (again.status, again.body) == (first.status, first.body)
    other = await api.foundation(bytes(size), Idempotency_Key="o" * 16)
    assert other.body["session_id"] != first.body["session_id"]
    assert len(stored(tmp_path)) == 2


async def test_key_is_known_to_another_process(tmp_path: Path) -> None:
    """Two servers that share a folder store a file with a key once, whoever has it."""
    answers = []
    for _ in range(2):
        async with upload_server(tmp_path) as api:
            answers.append(await api.foundation(b"data", Idempotency_Key="k" * 16))
    assert answers[0].body == answers[1].body
    assert stored(tmp_path) == [b"data"]


async def test_other_bytes_with_a_known_key_change_nothing(
    api: UploadApi, tmp_path: Path
) -> None:
    """What a key stands for is never replaced; the answer tells what that is."""
    first = await api.foundation(b"data", Idempotency_Key="k" * 16)
    again = await api.foundation(b"other", Idempotency_Key="k" * 16)
    assert again.body["sha256"] == first.body["sha256"]
    assert stored(tmp_path) == [b"data"]
    assert left(tmp_path) == []


async def test_key_of_a_failure_is_free(api: UploadApi, tmp_path: Path) -> None:
    """A try that failed does not keep the next one from being stored."""
    key = "k" * 16
    headers = {"Content_Digest": digest_field(b"other"), "Idempotency_Key": key}
    assert (await api.foundation(b"data", **headers)).status == 422
    assert (await api.foundation(b"data", Idempotency_Key=key)).status == 201
    assert stored(tmp_path) == [b"data"]


async def test_keys_of_others_are_theirs(tmp_path: Path) -> None:
    """The same key from another token is another key."""
    tokens = (Secret("ann:a"), Secret("bob:b"))
    async with upload_server(tmp_path, tokens=tokens) as api:
        url = str(api.session._base_url)
        async with open_api(url, "a") as ann, open_api(url, "b") as bob:
            one = await ann.foundation(b"1", Idempotency_Key="k" * 16)
            two = await bob.foundation(b"2", Idempotency_Key="k" * 16)
    assert one.body["session_id"] != two.body["session_id"]
    assert sorted(stored(tmp_path)) == [b"1", b"2"]


async def test_newer_request_with_a_key_takes_over(
    api: UploadApi, tmp_path: Path
) -> None:
    """A client that came back is not kept waiting by its own dead connection."""
    url = str(api.session._base_url)
    async with RawConnection(url) as dead:
        key = "Idempotency-Key: kkkkkkkkkkkkkkkk"
        length = f"Content-Length: {9 * MIB}"
        await dead.head("POST", "/upload/foundation", length, key)
        await dead.send(bytes(5 * MIB))
        await until(lambda: bool(left(tmp_path)))
        reply = await api.foundation(b"the whole", Idempotency_Key="k" * 16)
        assert reply.status == 201
        assert (await dead.reply()).problem == "superseded"
    assert stored(tmp_path) == [b"the whole"]


async def test_cut_off_file_leaves_nothing(api: UploadApi, tmp_path: Path) -> None:
    """A connection that breaks in the middle leaves no file and no half of one."""
    async with RawConnection(str(api.session._base_url)) as connection:
        await connection.head(
            "POST", "/upload/foundation", f"Content-Length: {9 * MIB}"
        )
        await connection.send(bytes(5 * MIB))
        await until(lambda: bool(left(tmp_path)))
        connection.abort()
    await until(lambda: not left(tmp_path))
    assert stored(tmp_path) == []


async def test_body_is_asked_for_only_when_wanted(api: UploadApi) -> None:
    """With `Expect: 100-continue` a refusal comes instead of the 100."""
    url = str(api.session._base_url)
    expect = "Expect: 100-continue"
    async with RawConnection(url) as connection:
        await connection.head("POST", "/upload/foundation", "Content-Length: 4", expect)
        assert (await connection.reply()).status == 100
        await connection.send(b"data")
        assert (await connection.reply()).status == 201
    async with RawConnection(url) as connection:
        await connection.head(
            "POST",
            "/upload/foundation",
            "Content-Length: 4",
            expect,
            "Upload-Metadata: ,",
        )
        assert (await connection.reply()).problem == "malformed"
        assert await connection.closed()


async def test_unknown_expectation(api: UploadApi) -> None:
    """An expectation that nobody knows is 417, as a problem."""
    async with RawConnection(str(api.session._base_url)) as connection:
        await connection.head(
            "POST", "/upload/foundation", "Content-Length: 4", "Expect: 200-maybe"
        )
        reply = await connection.reply()
    assert (reply.status, reply.problem) == (417, "expectation")


async def test_coded_file_is_refused(api: UploadApi) -> None:
    """Only chunks may be coded: a file's digest would mean two things."""
    reply = await api.foundation(b"x", Content_Encoding="gzip")
    assert (reply.status, reply.problem) == (415, "unsupported-media")


@pytest.mark.parametrize("with_length", [True, False])
async def test_file_that_is_too_large(tmp_path: Path, *, with_length: bool) -> None:
    """Too much is refused at the first byte too much, announced or not."""

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(MIB)
        yield bytes(MIB)

    async with upload_server(tmp_path, max_size=MIB) as api:
        data: Any = bytes(2 * MIB) if with_length else pieces()
        reply = await api.foundation(data)
        assert (reply.status, reply.problem) == (413, "too-large")
        assert reply.body["max_size"] == MIB
        assert reply.headers["Connection"] == "close"
        assert (await api.foundation(bytes(MIB))).status == 201
    assert left(tmp_path) == []


async def test_files_at_once(api: UploadApi, tmp_path: Path) -> None:
    """Many small files at the same time are all stored, each once."""
    files = [os.urandom(1000) for _ in range(200)]
    replies: list[Reply] = await asyncio.gather(*map(api.foundation, files))
    assert {reply.status for reply in replies} == {201}
    assert sorted(stored(tmp_path)) == sorted(files)


@pytest.mark.parametrize(
    "name",
    [
        "../../../../tmp/evil",
        "/etc/passwd",
        "..",
        "a\x00b",
        "\u202efdp.exe",
        "n" * 4000,
        "CON",
        "con\\..\\x",
        ".info.json",
        "",
    ],
)
async def test_hostile_name_stays_a_name(
    api: UploadApi, tmp_path: Path, name: str
) -> None:
    """Whatever a file is called, it lands in its own folder, and keeps its name."""
    before = files_below(tmp_path.parent)
    reply = await api.foundation(b"x", name)
    assert reply.status == 201
    assert reply.body["name"] == name
    new = {*files_below(tmp_path.parent)} - {*before}
    folder = tmp_path / "files" / reply.body["session_id"]
    assert {path.parent for path in new} == {folder}


async def test_name_of_megabytes(api: UploadApi) -> None:
    """A name beyond 4 KB is refused."""
    reply = await api.foundation(b"x", "n" * 4097)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_durability_is_told(tmp_path: Path) -> None:
    """Every status says what its bytes survive, and discovery does as well."""
    async with upload_server(tmp_path, durability="fsync") as api:
        assert (await api.foundation(b"x")).body["durability"] == "fsync"
        assert (await api.call("OPTIONS", "upload")).body["durability"] == "fsync"


async def test_server_that_discards() -> None:
    """`null:` checks what comes and keeps nothing of it."""
    data = os.urandom(3 * MIB)
    config = ServerConfig(directory="null:", port=0)
    async with running_server(config) as server, open_api(server.url) as api:
        reply = await api.foundation(data, Content_Digest=digest_field(data))
        assert reply.status == 201
        assert reply.body["sha256"] == sha256(data)
        assert reply.body["stored_as"] is None
        bad = await api.foundation(data, Content_Digest=digest_field(b""))
        assert bad.problem == "digest-mismatch"
        session_id = await api.begun(data, MIB, whole_digest=True)
        await api.send(session_id, data, MIB)
        done = await api.complete(session_id, sha256=sha256(data))
        assert (done.status, done.body["sha256"]) == (200, None)


async def test_prefix_is_before_every_route(tmp_path: Path) -> None:
    """A server may live below a path."""
    config = ServerConfig(directory=tmp_path, port=0, prefix="/store/a")
    async with running_server(config) as server, open_api(server.url) as api:
        assert server.url.endswith("/store/a/")
        assert (await api.foundation(b"x")).status == 201
        assert (await api.call("OPTIONS", "")).status == 200
        assert (await api.call("GET", "/upload/sessions")).status == 404


def test_info_is_json(tmp_path: Path) -> None:
    """What is kept beside a file can be read by anybody who may read it."""

    async def store() -> str:
        async with upload_server(tmp_path) as api:
            reply = await api.foundation(b"hello", "a.txt")
            return str(reply.body["session_id"])

    session_id = asyncio.run(store())
    info = json.loads((tmp_path / "files" / session_id / ".info.json").read_text())
    assert info["name"] == "a.txt"
    assert info["sha256"] == hashlib.sha256(b"hello").hexdigest()
