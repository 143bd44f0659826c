"""tus 1.0 as the server speaks it: every status of the text, and what may go wrong."""

from __future__ import annotations

import base64
import email.utils
import os
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import pytest

from tests.servers.tus_api import (
    BYTES,
    TusApi,
    checksum,
    metadata,
    open_patch,
    path_of,
    published,
    tus_server,
    unfinished,
    until_counted,
)
from tests.servers.upload import (
    RawConnection,
    digest_field,
    files_below,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DATA: Final = os.urandom(600_000)
SIZE: Final = len(DATA)
_NO_SUCH: Final = f"files/{'0' * 32}"


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
    assert len(unfinished(tmp_path)) == 1


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
    assert published(tmp_path) == [b""]


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
    assert published(tmp_path) == []


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
    assert unfinished(tmp_path) == []


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
    assert published(tmp_path) == [b"hello"]


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
    assert published(tmp_path) == [DATA]


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
    assert published(tmp_path) == [DATA]


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
    assert unfinished(tmp_path) == []
    assert published(tmp_path) == []


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
        await until(lambda: bool(unfinished(tmp_path)))
        raw.abort()
    await until(lambda: not unfinished(tmp_path))
    assert published(tmp_path) == []


async def test_a_creation_with_too_many_bytes_is_refused(
    tus: TusApi, tmp_path: Path
) -> None:
    """More bytes than the length that came with them are refused."""
    assert (await tus.create(DATA, Upload_Length="10")).status == 413
    assert unfinished(tmp_path) == []


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
    assert published(tmp_path) == [DATA]
    assert unfinished(tmp_path) == []


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
    assert published(tmp_path) == [DATA]


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
    assert published(tmp_path) == [b"hello"]


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
    assert published(tmp_path) == [DATA]


@pytest.mark.parametrize("size", [0, 5])
async def test_a_length_alone_completes_an_upload(
    tus: TusApi, tmp_path: Path, size: int
) -> None:
    """The end may show only after the last byte."""
    url = await tus.begun(None)
    await tus.patch(url, 0, b"hello"[:size])
    assert published(tmp_path) == []
    assert (await tus.patch(url, size, b"", Upload_Length=str(size))).status == 204
    assert published(tmp_path) == [b"hello"[:size]]


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
    assert published(tmp_path) == [b"hello"]


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
    assert published(tmp_path) == [DATA]


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
        await open_patch(raw, path_of(url), 0, SIZE)
        await raw.send(DATA[:1000])
        await until_counted(tus, url, 1000)
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
    assert published(tmp_path) == [b"hello"]
    reply = await tus.call(method, url, X_HTTP_Method_Override="HEAD")
    assert reply.headers["Upload-Offset"] == "5"
    reply = await tus.call(method, url, X_HTTP_Method_Override="OPTIONS")
    assert reply.headers["Tus-Version"] == "1.0.0"
    reply = await tus.call("HEAD", url, X_HTTP_Method_Override="TRACE")
    assert reply.status == 405
    reply = await tus.call(method, url, X_HTTP_Method_Override="DELETE")
    assert reply.status == 204
    assert (await tus.head(url)).status == 404
