"""Uploads in chunks: any order, at once, again; all of it, or nothing published."""

from __future__ import annotations

import asyncio
import gzip
import os
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.upload import (
    RawConnection,
    UploadApi,
    digest_field,
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
CHUNK = 300_000
DATA = os.urandom(2 * CHUNK + 1000)
PIECES = [DATA[i : i + CHUNK] for i in range(0, len(DATA), CHUNK)]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[UploadApi]:
    async with upload_server(tmp_path, busy_timeout=2.0) as api:
        yield api


@pytest.fixture
async def session_id(api: UploadApi) -> str:
    return await api.begun(DATA, CHUNK)


async def test_begun_upload_is_described(api: UploadApi) -> None:
    """The answer says everything that a client needs to send chunks."""
    reply = await api.begin(
        len(DATA),
        name="größe.bin",
        chunk_size=CHUNK,
        content_type="text/csv",
        metadata={"a": "b"},
    )
    assert reply.status == 201
    body = reply.body
    assert body["state"] == "uploading"
    assert body["name"] == "größe.bin"
    assert body["content_type"] == "text/csv"
    assert body["metadata"] == {"a": "b"}
    assert body["size"] == len(DATA)
    assert body["chunk_size"] == CHUNK
    assert body["total_chunks"] == 3
    assert body["missing"] == [[0, 3]]
    assert body["expires_at"] == pytest.approx(body["created_at"] + 48 * 3600)
    assert body["location"] == f"upload/status/{body['session_id']}"
    assert (await api.status(body["session_id"])).body == body


async def test_begun_upload_is_found_again(api: UploadApi, session_id: str) -> None:
    """With its ID it is found, with what arrived; with another one it is not."""
    await api.put(session_id, 1, PIECES[1])
    reply = await api.begin(None, session_id=session_id)
    assert reply.status == 200
    assert reply.body["missing"] == [[0, 1], [2, 3]]
    gone = await api.begin(None, session_id="0" * 32)
    assert (gone.status, gone.problem) == (404, "not-found")


async def test_default_chunk_is_taken(api: UploadApi) -> None:
    """A client without a wish gets the server's default."""
    found = (await api.call("OPTIONS", "upload")).body
    reply = await api.begin(10)
    assert reply.body["chunk_size"] == found["default_chunk"] == 5 * MIB


async def test_chunks_in_any_order_make_the_file(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """Each chunk is answered with what counts; the whole is published in one step."""
    for index in (2, 0, 1):
        reply = await api.put(session_id, index, PIECES[index])
        assert reply.status == 200
        assert reply.body == {
            "index": index,
            "size": len(PIECES[index]),
            "sha256": sha256(PIECES[index]),
            "duplicate": False,
        }
        assert not names_in(tmp_path / "files")
    reply = await api.complete(session_id, sha256=sha256(DATA), size=len(DATA))
    assert reply.status == 200
    assert reply.body["state"] == "complete"
    assert reply.body["sha256"] == sha256(DATA)
    assert reply.body["expires_at"] is None
    assert (tmp_path / reply.body["stored_as"]).read_bytes() == DATA
    status = await api.status(session_id, "?chunks=1")
    assert [c["sha256"] for c in status.body["chunks"]] == [*map(sha256, PIECES)]
    assert [c["start"] for c in status.body["chunks"]] == [0, CHUNK, 2 * CHUNK]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(0, 200_000),
    chunk_size=st.integers(1500, 100_000),
    order=st.randoms(use_true_random=False),
    whole=st.booleans(),
    known=st.booleans(),
)
def test_bytes_out_are_bytes_in(
    tmp_path: Path,
    *,
    size: int,
    chunk_size: int,
    order: Any,
    whole: bool,
    known: bool,
) -> None:
    """For any size, chunk size and order, the file is what was sent."""
    data = order.randbytes(size)

    async def upload() -> None:
        async with upload_server(tmp_path) as api:
            reply = await api.begin(
                size if known else None, chunk_size=chunk_size, whole_digest=whole
            )
            session_id = reply.body["session_id"]
            indexes = [*range(-(-size // chunk_size)), *range(0, size // chunk_size, 3)]
            order.shuffle(indexes)

            async def put(index: int) -> None:
                start = index * chunk_size
                answer = await api.put(
                    session_id, index, data[start : start + chunk_size]
                )
                assert answer.status in (200, 409), answer.body

            await asyncio.gather(*map(put, indexes))
            missing = (await api.status(session_id)).body["missing"]
            for first, last in missing if size else []:
                # Duplicates on the wire at once evict one another: send what is left.
                for index in range(first, last):
                    await put(index)
            done = await api.complete(
                session_id, sha256=sha256(data) if whole else None, size=size
            )
            assert done.status == 200, done.body
            assert (tmp_path / done.body["stored_as"]).read_bytes() == data

    asyncio.run(upload())


async def test_many_chunks_at_once(api: UploadApi, tmp_path: Path) -> None:
    """Sixty chunks, a dozen at a time, arrive where they belong."""
    data = os.urandom(60 * 20_000)
    session_id = await api.begun(data, 20_000, whole_digest=True)
    await api.send(session_id, data, 20_000, parallel=12)
    reply = await api.complete(session_id, sha256=sha256(data))
    assert (tmp_path / reply.body["stored_as"]).read_bytes() == data


async def test_same_chunk_again(api: UploadApi, session_id: str) -> None:
    """A repeat after a lost answer is welcome and changes nothing."""
    await api.put(session_id, 0, PIECES[0])
    reply = await api.put(session_id, 0, PIECES[0])
    assert (reply.status, reply.body["duplicate"]) == (200, True)
    assert (await api.status(session_id)).body["received_chunks"] == 1


async def test_other_bytes_for_a_chunk_that_counts(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """What was acknowledged is never overwritten."""
    await api.put(session_id, 0, PIECES[0])
    reply = await api.put(session_id, 0, bytes(CHUNK))
    assert (reply.status, reply.problem) == (409, "chunk-conflict")
    assert reply.body["sha256"] == sha256(PIECES[0])
    short = await api.put(session_id, 0, b"short")
    assert short.problem in ("chunk-conflict", "size-mismatch")
    part = tmp_path / "incoming" / session_id / "data.part"
    assert part.read_bytes()[:CHUNK] == PIECES[0]


async def test_wrong_digest_of_a_chunk(api: UploadApi, session_id: str) -> None:
    """A chunk that is not what its digest says does not count; it may be sent again."""
    wrong = digest_field(b"other")
    reply = await api.put(session_id, 0, PIECES[0], Content_Digest=wrong)
    assert (reply.status, reply.problem) == (422, "digest-mismatch")
    assert reply.body["actual"] == sha256(PIECES[0])
    assert (await api.status(session_id)).body["received_chunks"] == 0
    assert (await api.put(session_id, 0, PIECES[0])).status == 200


async def test_chunk_without_a_digest(api: UploadApi, session_id: str) -> None:
    """A chunk without a digest is taken, and its digest is told."""
    path = f"upload/resumable/{session_id}/chunks/0"
    reply = await api.call("PUT", path, data=PIECES[0])
    assert reply.body["sha256"] == sha256(PIECES[0])


@pytest.mark.parametrize(
    ("index", "size", "problem"),
    [
        pytest.param(0, CHUNK - 1, (422, "size-mismatch"), id="short"),
        pytest.param(0, CHUNK + 1, (422, "size-mismatch"), id="long"),
        pytest.param(3, 10, (400, "malformed"), id="beyond-the-end"),
        pytest.param("-1", 10, (400, "malformed"), id="negative"),
        pytest.param("1_0", 10, (400, "malformed"), id="underscore"),
        pytest.param("%20" + "1", 10, (400, "malformed"), id="blank"),
        pytest.param("9" * 40, 10, (400, "malformed"), id="huge"),
        pytest.param("%D9%A1", 10, (400, "malformed"), id="arabic-digit"),
    ],
)
async def test_chunk_that_has_no_place(
    api: UploadApi,
    session_id: str,
    *,
    index: Any,
    size: int,
    problem: tuple[int, str],
) -> None:
    """Only chunks of the file, of the right size, are taken."""
    reply = await api.put(session_id, index, bytes(size))
    assert (reply.status, reply.problem) == problem


async def test_chunk_without_a_length(api: UploadApi, session_id: str) -> None:
    """A chunk has to say how long it is: 411."""

    async def pieces() -> AsyncIterator[bytes]:
        yield PIECES[0]

    reply = await api.put(session_id, 0, pieces())
    assert (reply.status, reply.problem) == (411, "length-required")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_coded_chunk(api: UploadApi, tmp_path: Path, coding: str) -> None:
    """A coded chunk is stored without its coding, checked on both sides of it."""
    data = b"text " * 100_000
    body = gzip.compress(data) if coding == "gzip" else zstandard.compress(data)
    session_id = await api.begun(data, len(data))
    reply = await api.put(
        session_id,
        0,
        body,
        Content_Encoding=coding,
        Unencoded_Digest=digest_field(data),
    )
    assert reply.status == 200, reply.body
    assert reply.body["size"] == len(data)
    assert reply.body["sha256"] == sha256(data)
    again = await api.put(session_id, 0, data)
    assert again.body["duplicate"]
    done = await api.complete(session_id, sha256=sha256(data))
    assert (tmp_path / done.body["stored_as"]).read_bytes() == data


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        pytest.param({}, "malformed", id="no-unencoded-digest"),
        pytest.param(
            {"Unencoded_Digest": digest_field(b"x")}, "digest-mismatch", id="wrong"
        ),
        pytest.param(
            {
                "Unencoded_Digest": digest_field(b"abc"),
                "Content_Digest": digest_field(b"x"),
            },
            "digest-mismatch",
            id="wrong-on-the-wire",
        ),
        pytest.param(
            {"Content_Encoding": "br", "Unencoded_Digest": digest_field(b"abc")},
            "unsupported-media",
            id="unknown-coding",
        ),
    ],
)
async def test_coded_chunk_is_refused(
    api: UploadApi, headers: dict[str, str], problem: str
) -> None:
    """Without the right digests a coded chunk does not count."""
    session_id = await api.begun(b"abc", 3)
    reply = await api.put(
        session_id, 0, gzip.compress(b"abc"), **{"Content_Encoding": "gzip", **headers}
    )
    assert reply.problem == problem
    assert (await api.status(session_id)).body["received_chunks"] == 0


async def test_bomb_is_one_chunk_at_most(api: UploadApi) -> None:
    """A body that decodes to more than its chunk is refused, and nothing counts."""
    session_id = await api.begun(bytes(1000), 1000)
    bomb = gzip.compress(bytes(100 * MIB))
    reply = await api.put(
        session_id,
        0,
        bomb,
        Content_Encoding="gzip",
        Unencoded_Digest=digest_field(bytes(1000)),
    )
    assert (reply.status, reply.problem) == (413, "too-large")
    assert (await api.status(session_id)).body["received_bytes"] == 0


async def test_coded_chunk_that_is_cut_off(api: UploadApi) -> None:
    """A zstd frame without its end is not the chunk, which its digest tells."""
    data = os.urandom(5000)
    session_id = await api.begun(data, 5000)
    body = zstandard.compress(data)[:-100]
    reply = await api.put(
        session_id,
        0,
        body,
        Content_Encoding="zstd",
        Unencoded_Digest=digest_field(data),
    )
    assert (reply.status, reply.problem) == (422, "digest-mismatch")


async def test_incomplete_upload_is_not_published(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """The answer says what is missing, and the upload goes on."""
    await api.put(session_id, 1, PIECES[1])
    reply = await api.complete(session_id, sha256=sha256(DATA))
    assert (reply.status, reply.problem) == (409, "incomplete")
    assert reply.body["missing"] == [[0, 1], [2, 3]]
    assert not names_in(tmp_path / "files")
    for index in (0, 2):
        await api.put(session_id, index, PIECES[index])
    assert (await api.complete(session_id)).status == 200


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"sha256": "0" * 64}, (422, "digest-mismatch")),
        ({"size": 5}, (422, "size-mismatch")),
        ({"sha256": "ABC"}, (400, "malformed")),
        ({"size": -1}, (400, "malformed")),
        ({"size": "5"}, (400, "malformed")),
    ],
)
async def test_wrong_whole_is_not_published(
    api: UploadApi,
    tmp_path: Path,
    session_id: str,
    *,
    body: dict[str, Any],
    problem: tuple[int, str],
) -> None:
    """With another digest or size nothing is published, and nothing is lost."""
    await api.send(session_id, DATA, CHUNK)
    reply = await api.complete(session_id, **body)
    assert (reply.status, reply.problem) == problem
    assert not names_in(tmp_path / "files")
    assert (await api.complete(session_id, sha256=sha256(DATA))).status == 200


async def test_complete_again(api: UploadApi, tmp_path: Path, session_id: str) -> None:
    """Completing is safe to repeat: the same answer, the same one file."""
    await api.send(session_id, DATA, CHUNK)
    first = await api.complete(session_id, sha256=sha256(DATA))
    again = await api.complete(session_id, sha256=sha256(DATA))
    assert (again.status, again.body) == (200, first.body)
    assert len(names_in(tmp_path / "files")) == 1
    other = await api.complete(session_id, sha256="0" * 64)
    assert (other.status, other.problem) == (422, "digest-mismatch")


async def test_complete_many_times_at_once(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """Ten requests to complete publish one file, and all are told of it."""
    await api.send(session_id, DATA, CHUNK)
    replies = await asyncio.gather(
        *(api.complete(session_id, sha256=sha256(DATA)) for _ in range(10))
    )
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body["stored_as"] for reply in replies}) == 1
    assert len(names_in(tmp_path / "files")) == 1


async def test_complete_is_not_an_upload_any_more(
    api: UploadApi, session_id: str
) -> None:
    """Neither chunks nor a deletion change what is published."""
    await api.send(session_id, DATA, CHUNK)
    await api.complete(session_id)
    for reply in (
        await api.put(session_id, 0, PIECES[0]),
        await api.delete(session_id),
    ):
        assert (reply.status, reply.problem) == (409, "already-complete")


async def test_digest_that_was_announced(api: UploadApi) -> None:
    """Announced, the digest is computed as chunks come, also when none is sent."""
    for more in ({"whole_digest": True}, {}):
        session_id = await api.begun(DATA, CHUNK, **more)
        await api.send(session_id, DATA, CHUNK)
        reply = await api.complete(session_id)
        assert reply.body["sha256"] == (sha256(DATA) if more else None)


async def test_empty_upload(api: UploadApi, tmp_path: Path) -> None:
    """A file without bytes has one empty chunk, which may be left out."""
    for send in (True, False):
        reply = await api.begin(0)
        assert reply.body["missing"] == [[0, 1]]
        session_id = reply.body["session_id"]
        if send:
            assert (await api.put(session_id, 0, b"")).status == 200
        done = await api.complete(session_id, sha256=sha256(b""), size=0)
        assert done.status == 200, done.body
        assert (tmp_path / done.body["stored_as"]).read_bytes() == b""


async def test_size_that_is_told_at_the_end(api: UploadApi, tmp_path: Path) -> None:
    """An upload may begin without a size; gaps are told on the way."""
    reply = await api.begin(None, chunk_size=CHUNK)
    assert (reply.body["size"], reply.body["total_chunks"]) == (None, None)
    session_id = reply.body["session_id"]
    for index in (2, 0):
        assert (await api.put(session_id, index, PIECES[index])).status == 200
    assert (await api.status(session_id)).body["missing"] == [[1, 2]]
    assert (await api.complete(session_id)).problem == "incomplete"
    await api.put(session_id, 1, PIECES[1])
    assert (await api.complete(session_id, size=5)).problem == "size-mismatch"
    done = await api.complete(session_id, size=len(DATA), sha256=sha256(DATA))
    assert done.body["size"] == len(DATA)
    assert (tmp_path / done.body["stored_as"]).read_bytes() == DATA


async def test_coded_chunk_needs_a_size(api: UploadApi) -> None:
    """Without the file's size nobody knows how much a coded chunk may be."""
    reply = await api.begin(None, chunk_size=CHUNK)
    answer = await api.put(
        reply.body["session_id"],
        0,
        gzip.compress(b"x"),
        Content_Encoding="gzip",
        Unencoded_Digest=digest_field(b"x"),
    )
    assert (answer.status, answer.problem) == (411, "length-required")


async def test_deleted_upload_is_gone(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """It is thrown away with its bytes; a second time there is nothing to do."""
    await api.put(session_id, 0, PIECES[0])
    assert (await api.delete(session_id)).status == 204
    assert (await api.delete(session_id)).status == 204
    assert names_in(tmp_path / "incoming") == []
    for reply in (
        await api.status(session_id),
        await api.put(session_id, 1, PIECES[1]),
        await api.complete(session_id),
    ):
        assert (reply.status, reply.problem) == (404, "not-found")


async def test_deleting_ends_chunks_on_their_way(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """Whoever throws an upload away does not wait for its slowest chunk."""
    async with RawConnection(str(api.session._base_url)) as slow:
        await begin_chunk(slow, session_id)
        await until_received(tmp_path, session_id)
        assert (await api.delete(session_id)).status == 204
        assert (await slow.reply()).problem == "superseded"


async def test_newer_request_takes_over(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """A chunk that hangs on a dead connection is sent anew, and counts at once."""
    async with RawConnection(str(api.session._base_url)) as dead:
        await begin_chunk(dead, session_id)
        await until_received(tmp_path, session_id)
        assert (await api.put(session_id, 0, PIECES[0])).status == 200
        assert (await dead.reply()).problem == "superseded"


async def test_connection_that_breaks_in_mid_chunk(
    api: UploadApi, tmp_path: Path, session_id: str
) -> None:
    """Half a chunk does not count; the whole one, sent again, does."""
    async with RawConnection(str(api.session._base_url)) as connection:
        await begin_chunk(connection, session_id)
        await until_received(tmp_path, session_id)
        connection.abort()
    status = await api.status(session_id)
    assert status.body["received_bytes"] == 0
    assert (await api.put(session_id, 0, PIECES[0])).status == 200


async def begin_chunk(connection: RawConnection, session_id: str) -> None:
    """Send the first part of chunk 0, which is not what the chunk will be."""
    path = f"/upload/resumable/{session_id}/chunks/0"
    await connection.head("PUT", path, f"Content-Length: {CHUNK}")
    await connection.send(b"\xff" * (CHUNK - 1000))


async def until_received(folder: Path, session_id: str) -> None:
    """Wait until the request for a chunk holds it."""
    lock = folder / "incoming" / session_id / ".lock"
    await until(lock.exists)


async def test_uploads_of_others_are_not_there(tmp_path: Path) -> None:
    """Another token's upload cannot be told from one that never was."""
    tokens = (Secret("ann:a"), Secret("bob:b"))
    config = ServerConfig(directory=tmp_path, port=0, tokens=tokens)
    async with (
        running_server(config) as server,
        open_api(server.url, "a") as ann,
        open_api(server.url, "b") as bob,
    ):
        session_id = await ann.begun(DATA, CHUNK)
        finished = await ann.foundation(b"x")
        never = await bob.status("0" * 32)
        for reply in (
            await bob.status(session_id),
            await bob.put(session_id, 0, PIECES[0]),
            await bob.complete(session_id),
            await bob.begin(None, session_id=session_id),
            await bob.status(finished.body["session_id"]),
        ):
            assert (reply.status, reply.body) == (never.status, never.body)
        assert (await bob.delete(session_id)).status == 204
        assert await bob.sessions() == []
        assert await ann.sessions() == [session_id]


async def test_sessions_are_those_that_are_unfinished(api: UploadApi) -> None:
    """The oldest first; what is complete or thrown away is none any more."""
    ids = [await api.begun(bytes(10), 10) for _ in range(4)]
    await api.put(ids[1], 0, bytes(10))
    await api.complete(ids[1])
    await api.delete(ids[2])
    assert await api.sessions() == [ids[0], ids[3]]


async def test_too_many_sessions(tmp_path: Path) -> None:
    """One token cannot begin uploads without end; ending one makes room."""
    tokens = (Secret("ann:a"), Secret("bob:b"))
    config = ServerConfig(directory=tmp_path, port=0, tokens=tokens, max_sessions=2)
    async with (
        running_server(config) as server,
        open_api(server.url, "a") as ann,
        open_api(server.url, "b") as bob,
    ):
        ids = [await ann.begun(bytes(10), 10) for _ in range(2)]
        reply = await ann.begin(10)
        assert (reply.status, reply.problem) == (429, "too-many-sessions")
        assert int(reply.headers["Retry-After"]) > 0
        assert (await bob.begin(10)).status == 201
        await ann.put(ids[0], 0, bytes(10))
        await ann.complete(ids[0])
        await ann.delete(ids[1])
        for _ in range(2):
            assert (await ann.begin(10)).status == 201
        assert (await ann.begin(10)).status == 429


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"size": -1}, (400, "malformed")),
        ({"size": 2**63}, (400, "malformed")),
        ({"size": 10**30}, (400, "malformed")),
        ({"size": 1.5}, (400, "malformed")),
        ({"size": "10"}, (400, "malformed")),
        ({"size": True}, (400, "malformed")),
        ({"size": 10, "chunk_size": 0}, (400, "malformed")),
        ({"size": 10, "chunk_size": -5}, (400, "malformed")),
        ({"size": 10, "chunk_size": 2**40}, (413, "too-large")),
        ({"size": 10, "metadata": {"a": 1}}, (400, "malformed")),
        ({"size": 10, "metadata": {"a": "b" * 20_000}}, (413, "too-large")),
        ({"size": 10, "name": "n" * 5000}, (400, "malformed")),
        ({"size": 10, "name": None}, (400, "malformed")),
        ({"size": 10**9, "chunk_size": 1}, (413, "too-large")),
        ([], (400, "malformed")),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_beginning_is_refused(
    api: UploadApi, body: Any, problem: tuple[int, str]
) -> None:
    """What cannot be an upload is refused before anything is made of it."""
    reply = await api.call("POST", "upload/resumable", json=body)
    assert (reply.status, reply.problem) == problem
    assert await api.sessions() == []


async def test_more_than_a_file_system_takes(api: UploadApi, tmp_path: Path) -> None:
    """A size that no disk takes is refused, and leaves nothing behind."""
    config_free = {"size": 2**62, "chunk_size": 64 * MIB}
    reply = await api.call("POST", "upload/resumable", json=config_free)
    assert reply.status == 413
    assert names_in(tmp_path / "incoming") == []
