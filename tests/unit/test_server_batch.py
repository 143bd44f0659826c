"""Many small files in one request: each stored whole and once, or refused by itself."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.upload import (
    RawConnection,
    Reply,
    UploadApi,
    batch_of,
    digest_field,
    listed,
    names_in,
    open_api,
    plain_batch,
    sha256,
    until,
    upload_server,
)
from upload_kit.config import Secret
from upload_kit.server import ServerConfig, running_server
from upload_kit.server.batch import MAX_BYTES, MAX_FILES, MAX_LIST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_FILES: Final = [os.urandom(size) for size in (0, 1, 16_384, 300_000, 0, 65_536)]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[UploadApi]:
    async with upload_server(tmp_path) as api:
        yield api


async def send(api: UploadApi, body: bytes) -> Reply:
    return await api.call("POST", "upload/batch", data=body)


def stored(folder: Path) -> list[bytes]:
    """Return the bytes of every published file, smallest first."""
    places = (folder / "files").glob("*/[!.]*")
    return sorted((path.read_bytes() for path in places), key=len)


async def test_each_file_is_stored_as_if_alone(api: UploadApi, tmp_path: Path) -> None:
    """Every answer describes its file, and the files are the bytes that were sent."""
    more = {"metadata": {"ä": "ö"}, "content_type": "text/plain; charset=x"}
    entries = [listed(data, n, **more) for n, data in enumerate(_FILES)]
    entries[2]["name"] = "größe.bin"
    reply = await send(api, batch_of(_FILES, entries))
    assert reply.status == 200
    for data, entry, outcome in zip(_FILES, entries, reply.body["files"], strict=True):
        upload = outcome["upload"]
        assert outcome["problem"] is None
        assert upload["state"] == "complete"
        assert upload["name"] == entry["name"]
        assert upload["size"] == len(data)
        assert upload["sha256"] == sha256(data)
        assert upload["metadata"] == {"ä": "ö"}
        assert upload["content_type"] == "text/plain"
        assert (tmp_path / upload["stored_as"]).read_bytes() == data
        assert (await api.status(upload["session_id"])).body == upload
    assert names_in(tmp_path / "incoming") == []


async def test_one_that_is_refused_stops_no_other(tmp_path: Path) -> None:
    """What is wrong with one file is told of that one."""
    files = [b"fine", b"another", b"too large", b"long", b"fine too"]
    entries = [listed(data, n) for n, data in enumerate(files)]
    entries[1]["sha256"] = sha256(b"other bytes")
    entries[3]["name"] = "ä" * 3000
    async with upload_server(tmp_path, max_size=7) as api:
        reply = await send(api, batch_of(files, entries))
    problems = [outcome["problem"] for outcome in reply.body["files"]]
    types = [one and one["type"].rpartition(":")[2] for one in problems]
    assert types == [None, "digest-mismatch", "too-large", "malformed", "too-large"]
    assert [bool(one["upload"]) for one in reply.body["files"]].count(True) == 1
    assert stored(tmp_path) == [b"fine"]
    assert names_in(tmp_path / "incoming") == []


async def test_full_disk_leaves_what_was_stored(tmp_path: Path) -> None:
    """Files that found room are stored; the others are told that there is none."""
    files = [bytes(40_000), bytes(50_000), bytes(20_000)]
    async with upload_server(tmp_path, quota=64_000) as api:
        reply = await send(api, plain_batch(files))
        assert stored(tmp_path) == [bytes(20_000), bytes(40_000)]
        assert reply.body["files"][1]["problem"]["status"] == 507
        small = await api.foundation(bytes(4_000))
        assert small.status == 201
    assert names_in(tmp_path / "incoming") == []


async def test_the_same_again_changes_nothing(api: UploadApi, tmp_path: Path) -> None:
    """The same keys get the first answers, one after another and at once."""
    body = plain_batch(_FILES)
    replies = await asyncio.gather(*(send(api, body) for _ in range(4)))
    replies.append(await send(api, body))
    for reply in replies:
        assert reply.body == replies[0].body
    assert stored(tmp_path) == sorted(_FILES, key=len)
    assert names_in(tmp_path / "incoming") == []


async def test_alone_and_along_are_the_same_file(api: UploadApi) -> None:
    """A file that went in a batch is found when it comes again by itself."""
    along = await send(api, plain_batch([b"data", b"more"]))
    headers = {"Idempotency_Key": listed(b"data", 0)["key"]}
    alone = await api.foundation(b"data", "0.bin", **headers)
    upload = along.body["files"][0]["upload"]
    assert alone.body["session_id"] == upload["session_id"]


async def test_keys_belong_to_their_owners(tmp_path: Path) -> None:
    """Two people's files with the same key are two files."""
    config = ServerConfig(
        directory=tmp_path, port=0, tokens=(Secret("ann:a"), Secret("bob:b"))
    )
    async with (
        running_server(config) as server,
        open_api(server.url, "a") as ann,
        open_api(server.url, "b") as bob,
    ):
        body = plain_batch([b"1", b"2"])
        hers = (await send(ann, body)).body["files"]
        his = (await send(bob, body)).body["files"]
        ids = {one["upload"]["session_id"] for one in (*hers, *his)}
        assert len(ids) == 4
        assert (await bob.status(hers[0]["upload"]["session_id"])).status == 404


def _broken_lists() -> dict[str, bytes]:
    good = listed(b"data", 0)
    without_key = {name: value for name, value in good.items() if name != "key"}
    huge = [listed(b"", n, size=MAX_BYTES // 2 + 1) for n in (0, 1)]
    return {
        "nothing": b"",
        "no line": b'{"files": []}',
        "no JSON": b"files\ndata",
        "no UTF-8": b'{"files": [{"name": "\xff"}]}\n',
        "nested": b'{"files": ' + b"[" * 5000 + b"\n",
        "no files": batch_of([], []),
        "too many": batch_of([b""] * (MAX_FILES + 1), [good] * (MAX_FILES + 1)),
        "negative": batch_of([b"data"], [good | {"size": -4}]),
        "huge": batch_of([], [good | {"size": 2**70}]),
        "too much": batch_of([b""], huge),
        "no key": batch_of([b"data"], [without_key]),
        "short key": batch_of([b"data"], [good | {"key": "short"}]),
        "key and more": batch_of([b"data"], [good | {"key": good["key"] + "\n"}]),
        "no digest": batch_of([b"data"], [good | {"sha256": "0" * 63}]),
        "shorter": batch_of([b"dat"], [good]),
        "longer": batch_of([b"data+"], [good]),
        "endless": bytes(MAX_LIST + 1),
    }


@pytest.mark.parametrize("body", _broken_lists().values(), ids=_broken_lists())
async def test_broken_list(api: UploadApi, tmp_path: Path, body: bytes) -> None:
    """Nothing is stored of a batch that says one thing and is another."""
    reply = await send(api, body)
    assert (reply.status, reply.problem) == (400, "malformed")
    assert names_in(tmp_path / "files") == names_in(tmp_path / "incoming") == []


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("List-Digest", digest_field(b"another list"), "digest-mismatch"),
        ("List-Digest", "sha-256=:x:", "malformed"),
        ("Content-Encoding", "gzip", "unsupported-media"),
    ],
)
async def test_fields_that_do_not_fit(
    api: UploadApi, tmp_path: Path, field: str, value: str, problem: str
) -> None:
    """A list that arrived as another one stores nothing, nor does a coded body."""
    body = plain_batch([b"data"])
    reply = await api.call("POST", "upload/batch", data=body, headers={field: value})
    assert reply.problem == problem
    assert names_in(tmp_path / "files") == []
    right = {"List-Digest": digest_field(body.partition(b"\n")[0])}
    assert (await api.call("POST", "upload/batch", data=body, headers=right)).body[
        "files"
    ][0]["upload"]


@pytest.mark.parametrize("change", [-1, 1])
async def test_length_that_shows_at_the_end(
    api: UploadApi, tmp_path: Path, change: int
) -> None:
    """Without a length, a body that does not fit its list is found out at its end."""
    whole = plain_batch([b"first", b"second"])
    body = whole[:change] if change < 0 else whole + b"+"

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:-3]
        await until(lambda: bool(names_in(tmp_path / "files")))
        yield body[-3:]

    reply = await api.call("POST", "upload/batch", data=pieces())
    assert reply.problem == "malformed"
    assert b"first" in stored(tmp_path)
    assert names_in(tmp_path / "incoming") == []


async def test_cut_off_in_mid_file(tmp_path: Path) -> None:
    """Whole files count; the rest leaves nothing, and comes again with its keys."""
    body = plain_batch([b"first", os.urandom(200_000), b"last"])
    config = ServerConfig(directory=tmp_path, port=0)
    async with running_server(config) as server, open_api(server.url) as api:
        async with RawConnection(server.url) as connection:
            length = f"Content-Length: {len(body)}"
            await connection.head("POST", "/upload/batch", length)
            await connection.send(body[:-100_000])
            await until(lambda: stored(tmp_path) == [b"first"])
        await until(lambda: names_in(tmp_path / "incoming") == [])
        reply = await send(api, body)
        assert all(one["upload"] for one in reply.body["files"])
        assert len(stored(tmp_path)) == 3


async def test_lists_that_are_cut_off_are_let_go(tmp_path: Path) -> None:
    """Their memory comes back with the connection, not when garbage is looked for."""
    config = ServerConfig(directory=tmp_path, port=0)
    head = "Content-Length: 1000000"
    gc.disable()
    tracemalloc.start()
    try:
        async with running_server(config) as server:
            usual = tracemalloc.get_traced_memory()[0]
            for _ in range(20):
                async with RawConnection(server.url) as connection:
                    await connection.head("POST", "/upload/batch", head)
                    await connection.send(bytes(MAX_LIST))
            await until(
                lambda: tracemalloc.get_traced_memory()[0] - usual < 4 * MAX_LIST
            )
    finally:
        tracemalloc.stop()
        gc.enable()


async def test_list_that_comes_in_bits(tmp_path: Path) -> None:
    """Where the pieces of a body begin and end makes no difference."""
    body = plain_batch([b"", b"one", b"", b"four", b""])
    async with upload_server(tmp_path) as api:

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 7):
                yield body[start : start + 7]
                await asyncio.sleep(0)

        reply = await api.call("POST", "upload/batch", data=pieces())
    assert [one["upload"]["size"] for one in reply.body["files"]] == [0, 3, 0, 4, 0]
    assert stored(tmp_path) == [b"", b"", b"", b"one", b"four"]
