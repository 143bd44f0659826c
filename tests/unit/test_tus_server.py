"""tus 1.0 as the server speaks it: every status of the text, and what may go wrong."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.tus_api import (
    BYTES,
    TusApi,
    checksum,
    metadata,
    open_patch,
    tus_server,
)
from tests.servers.upload import (
    RawConnection,
    ServeProcess,
    digest_field,
    files_below,
    names_in,
    open_api,
    until,
)
from upload_kit.config import Secret
from upload_kit.server.file_locks import FileLocker
from upload_kit.server.folder import FolderStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DATA: Final = os.urandom(600_000)
SIZE: Final = len(DATA)
_NO_SUCH: Final = f"files/{'0' * 32}"


@pytest.fixture
async def tus(tmp_path: Path) -> AsyncIterator[TusApi]:
    async with tus_server(tmp_path / "s", busy_timeout=2.0) as tus:
        yield tus


def _published(folder: Path) -> list[bytes]:
    """Return the contents of every published file."""
    return [
        path.read_bytes()
        for path in files_below(folder / "s" / "files")
        if not path.name.startswith(".")
    ]


def _unfinished(folder: Path) -> list[str]:
    return [n for n in names_in(folder / "s" / "incoming") if not n.startswith(".")]


# -- finding out


async def test_options_tells_what_there_is(tus: TusApi) -> None:
    """OPTIONS answers with versions, extensions and algorithms, to anybody."""
    for path in ("files", "files/", _NO_SUCH):
        reply = await tus.call("OPTIONS", path, Tus_Resumable=None)
        assert reply.status == 204
        assert reply.headers["Tus-Version"] == "1.0.0"
        assert reply.headers["Tus-Resumable"] == "1.0.0"
        assert reply.headers["Tus-Checksum-Algorithm"] == "sha1,sha256,crc32"
        assert "Tus-Max-Size" not in reply.headers
        extensions = reply.headers["Tus-Extension"].split(",")
        assert extensions == [
            "creation",
            "creation-with-upload",
            "creation-defer-length",
            "expiration",
            "checksum",
            "termination",
            "concatenation",
            "concatenation-unfinished",
        ]


async def test_the_version_does_not_matter_to_options(tus: TusApi) -> None:
    """A version in OPTIONS is ignored."""
    reply = await tus.call("OPTIONS", "files/", Tus_Resumable="0.2.2")
    assert reply.status == 204


async def test_a_limit_is_told_and_kept(tmp_path: Path) -> None:
    """`Tus-Max-Size` is what 413 is about."""
    async with tus_server(tmp_path / "s", max_size=100) as tus:
        reply = await tus.call("OPTIONS", "files/")
        assert reply.headers["Tus-Max-Size"] == "100"
        assert (await tus.create(Upload_Length="101")).status == 413
        assert (await tus.create(Upload_Length="100")).status == 201
        url = await tus.begun(None)
        assert (await tus.patch(url, 0, b"x" * 60)).status == 204
        assert (await tus.patch(url, 60, b"x" * 41)).status == 413
        assert (await tus.patch(url, 60, b"", Upload_Length="101")).status == 413
        assert await tus.offset(url) == 60


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0", "2.0.0", ""])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
async def test_another_version_is_not_processed(
    tus: TusApi, tmp_path: Path, method: str, version: str | None
) -> None:
    """412 names the version that is spoken, and nothing happens."""
    url = await tus.begun(5)
    target = "files/" if method == "POST" else url
    reply = await tus.call(
        method,
        target,
        b"hello" if method == "PATCH" else None,
        Tus_Resumable=version,
        Upload_Length="5" if method == "POST" else None,
        Upload_Offset="0",
        Content_Type=BYTES if method == "PATCH" else None,
    )
    assert reply.status == 412
    assert reply.headers["Tus-Version"] == "1.0.0"
    assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert "Upload-Offset" not in reply.headers
    assert await tus.offset(url) == 0
    assert len(_unfinished(tmp_path)) == 1


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "files/", "OPTIONS, POST"),
        ("DELETE", "files", "OPTIONS, POST"),
        ("GET", _NO_SUCH, "OPTIONS, HEAD, PATCH, DELETE"),
        ("POST", _NO_SUCH, "OPTIONS, HEAD, PATCH, DELETE"),
    ],
)
async def test_other_methods_are_refused(
    tus: TusApi, method: str, path: str, allowed: str
) -> None:
    """405 says what would do; nothing is ever served for download."""
    reply = await tus.call(method, path)
    assert reply.status == 405
    assert sorted(reply.headers["Allow"].replace(" ", "").split(",")) == sorted(
        allowed.replace(" ", "").split(",")
    )
    assert reply.headers["Tus-Resumable"] == "1.0.0"


# -- creation


@pytest.mark.parametrize("path", ["files", "files/"])
async def test_an_upload_is_begun(tus: TusApi, path: str) -> None:
    """201 has an address that is right with and without a slash at the end."""
    reply = await tus.call("POST", path, Upload_Length="5")
    assert reply.status == 201
    assert "Upload-Offset" not in reply.headers
    url = str(tus.api.session._build_url(path))
    assert await tus.offset(urljoin(url, reply.headers["Location"])) == 0


async def test_a_prefix_is_part_of_the_address(tmp_path: Path) -> None:
    """Behind a prefix everything is where it belongs."""
    async with tus_server(tmp_path / "s", prefix="/a/b") as tus:
        url = await tus.begun(5)
        assert "/a/b/files/" in url
        assert (await tus.patch(url, 0, b"hello")).status == 204


async def test_an_empty_file_is_complete_at_once(tus: TusApi, tmp_path: Path) -> None:
    """A length of 0 needs no PATCH."""
    url = await tus.begun(0, Upload_Metadata=metadata(filename="e.txt"))
    reply = await tus.head(url)
    assert (reply.headers["Upload-Offset"], reply.headers["Upload-Length"]) == (
        "0",
        "0",
    )
    assert "Upload-Expires" not in reply.headers
    assert _published(tmp_path) == [b""]


@pytest.mark.parametrize(
    "length",
    ["", "-1", "+5", "1_0", "0x5", "5.0", "1e3", " ", "٣", "05", "9" * 19, "9" * 30],
    ids=repr,
)
@pytest.mark.parametrize("field", ["Upload_Length", "Upload_Offset"])
async def test_numbers_are_read_strictly(
    tus: TusApi, tmp_path: Path, field: str, length: str
) -> None:
    """Nothing but plain digits of a sensible number is taken for one."""
    if field == "Upload_Length":
        reply = await tus.create(Upload_Length=length)
    else:
        reply = await tus.patch(await tus.begun(5), length, b"hello")
    assert reply.status in {400, 413}
    assert _published(tmp_path) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Upload_Length": "5", "Upload_Defer_Length": "1"},
        {"Upload_Defer_Length": "0"},
        {"Upload_Defer_Length": "2"},
        {"Upload_Defer_Length": "true"},
        {"Upload_Length": "5", "Upload_Concat": "part"},
        {"Upload_Length": "5", "Upload_Concat": ""},
        {"Upload_Concat": "final;"},
        {"Upload_Concat": "final;  "},
        {"Upload_Concat": "final"},
        {"Upload_Concat": "final;/files/abc"},
        {"Upload_Concat": "final;/files/../../etc/passwd"},
        {"Upload_Concat": f"final;/files/{'0' * 32}?x"},
        {"Upload_Concat": f"final;/files/{'0' * 32}%2f"},
        {"Upload_Concat": f"final;/files/{'A' * 32}"},
        {"Upload_Concat": f"final;/files/{'0' * 33}"},
        {"Upload_Length": "5", "Upload_Concat": f"final;/files/{'0' * 32}"},
        {"Upload_Defer_Length": "1", "Upload_Concat": f"final;/files/{'0' * 32}"},
        {"Upload_Length": "5", "Upload_Metadata": "a b c"},
        {"Upload_Length": "5", "Upload_Metadata": "a !!!"},
        {"Upload_Length": "5", "Upload_Metadata": "a YQ==,a YQ=="},
        {"Upload_Length": "5", "Upload_Metadata": "a YQ==,"},
        {"Upload_Length": "5", "Upload_Metadata": ","},
        {"Upload_Length": "5", "Upload_Metadata": "é YQ=="},
        {"Upload_Length": "5", "Upload_Metadata": f"{'k' * 200} YQ=="},
    ],
    ids=lambda fields: ";".join(f"{k}={v[:30]}" for k, v in fields.items()) or "none",
)
async def test_a_creation_that_is_wrong_is_refused(
    tus: TusApi, tmp_path: Path, fields: dict[str, str]
) -> None:
    """400, and nothing is begun."""
    assert (await tus.create(**fields)).status == 400
    assert _unfinished(tmp_path) == []


async def test_metadata_comes_back_as_it_was_sent(tus: TusApi) -> None:
    """HEAD echoes the field itself, whatever its values are."""
    binary = base64.b64encode(bytes(range(256))).decode()
    text = f"{metadata(filename='größe.txt')},flag,empty ,bin {binary}"
    url = await tus.begun(5, Upload_Metadata=text)
    assert (await tus.head(url)).headers["Upload-Metadata"] == text


@pytest.mark.parametrize(
    ("text", "name", "type_"),
    [
        (metadata(filename="a.csv", filetype="text/csv"), "a.csv", "text/csv"),
        (metadata(name="b.csv", type="text/plain"), "b.csv", "text/plain"),
        (metadata(filename="../../x", filetype="nonsense"), "../../x", None),
        (metadata(filename="", name="n"), "n", None),
        ("", "", None),
    ],
    ids=["filename", "name", "hostile", "empty", "none"],
)
async def test_name_and_type_are_found_in_the_metadata(
    *, tus: TusApi, tmp_path: Path, text: str, name: str, type_: str | None
) -> None:
    """Where clients put a file's name and type they are looked for, and made safe."""
    url = await tus.begun(5, Upload_Metadata=text)
    await tus.patch(url, 0, b"hello")
    status = await tus.api.status(url.rpartition("/")[2])
    assert status.body["name"] == name
    assert status.body["content_type"] == type_ or "application/octet-stream"
    assert _published(tmp_path) == [b"hello"]


async def test_metadata_is_limited(tmp_path: Path) -> None:
    """Too many keys or bytes are refused."""
    async with tus_server(
        tmp_path / "s", max_metadata_keys=3, max_metadata_bytes=50
    ) as tus:
        for text in (
            metadata(a="", b="", c="", d=""),
            metadata(a="x" * 60),
        ):
            reply = await tus.create(Upload_Length="5", Upload_Metadata=text)
            assert reply.status == 413


async def test_the_first_bytes_may_come_with_the_creation(
    tus: TusApi, tmp_path: Path
) -> None:
    """A body that is less than the whole is where the upload begins."""
    reply = await tus.create(DATA[:1000], Upload_Length=str(SIZE))
    assert (reply.status, reply.headers["Upload-Offset"]) == (201, "1000")
    url = tus.address(reply)
    reply = await tus.patch(url, 1000, DATA[1000:])
    assert (reply.status, reply.headers["Upload-Offset"]) == (204, str(SIZE))
    assert _published(tmp_path) == [DATA]


@pytest.mark.parametrize("algorithm", [None, "sha256", "sha1", "crc32"])
async def test_a_whole_file_may_come_with_the_creation(
    tus: TusApi, tmp_path: Path, algorithm: str | None
) -> None:
    """One request is enough for a file, and its checksum counts there as well."""
    field = None if algorithm is None else checksum(algorithm, DATA)
    reply = await tus.create(
        DATA,
        Upload_Length=str(SIZE),
        Upload_Checksum=field,
        Upload_Metadata=metadata(filename="a.bin"),
    )
    assert (reply.status, reply.headers["Upload-Offset"]) == (201, str(SIZE))
    assert "Upload-Expires" not in reply.headers
    head = await tus.head(tus.address(reply))
    assert head.headers["Upload-Offset"] == str(SIZE)
    assert head.headers["Upload-Metadata"] == metadata(filename="a.bin")
    assert _published(tmp_path) == [DATA]


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "crc32"])
@pytest.mark.parametrize("size", [SIZE, SIZE + 1], ids=["whole", "first-bytes"])
async def test_a_creation_with_other_bytes_leaves_nothing(
    tus: TusApi, tmp_path: Path, algorithm: str, size: int
) -> None:
    """460 to a creation: nobody knows the address, so nothing is kept."""
    reply = await tus.create(
        DATA, Upload_Length=str(size), Upload_Checksum=checksum(algorithm, b"other")
    )
    assert reply.status == 460
    assert _unfinished(tmp_path) == []
    assert _published(tmp_path) == []


@pytest.mark.parametrize("size", [SIZE, SIZE + 1], ids=["whole", "first-bytes"])
async def test_a_creation_that_breaks_off_leaves_nothing(
    tus: TusApi, tmp_path: Path, size: int
) -> None:
    """A body that ends before its end takes its upload with it."""
    async with RawConnection(tus.url) as raw:
        await raw.head(
            "POST",
            "/files/",
            "Tus-Resumable: 1.0.0",
            f"Content-Type: {BYTES}",
            f"Upload-Length: {size}",
            f"Content-Length: {SIZE}",
        )
        await raw.send(DATA[:300_000])
        await until(lambda: bool(_unfinished(tmp_path)))
        raw.abort()
    await until(lambda: not _unfinished(tmp_path))
    assert _published(tmp_path) == []


async def test_a_creation_with_too_many_bytes_is_refused(
    tus: TusApi, tmp_path: Path
) -> None:
    """More bytes than the length that came with them are refused."""
    assert (await tus.create(DATA, Upload_Length="10")).status == 413
    assert _unfinished(tmp_path) == []


@pytest.mark.parametrize(
    "type_", ["application/octet-stream", "text/plain", BYTES + "x"]
)
async def test_bytes_of_another_type_are_refused(tus: TusApi, type_: str) -> None:
    """415 for a body that is not said to be bytes of an upload."""
    reply = await tus.create(b"hello", Upload_Length="5", Content_Type=type_)
    assert reply.status == 415
    url = await tus.begun(5)
    assert (await tus.patch(url, 0, b"hello", Content_Type=type_)).status == 415
    assert await tus.offset(url) == 0


async def test_coded_bytes_are_refused(tus: TusApi) -> None:
    """What is stored is what the client has, not a coding of it."""
    url = await tus.begun(5)
    for coding in ("gzip", "br"):
        reply = await tus.patch(url, 0, b"hello", Content_Encoding=coding)
        assert reply.status == 415


# -- the core


async def test_bytes_are_added(tus: TusApi, tmp_path: Path) -> None:
    """PATCH answers with where the upload ends, and HEAD agrees."""
    url = await tus.begun(SIZE)
    offset = 0
    for size in (1, 999, 65_536, SIZE - 66_536):
        reply = await tus.patch(url, offset, DATA[offset : offset + size])
        offset += size
        assert (reply.status, reply.headers["Upload-Offset"]) == (204, str(offset))
        assert reply.body == b""
        head = await tus.head(url)
        assert head.headers["Upload-Offset"] == str(offset)
        assert head.headers["Upload-Length"] == str(SIZE)
        assert head.headers["Cache-Control"] == "no-store"
        assert ("Upload-Expires" in head.headers) == (offset < SIZE)
    assert _published(tmp_path) == [DATA]
    assert _unfinished(tmp_path) == []


@pytest.mark.parametrize("offset", [0, 99, 101, SIZE, 2**40])
async def test_another_offset_changes_nothing(tus: TusApi, offset: int) -> None:
    """409, and the upload is as it was."""
    url = await tus.begun(SIZE)
    await tus.patch(url, 0, DATA[:100])
    reply = await tus.patch(url, offset, DATA[100:200])
    assert (reply.status, reply.problem) == (409, "offset-mismatch")
    assert await tus.offset(url) == 100
    assert (await tus.patch(url, 100, DATA[100:])).status == 204


async def test_an_offset_is_wanted(tus: TusApi) -> None:
    """400 for a PATCH that does not say where it belongs."""
    assert (await tus.patch(await tus.begun(5), None, b"hello")).status == 400


@pytest.mark.parametrize("offset", [0, 3])
async def test_more_bytes_than_there_are_to_be_change_nothing(
    tus: TusApi, offset: int
) -> None:
    """413 before a byte is read."""
    url = await tus.begun(5)
    if offset:
        await tus.patch(url, 0, b"hel")
    assert (await tus.patch(url, offset, b"x" * 6)).status == 413
    assert await tus.offset(url) == offset


async def test_a_body_without_a_length_is_taken_as_far_as_there_is_room(
    tus: TusApi, tmp_path: Path
) -> None:
    """A chunked body is fine, unless it goes on beyond the end."""

    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 50_000):
            yield data[start : start + 50_000]

    url = await tus.begun(SIZE)
    assert (await tus.patch(url, 0, pieces(DATA[:400_000]))).status == 204
    assert await tus.offset(url) == 400_000
    assert (await tus.patch(url, 400_000, pieces(DATA[400_000:] + b"x"))).status == 413
    offset = await tus.offset(url)
    assert 400_000 <= offset < SIZE
    assert (await tus.patch(url, offset, pieces(DATA[offset:]))).status == 204
    assert _published(tmp_path) == [DATA]


async def test_an_empty_patch_changes_nothing(tus: TusApi) -> None:
    """Zero bytes are fine, before the end and at it."""
    url = await tus.begun(5)
    assert (await tus.patch(url, 0, b"")).status == 204
    await tus.patch(url, 0, b"hello")
    reply = await tus.patch(url, 5, b"")
    assert (reply.status, reply.headers["Upload-Offset"]) == (204, "5")


@pytest.mark.parametrize(
    ("offset", "data", "status"), [(0, b"hello", 409), (4, b"o", 409), (5, b"!", 413)]
)
async def test_a_complete_upload_takes_nothing(
    *, tus: TusApi, tmp_path: Path, offset: int, data: bytes, status: int
) -> None:
    """What is published never changes."""
    url = await tus.begun(5)
    await tus.patch(url, 0, b"hello")
    assert (await tus.patch(url, offset, data)).status == status
    assert _published(tmp_path) == [b"hello"]


@pytest.mark.parametrize(
    "path",
    ["0" * 32, "abc", "..%2f..%2fetc", "A" * 32, "%00", "0" * 31 + "%0a", "x/y"],
)
async def test_what_is_not_there_is_not_found(tus: TusApi, path: str) -> None:
    """404 without an offset, whatever stands in the address."""
    for method in ("HEAD", "PATCH", "DELETE"):
        reply = await tus.call(
            method, f"files/{path}", Content_Type=BYTES, Upload_Offset="0"
        )
        assert reply.status == 404
        assert "Upload-Offset" not in reply.headers


async def test_expect_is_answered_before_the_body(tus: TusApi) -> None:
    """100 for a body that is wanted, and the refusal at once for one that is not."""
    url = await tus.begun(5)
    path = url[url.index("/files") :]
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, path, 0, 5, "Expect: 100-continue")
        assert (await raw.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await raw.send(b"hello")
        assert (await raw.reply()).status == 204
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, path, 3, 5, "Expect: 100-continue")
        assert (await raw.reply()).status == 409


# -- deferred length


async def test_a_length_may_come_later(tus: TusApi, tmp_path: Path) -> None:
    """An upload of unknown length says so until it gets one, with bytes or without."""
    url = await tus.begun(None)
    head = await tus.head(url)
    assert head.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in head.headers
    await tus.patch(url, 0, DATA[:1000])
    reply = await tus.patch(url, 1000, DATA[1000:2000], Upload_Length=str(SIZE))
    assert reply.status == 204
    head = await tus.head(url)
    assert "Upload-Defer-Length" not in head.headers
    assert head.headers["Upload-Length"] == str(SIZE)
    # To say the same again changes nothing.
    reply = await tus.patch(url, 2000, DATA[2000:], Upload_Length=str(SIZE))
    assert reply.status == 204
    assert _published(tmp_path) == [DATA]


@pytest.mark.parametrize("size", [0, 5])
async def test_a_length_alone_completes_an_upload(
    tus: TusApi, tmp_path: Path, size: int
) -> None:
    """The end may show only after the last byte."""
    url = await tus.begun(None)
    await tus.patch(url, 0, b"hello"[:size])
    assert _published(tmp_path) == []
    assert (await tus.patch(url, size, b"", Upload_Length=str(size))).status == 204
    assert _published(tmp_path) == [b"hello"[:size]]


@pytest.mark.parametrize("length", ["4", "6", "0"])
async def test_a_length_never_changes(tus: TusApi, length: str) -> None:
    """400 for another length, and for one that is less than came."""
    known = await tus.begun(5)
    assert (await tus.patch(known, 0, b"", Upload_Length=length)).status == 400
    late = await tus.begun(None)
    await tus.patch(late, 0, b"hello!!")
    assert (await tus.patch(late, 7, b"", Upload_Length=length)).status == 400
    assert (await tus.head(late)).headers["Upload-Defer-Length"] == "1"


async def test_a_length_survives_a_restart(tmp_path: Path) -> None:
    """What was told of an upload is known to the next server."""
    async with tus_server(tmp_path / "s") as tus:
        url = await tus.begun(None)
        await tus.patch(url, 0, b"hel", Upload_Length="5")
        path = url[url.index("/files") + 1 :]
    async with tus_server(tmp_path / "s") as tus:
        assert (await tus.head(path)).headers["Upload-Length"] == "5"
        assert (await tus.patch(path, 3, b"lo")).status == 204
    assert _published(tmp_path) == [b"hello"]


# -- checksums


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "crc32"])
async def test_bytes_are_checked(tus: TusApi, tmp_path: Path, algorithm: str) -> None:
    """460 keeps none of the bytes; the right ones are taken afterwards."""
    url = await tus.begun(SIZE)
    wrong = checksum(algorithm, b"other")
    reply = await tus.patch(url, 0, DATA[:300_000], Upload_Checksum=wrong)
    assert (reply.status, reply.problem) == (460, "checksum-mismatch")
    assert await tus.offset(url) == 0
    for start, end in ((0, 300_000), (300_000, SIZE)):
        right = checksum(algorithm, DATA[start:end])
        reply = await tus.patch(url, start, DATA[start:end], Upload_Checksum=right)
        assert reply.status == 204
    assert _published(tmp_path) == [DATA]


@pytest.mark.parametrize(
    "field",
    ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 !!", "sha1 YQ==", "", "SHA1 YQ=="],
)
async def test_a_checksum_that_cannot_be_is_refused(tus: TusApi, field: str) -> None:
    """400 for an algorithm that is not offered, and for what is no checksum."""
    url = await tus.begun(5)
    assert (await tus.patch(url, 0, b"hello", Upload_Checksum=field)).status == 400
    assert await tus.offset(url) == 0


async def test_the_digest_of_the_whole_is_told_where_it_is_wanted(tus: TusApi) -> None:
    """`Want-Repr-Digest` at the creation has the whole file's SHA-256 computed."""
    url = await tus.begun(SIZE, Want_Repr_Digest="sha-256=10")
    await tus.patch(url, 0, DATA[:1000])
    assert "Repr-Digest" not in (await tus.head(url)).headers
    reply = await tus.patch(url, 1000, DATA[1000:])
    assert reply.headers["Repr-Digest"] == digest_field(DATA)
    assert (await tus.head(url)).headers["Repr-Digest"] == digest_field(DATA)

    other = await tus.begun(SIZE, Want_Repr_Digest="sha-512=1, sha-256=0")
    reply = await tus.patch(other, 0, DATA)
    assert "Repr-Digest" not in reply.headers


# -- what breaks off, and who takes over


async def _until_counted(tus: TusApi, url: str, size: int) -> None:
    """Wait until so many bytes count, without ending whoever sends them."""
    async with asyncio.timeout(10):
        while True:
            status = await tus.api.status(url.rpartition("/")[2])
            if status.body["received_bytes"] >= size:
                return
            await asyncio.sleep(0.01)


def _path(url: str) -> str:
    return url[url.index("/files/") :]


@pytest.mark.parametrize("size", [1, 1000, 70_000, 500_000])
async def test_what_came_before_a_break_is_kept(
    tus: TusApi, tmp_path: Path, size: int
) -> None:
    """Every byte that came before the connection ended counts."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, _path(url), 0, SIZE)
        await raw.send(DATA[:size])
    await _until_counted(tus, url, size)
    assert await tus.offset(url) == size
    assert (await tus.patch(url, size, DATA[size:])).status == 204
    assert _published(tmp_path) == [DATA]


async def test_what_was_to_be_checked_is_not_kept_when_it_breaks_off(
    tus: TusApi, tmp_path: Path
) -> None:
    """With a checksum, bytes count together or not at all."""
    url = await tus.begun(SIZE)
    await tus.patch(url, 0, DATA[:1000])
    async with RawConnection(tus.url) as raw:
        field = f"Upload-Checksum: {checksum('sha1', DATA[1000:])}"
        await open_patch(raw, _path(url), 1000, SIZE - 1000, field)
        await raw.send(DATA[1000:500_000])
    assert await tus.offset(url) == 1000
    assert (await tus.patch(url, 1000, DATA[1000:])).status == 204
    assert _published(tmp_path) == [DATA]


async def test_what_comes_slowly_counts_before_its_end(tus: TusApi) -> None:
    """Bytes of an open request count soon after they came."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, _path(url), 0, SIZE)
        await raw.send(DATA[:10])
        await _until_counted(tus, url, 10)
        await raw.send(DATA[10:20])
        await _until_counted(tus, url, 20)


async def test_what_comes_too_slowly_is_kept(tmp_path: Path) -> None:
    """A sender that fell silent is sent away with 408, and its bytes are kept."""
    async with tus_server(tmp_path / "s", idle_timeout=0.4) as tus:
        url = await tus.begun(SIZE)
        async with RawConnection(tus.url) as raw:
            await open_patch(raw, _path(url), 0, SIZE)
            await raw.send(DATA[:1000])
            assert (await raw.reply()).status == 408
        assert await tus.offset(url) == 1000


async def test_a_question_ends_an_open_request(tus: TusApi, tmp_path: Path) -> None:
    """HEAD takes over from a PATCH that is open: it keeps what it has, and gets 409."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, _path(url), 0, SIZE)
        await raw.send(DATA[:300_000])
        await _until_counted(tus, url, 300_000)
        await raw.send(DATA[300_000:300_005])
        offset = await tus.offset(url)
        assert 300_000 <= offset <= 300_005
        reply = await raw.reply()
        assert (reply.status, reply.problem) == (409, "superseded")
    assert (await tus.patch(url, offset, DATA[offset:])).status == 204
    assert _published(tmp_path) == [DATA]


async def test_a_newer_request_ends_an_open_one(tus: TusApi, tmp_path: Path) -> None:
    """A PATCH that knows the offset takes over by itself."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, _path(url), 0, SIZE)
        await raw.send(DATA[:300_000])
        await _until_counted(tus, url, 300_000)
        assert (await tus.patch(url, 300_000, DATA[300_000:])).status == 204
        assert (await raw.reply()).status == 409
    assert _published(tmp_path) == [DATA]


async def test_many_at_once_do_no_harm(tus: TusApi, tmp_path: Path) -> None:
    """Of requests for the same bytes each is taken, ended or late; none doubles."""
    url = await tus.begun(SIZE)
    replies = await asyncio.gather(
        *(tus.patch(url, 0, DATA[:300_000]) for _ in range(8)),
        *(tus.head(url) for _ in range(4)),
    )
    assert {reply.status for reply in replies} <= {200, 204, 409}
    offset = await tus.offset(url)
    assert (await tus.patch(url, offset, DATA[offset:])).status == 204
    assert _published(tmp_path) == [DATA]


async def test_whoever_does_not_let_go_is_waited_for_in_vain(tmp_path: Path) -> None:
    """423 for an upload that somebody holds for too long."""
    async with tus_server(tmp_path / "s", busy_timeout=0.2) as tus:
        url = await tus.begun(5)
        async with _held_by_another_process(tmp_path / "s", url):
            for call in (tus.head(url), tus.patch(url, 0, b"hello"), tus.delete(url)):
                reply = await call
                assert reply.status == 423
                assert reply.headers["Retry-After"] == "1"
        assert await tus.offset(url) == 0


@asynccontextmanager
async def _held_by_another_process(folder: Path, url: str) -> AsyncIterator[None]:
    """Hold an upload as another server over the same folder would, and not let go."""
    storage = await asyncio.to_thread(FolderStorage, folder)
    with ThreadPoolExecutor(1) as pool:
        locker = FileLocker(storage.lock_path, pool, timeout=5)
        async with locker.hold(url.rpartition("/")[2], None, lambda: None):
            yield


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_what_was_acknowledged_survives_a_kill(
    tmp_path: Path, durability: str
) -> None:
    """After kill -9 in the middle of a PATCH, no byte that counted is missing."""
    async with ServeProcess(tmp_path / "s", durability=durability) as server:
        async with open_api(server.url) as api, RawConnection(server.url) as raw:
            tus = TusApi(api)
            url = await tus.begun(SIZE)
            assert (await tus.patch(url, 0, DATA[:100_000])).status == 204
            await open_patch(raw, _path(url), 100_000, SIZE - 100_000)
            await raw.send(DATA[100_000:400_000])
            await _until_counted(tus, url, 400_000)
            await raw.send(DATA[400_000:450_000])
            await server.kill()
        await server.start()
        async with open_api(server.url) as api:
            tus = TusApi(api)
            offset = await tus.offset(url)
            assert 400_000 <= offset <= 450_000
            assert (await tus.patch(url, offset, DATA[offset:])).status == 204
    assert _published(tmp_path) == [DATA]


async def test_a_server_that_stops_keeps_what_came(tmp_path: Path) -> None:
    """Asked to end, it ends open requests with 503 and keeps every byte of them."""
    async with ServeProcess(tmp_path / "s") as server:
        async with open_api(server.url) as api, RawConnection(server.url) as raw:
            tus = TusApi(api)
            url = await tus.begun(SIZE)
            await open_patch(raw, _path(url), 0, SIZE)
            await raw.send(DATA[:400_000])
            await _until_counted(tus, url, 400_000)
            code, log = await server.stop()
            assert code == 0
            assert "Traceback" not in log
            assert (await raw.reply()).status == 503
        await server.start()
        async with open_api(server.url) as api:
            tus = TusApi(api)
            assert await tus.offset(url) == 400_000
            assert (await tus.patch(url, 400_000, DATA[400_000:])).status == 204
    assert _published(tmp_path) == [DATA]


def _write_behind_its_back(folder: Path, url: str) -> None:
    """Have five bytes count without anybody noticing, as a kill at the end does."""
    stored = FolderStorage(folder).open(url.rpartition("/")[2])
    stored.write(0, [b"hello"])
    stored.extend(5)
    stored.close()


async def test_a_kill_before_publishing_loses_nothing(
    tus: TusApi, tmp_path: Path
) -> None:
    """An upload whose last byte counts is published by whoever asks for it next."""
    url = await tus.begun(5)
    await asyncio.to_thread(_write_behind_its_back, tmp_path / "s", url)
    assert _published(tmp_path) == []
    assert await tus.offset(url) == 5
    assert _published(tmp_path) == [b"hello"]


async def test_several_processes_serve_one_upload(tmp_path: Path) -> None:
    """Whichever worker a request comes to, it takes over from the others."""
    async with ServeProcess(tmp_path / "s", workers=2) as server:
        async with open_api(server.url) as api:
            url = await TusApi(api).begun(SIZE)
        for end in (200_000, 400_000, SIZE):
            async with open_api(server.url) as api, RawConnection(server.url) as raw:
                tus = TusApi(api)
                offset = await tus.offset(url)
                await open_patch(raw, _path(url), offset, SIZE - offset)
                await raw.send(DATA[offset:end])
                await _until_counted(tus, url, end)
        async with open_api(server.url) as api:
            await TusApi(api).until_complete(url)
    assert _published(tmp_path) == [DATA]


# -- expiry and removal


async def test_an_upload_expires(tmp_path: Path) -> None:
    """`Upload-Expires` is kept: 410 after it, 404 once it was cleaned up."""
    async with tus_server(tmp_path / "s", expires_after=1.0) as tus:
        begun = await tus.create(Upload_Length="5")
        url = tus.address(begun)
        expires = email.utils.parsedate_to_datetime(begun.headers["Upload-Expires"])
        assert abs(expires.timestamp() - time.time() - 1.0) < 2.0
        kept = await tus.begun(5)
        await tus.patch(kept, 0, b"hello")
        await until(lambda: time.time() > expires.timestamp() + 1.1)
        for reply in (await tus.head(url), await tus.patch(url, 0, b"hello")):
            assert reply.status == 410
            assert "Upload-Offset" not in reply.headers
        reply = await tus.api.call("POST", "upload/cleanup")
        assert reply.body["removed"] == 1
        assert (await tus.head(url)).status == 404
        assert await tus.offset(kept) == 5


async def test_bytes_put_the_end_off(tmp_path: Path) -> None:
    """What is added to an upload makes it live longer."""
    async with tus_server(tmp_path / "s") as tus:
        url = await tus.begun(5)
        stored = tmp_path / "s" / "incoming" / url.rpartition("/")[2]
        before = (await tus.head(url)).headers["Upload-Expires"]
        await until(lambda: time.time() > (stored / ".journal").stat().st_mtime + 1.1)
        reply = await tus.patch(url, 0, b"h")
        assert reply.headers["Upload-Expires"] != before


@pytest.mark.parametrize("state", ["begun", "half", "complete", "part"])
async def test_an_upload_is_removed(tus: TusApi, tmp_path: Path, state: str) -> None:
    """204, then 404 for everything; nothing of it is left on the disk."""
    part = "partial" if state == "part" else None
    url = await tus.begun(5, Upload_Concat=part)
    if state != "begun":
        await tus.patch(url, 0, b"he" if state == "half" else b"hello")
    assert (await tus.delete(url)).status == 204
    for reply in (
        await tus.head(url),
        await tus.patch(url, 0, b"hello"),
        await tus.delete(url),
    ):
        assert reply.status == 404
    assert files_below(tmp_path / "s" / "incoming") == []
    assert files_below(tmp_path / "s" / "files") == []


async def test_removing_ends_an_open_request(tus: TusApi) -> None:
    """DELETE does not wait for a PATCH that nobody wants any more."""
    url = await tus.begun(SIZE)
    async with RawConnection(tus.url) as raw:
        await open_patch(raw, _path(url), 0, SIZE)
        await raw.send(DATA[:1000])
        await _until_counted(tus, url, 1000)
        assert (await tus.delete(url)).status == 204
        assert (await raw.reply()).status == 409
    assert (await tus.head(url)).status == 404


# -- method override


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
async def test_the_override_is_the_method(
    tus: TusApi, tmp_path: Path, method: str
) -> None:
    """`X-HTTP-Method-Override` counts, and the request's own method does not."""
    reply = await tus.call(
        method, "files/", X_HTTP_Method_Override="POST", Upload_Length="5"
    )
    assert reply.status == 201
    url = tus.address(reply)
    reply = await tus.call(
        method,
        url,
        b"hello",
        X_HTTP_Method_Override="patch",
        Content_Type=BYTES,
        Upload_Offset="0",
    )
    assert reply.status == 204
    assert _published(tmp_path) == [b"hello"]
    reply = await tus.call(method, url, X_HTTP_Method_Override="HEAD")
    assert reply.headers["Upload-Offset"] == "5"
    reply = await tus.call(method, url, X_HTTP_Method_Override="OPTIONS")
    assert reply.headers["Tus-Version"] == "1.0.0"
    reply = await tus.call("HEAD", url, X_HTTP_Method_Override="TRACE")
    assert reply.status == 405
    reply = await tus.call(method, url, X_HTTP_Method_Override="DELETE")
    assert reply.status == 204
    assert (await tus.head(url)).status == 404


# -- concatenation


async def _parts(tus: TusApi, *pieces: bytes) -> list[str]:
    """Upload parts, whole."""
    urls = []
    for piece in pieces:
        url = await tus.begun(len(piece), Upload_Concat="partial")
        await tus.patch(url, 0, piece)
        urls.append(url)
    return urls


async def test_parts_are_joined(tus: TusApi, tmp_path: Path) -> None:
    """The whole is its parts in the order of the list, and then they are gone."""
    first, second = await _parts(tus, DATA[:100_000], DATA[100_000:])
    head = await tus.head(first)
    assert head.headers["Upload-Concat"] == "partial"
    assert head.headers["Upload-Offset"] == "100000"
    assert _published(tmp_path) == []

    reply = await tus.joined(
        first,
        second,
        Upload_Metadata=metadata(filename="w"),
        Want_Repr_Digest="sha-256=1",
    )
    assert reply.status == 201
    whole = tus.address(reply)
    head = await tus.head(whole)
    assert head.headers["Upload-Length"] == head.headers["Upload-Offset"] == str(SIZE)
    assert head.headers["Upload-Concat"] == f"final;{first} {second}"
    assert head.headers["Upload-Metadata"] == metadata(filename="w")
    assert head.headers["Repr-Digest"] == digest_field(DATA)
    assert _published(tmp_path) == [DATA]
    assert _unfinished(tmp_path) == []
    assert (await tus.head(first)).status == 404


@pytest.mark.parametrize("form", ["absolute", "path", "relative", "foreign"])
async def test_addresses_of_parts_are_ids_of_ours(
    tus: TusApi, tmp_path: Path, form: str
) -> None:
    """However an address is written, what counts is which of our uploads it names."""
    (url,) = await _parts(tus, b"hello")
    upload_id = url.rpartition("/")[2]
    written = {
        "absolute": url,
        "path": f"/files/{upload_id}",
        "relative": upload_id,
        "foreign": f"https://example.org/files/{upload_id}/",
    }[form]
    assert (await tus.joined(written)).status == 201
    assert _published(tmp_path) == [b"hello"]


async def test_a_part_may_be_there_twice(tus: TusApi, tmp_path: Path) -> None:
    """The same part may be joined several times in one whole."""
    one, two = await _parts(tus, b"ab", b"c")
    whole = tus.address(await tus.joined(one, two, one, one))
    assert await tus.offset(whole) == 7
    assert _published(tmp_path) == [b"abcabab"]


async def test_joining_again_is_the_same(tus: TusApi, tmp_path: Path) -> None:
    """A request that is repeated, because its answer was lost, makes no second file."""
    urls = await _parts(tus, b"hel", b"lo")
    replies = await asyncio.gather(*(tus.joined(*urls) for _ in range(5)))
    replies.append(await tus.joined(*urls))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.headers["Location"] for reply in replies}) == 1
    assert _published(tmp_path) == [b"hello"]
    assert _unfinished(tmp_path) == []


async def test_parts_may_still_be_on_their_way(tus: TusApi, tmp_path: Path) -> None:
    """A whole may be asked for first; it is made when its last part is whole."""
    first = await tus.begun(3, Upload_Concat="partial")
    (second,) = await _parts(tus, b"lo ")
    third = await tus.begun(None, Upload_Concat="partial")
    reply = await tus.joined(first, second, third)
    assert reply.status == 201
    whole = tus.address(reply)
    head = await tus.head(whole)
    assert head.status == 200
    assert "Upload-Offset" not in head.headers
    assert "Upload-Length" not in head.headers
    assert "Upload-Defer-Length" not in head.headers
    assert head.headers["Upload-Concat"].startswith("final;")
    assert (await tus.joined(first, second, third)).headers["Location"] == (
        reply.headers["Location"]
    )

    await tus.patch(first, 0, b"hel")
    await tus.patch(third, 0, b"you")
    assert "Upload-Offset" not in (await tus.head(whole)).headers
    await tus.patch(third, 3, b"", Upload_Length="3")
    head = await tus.until_complete(whole)
    assert head.headers["Upload-Length"] == "9"
    assert _published(tmp_path) == [b"hello you"]
    await until(lambda: not _unfinished(tmp_path))


async def test_a_length_that_can_be_computed_is_told(tus: TusApi) -> None:
    """The length of a whole is known as soon as those of its parts are."""
    one = await tus.begun(3, Upload_Concat="partial")
    two = await tus.begun(4, Upload_Concat="partial")
    head = await tus.head(tus.address(await tus.joined(one, two)))
    assert head.headers["Upload-Length"] == "7"
    assert "Upload-Offset" not in head.headers


async def test_a_part_that_others_wait_for_stays(tus: TusApi, tmp_path: Path) -> None:
    """A part goes only when nothing waits for it any more."""
    shared = await tus.begun(2, Upload_Concat="partial")
    other = await tus.begun(1, Upload_Concat="partial")
    one = tus.address(await tus.joined(shared))
    two = tus.address(await tus.joined(shared, other))
    await tus.patch(shared, 0, b"ab")
    await tus.until_complete(one)
    await tus.patch(other, 0, b"c")
    await tus.until_complete(two)
    await until(lambda: not _unfinished(tmp_path))
    assert sorted(_published(tmp_path)) == [b"ab", b"abc"]


@pytest.mark.parametrize("complete", [False, True], ids=["waiting", "complete"])
async def test_a_joined_upload_takes_no_bytes(
    tus: TusApi,
    tmp_path: Path,
    complete: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    """403 for a PATCH to a final upload, and neither it nor its parts change."""
    part = await tus.begun(5, Upload_Concat="partial")
    if complete:
        await tus.patch(part, 0, b"hello")
    whole = tus.address(await tus.joined(part))
    for offset in (0, 5):
        assert (await tus.patch(whole, offset, b"x")).status == 403
    assert (await tus.head(part)).status == (404 if complete else 200)
    assert _published(tmp_path) == ([b"hello"] if complete else [])


async def test_what_cannot_be_joined_is_refused(tus: TusApi, tmp_path: Path) -> None:
    """404 for a part that is not there, 400 for an upload that is no part."""
    (part,) = await _parts(tus, b"x")
    assert (await tus.joined(part, _NO_SUCH)).status == 404
    for foreign in ("../../etc/passwd", "/files/%2e%2e", "x"):
        assert (await tus.joined(part, foreign)).status == 400
    plain = await tus.begun(5)
    assert (await tus.joined(part, plain)).status == 400
    native = await tus.api.begun(b"hello", 5)
    assert (await tus.joined(part, f"/files/{native}")).status == 400
    assert (await tus.create(b"x", Upload_Concat=f"final;{part}")).status == 400
    assert await tus.offset(part) == 1
    assert _published(tmp_path) == []


async def test_a_part_is_gone_and_so_is_the_whole(tus: TusApi) -> None:
    """A whole whose part was removed waits until it expires, and harms nobody."""
    one = await tus.begun(3, Upload_Concat="partial")
    (two,) = await _parts(tus, b"lo")
    whole = tus.address(await tus.joined(one, two))
    await tus.delete(two)
    assert (await tus.patch(one, 0, b"hel")).status == 204
    assert "Upload-Offset" not in (await tus.head(whole)).headers
    assert (await tus.delete(whole)).status == 204


async def test_parts_that_are_held_are_not_joined(tmp_path: Path) -> None:
    """423 while somebody works on a part for too long; afterwards it is joined."""
    async with tus_server(tmp_path / "s", busy_timeout=0.2) as tus:
        urls = await _parts(tus, b"hel", b"lo")
        async with _held_by_another_process(tmp_path / "s", urls[1]):
            assert (await tus.joined(*urls)).status == 423
            assert len(_unfinished(tmp_path)) == 2
        assert (await tus.joined(*urls)).status == 201
    assert _published(tmp_path) == [b"hello"]


async def test_joining_goes_on_after_a_kill(tmp_path: Path) -> None:
    """A server that was killed before it had joined does so when it is asked."""
    async with tus_server(tmp_path / "s") as tus:
        part = await tus.begun(5, Upload_Concat="partial")
        whole = _path(tus.address(await tus.joined(part)))[1:]
    await asyncio.to_thread(_write_behind_its_back, tmp_path / "s", part)
    async with tus_server(tmp_path / "s") as tus:
        await tus.until_complete(whole)
    assert _published(tmp_path) == [b"hello"]


async def test_empty_parts_are_parts(tus: TusApi, tmp_path: Path) -> None:
    """Nothing at all can be joined too."""
    urls = await _parts(tus, b"", b"hello", b"")
    await tus.joined(*urls)
    assert _published(tmp_path) == [b"hello"]
    await tus.joined(*await _parts(tus, b""))
    assert sorted(_published(tmp_path)) == [b"", b"hello"]


# -- who may


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
    assert _published(tmp_path) == [DATA]


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
        whole = tus.address(await tus.joined(*await _parts(tus, b"hel"), late))
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


# -- browsers


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


# -- nothing is lost


_STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["patch", "checked", "wrong", "late", "broken", "twice"]),
        st.integers(0, 40_000),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(steps=_STEPS, deferred=st.booleans())
async def test_bytes_out_are_bytes_in(
    tmp_path: Path,
    steps: list[tuple[str, int]],
    deferred: bool,  # noqa: FBT001 (a parameter of the property)
) -> None:
    """Whatever happens on the way, the file is what its sender has."""
    size = 100_000
    data = DATA[:size]
    folder = tmp_path / os.urandom(8).hex()
    async with tus_server(folder / "s") as tus:
        url = await tus.begun(None if deferred else size)
        offset = 0
        for kind, wanted in steps:
            piece = data[offset : offset + wanted]
            offset = await _step(tus, url, kind, offset=offset, piece=piece)
            assert await tus.offset(url) == offset
        length = str(size) if deferred else None
        reply = await tus.patch(url, offset, data[offset:], Upload_Length=length)
        assert reply.status == 204
    assert _published(folder) == [data]


async def _step(tus: TusApi, url: str, kind: str, *, offset: int, piece: bytes) -> int:
    """Do something to an upload; return where it ends then."""
    end = offset + len(piece)
    match kind:
        case "patch":
            assert (await tus.patch(url, offset, piece)).status == 204
        case "checked":
            field = checksum("crc32", piece)
            reply = await tus.patch(url, offset, piece, Upload_Checksum=field)
            assert reply.status == 204
        case "wrong":
            field = checksum("sha1", piece + b"x")
            reply = await tus.patch(url, offset, piece, Upload_Checksum=field)
            assert reply.status == 460
            return offset
        case "late":
            assert (await tus.patch(url, offset + 1, piece)).status == 409
            return offset
        case "broken":
            async with RawConnection(tus.url) as raw:
                await open_patch(raw, _path(url), offset, 100_000 - offset)
                await raw.send(piece)
            await _until_counted(tus, url, end)
        case "twice":
            replies = await asyncio.gather(
                tus.patch(url, offset, piece), tus.patch(url, offset, piece)
            )
            assert {reply.status for reply in replies} <= {204, 409}
            return await tus.offset(url)
    return end
