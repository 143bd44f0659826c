"""
Whatever bytes come from outside, a parser takes them or says why not, in our words.

Any other exception would be a 500, or a traceback for somebody else's mistake.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import tempfile
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from tests.servers.upload import plain_batch
from upload_kit.checksums import format_digest
from upload_kit.cli.config_files import load_settings
from upload_kit.cli.main import cli
from upload_kit.destinations import tus_fields as tus_client
from upload_kit.destinations.reply import Reply
from upload_kit.destinations.s3_xml import failure, part_list, read_xml
from upload_kit.errors import SessionError, UploadKitError
from upload_kit.models import ChunkMetadata, Receipt, UploadSession, UploadSpec
from upload_kit.server import ServerConfig, fields
from upload_kit.server import tus_fields as tus_server
from upload_kit.server.batch import BatchBody, BatchSink
from upload_kit.server.journal import format_lines, parse_lines
from upload_kit.server.multipart import PartReader, parse_boundary
from upload_kit.server.names import safe_name
from upload_kit.server.problems import UploadProblem
from upload_kit.server.rules import NewUpload, begin
from upload_kit.sessions.json_files import JsonFileStore
from upload_kit.units import parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.server.batch import ListedFile
    from upload_kit.server.storage import UploadInfo

_CONFIG: Final = ServerConfig(directory="x", max_size=1000)
_ID: Final = "0123456789abcdef0123456789abcdef"
_SHA: Final = format_digest("sha256", bytes(32))

# What fields are made of, so that what is drawn is often nearly right.
_WORDS: Final = st.sampled_from(
    [
        *" ,;:=\"'\\/+-_\t\r\n\0",
        *("0", "1", "007", "1_0", "+5", "\u0665", "9" * 25, str(2**63 - 1)),
        *("YQ==", "a YQ==", "YQ", "!!!!", "filename ", "\u00fc", "\udcff", "\u202e"),
        *("sha-256", "sha256 ", "sha1 ", "crc32 ", ":", _SHA, "final;", "partial"),
        *(_ID, f"/files/{_ID}", "http://x/files/", "..", "%2e%2e/", "gzip", "zstd"),
        *("filename=", "filename*=UTF-8''", "%ff", '"a\\"b"', "boundary=", "bytes"),
        *("multipart/form-data;", "text/plain", "10MB", "5MiB/s", "48h", "1e9", "nan"),
    ]
)
# Bytes that are no UTF-8 come as lone surrogates.
_TEXT: Final = st.text(st.characters(codec=None), max_size=6)
FIELD: Final = st.lists(st.one_of(_WORDS, _TEXT), max_size=8).map("".join)


def metadata(text: str) -> object:
    return fields.parse_metadata(text, max_keys=3, max_bytes=100)


def checksum(text: str) -> object:
    return tus_server.read_checksum({"Upload-Checksum": text})


def reply(body: bytes = b"", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        method="POST",
        raw_url="http://127.0.0.1/files/",
        status=201,
        headers=CIMultiDictProxy(CIMultiDict(named)),
        body=body,
    )


@pytest.mark.parametrize(
    "parse",
    [
        pytest.param(lambda text: fields.parse_uint(text, "x"), id="uint"),
        pytest.param(lambda text: fields.parse_digest(text, "x"), id="digest"),
        fields.parse_key,
        fields.parse_coding,
        fields.parse_media_type,
        fields.parse_disposition,
        metadata,
        parse_boundary,
        checksum,
        safe_name,
    ],
)
@given(text=FIELD)
def test_header_of_the_server(parse: Callable[[str], object], text: str) -> None:
    """A field is read, or it is a problem of whoever sent it."""
    with contextlib.suppress(UploadProblem):
        found = parse(text)
        # Whatever is kept of it can be written down again.
        msgspec.json.encode(found)


@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Upload-Length",
                "Upload-Defer-Length",
                "Upload-Metadata",
                "Upload-Concat",
                "Want-Repr-Digest",
                "Content-Type",
                "Content-Encoding",
            ]
        ),
        FIELD,
    )
)
def test_creation_of_the_server(headers: dict[str, str]) -> None:
    """Whatever begins an upload has a size that may be, IDs of ours, little text."""
    with contextlib.suppress(UploadProblem):
        tus_server.check_bytes(headers)
    try:
        new = tus_server.read_creation(headers, _CONFIG)
    except UploadProblem:
        return
    assert new.size is None or 0 <= new.size < 2**63
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in new.joins)
    assert sum(len(k) + len(v.encode()) for k, v in new.metadata.items()) <= 16384


@given(
    name=st.text(st.characters(codec="utf-8"), max_size=40),
    more=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text()),
)
def test_metadata_from_our_client_to_our_server(
    name: str, more: dict[str, str]
) -> None:
    """What one writes the other reads, to the letter."""
    spec = UploadSpec(name=name, size=1, content_type="a/b", metadata=more)
    read = tus_server.read_metadata(tus_client.format_metadata(spec), _CONFIG)
    wanted = {"filename": name, "filetype": "a/b", **more}
    assert read == {key: value.encode() for key, value in wanted.items()}


@given(digest=st.binary(min_size=32, max_size=32))
def test_digest_there_and_back(digest: bytes) -> None:
    """A digest is read as it was written, in both of its fields."""
    written = format_digest("sha256", digest)
    assert fields.parse_digest(written, "x") == digest
    encoded = base64.b64encode(digest).decode()
    read = tus_server.read_checksum({"Upload-Checksum": f"sha256 {encoded}"})
    assert read is not None
    assert read.digest == digest


@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                [b"--b", b"\r\n", b"\r\n--b", b"--", b"\r\n\r\n", b"A: b", b"\xff"]
            ),
            st.binary(max_size=6),
        ),
        max_size=12,
    )
)
def test_multipart_body(pieces: list[bytes]) -> None:
    """Any cut of any bytes is a part, or a problem; no bytes are made up."""
    reader, found = PartReader(b"b"), 0
    try:
        for piece in pieces:
            found += len(reader.feed(piece))
        reader.finish()
    except UploadProblem:
        return
    assert found <= sum(map(len, pieces))


class _Pieces:
    """A body that comes in these pieces, one at a time."""

    size = None

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def batch(self) -> tuple[list[bytes], bool]:
        """Return the next piece, and whether it is the last."""
        return [self._pieces.pop(0)], not self._pieces

    def stop(self, problem: UploadProblem) -> None:
        raise problem


class _Kept:
    """Keeps the bytes of one file."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.ended = False

    def write(self, pieces: Sequence[bytes]) -> None:
        self.data += pieces

    def finish(self, pieces: Sequence[bytes]) -> UploadInfo:
        self.data += pieces
        self.ended = True
        size = sum(map(len, self.data))
        return begin(_CONFIG, "", NewUpload(name="a", size=size), 1)

    def abort(self) -> None:
        self.data.clear()


async def _through(pieces: list[bytes]) -> list[bytes]:
    """Take a batch in, and return the bytes of its files."""
    body = BatchBody(_Pieces(pieces))
    kept: list[_Kept] = []

    def keep(_file: ListedFile) -> _Kept:
        kept.append(_Kept())
        return kept[-1]

    sink, last = BatchSink(await body.files(), keep), False
    while not last:
        found, last = await body.batch()
        if last:
            sink.finish(found)
        else:
            sink.write(found)
    assert all(one.ended for one in kept)
    return [b"".join(one.data) for one in kept]


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    """Return the bytes in pieces, some of which may be empty."""
    ends = [0, *sorted(min(one, len(data)) for one in at), len(data)]
    return [data[a:b] for a, b in pairwise(ends)]


@given(
    files=st.lists(st.binary(max_size=9), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 900), max_size=9),
)
def test_batch_there_and_back(files: list[bytes], cuts: list[int]) -> None:
    """However a batch is cut into pieces, each file gets its own bytes."""
    assert asyncio.run(_through(_cut(plain_batch(files), cuts))) == files


@given(
    files=st.lists(st.binary(max_size=9), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 900), max_size=3),
    junk=st.one_of(st.binary(max_size=9), st.sampled_from([b"\n", b'"', b"9", b"{"])),
    at=st.integers(0, 900),
)
def test_batch_with_a_fault(
    files: list[bytes], cuts: list[int], junk: bytes, at: int
) -> None:
    """A batch that is not what it says is a problem, or other bytes of that size."""
    whole = plain_batch(files)
    broken = whole[:at] + junk + whole[at + len(junk) :]
    with contextlib.suppress(UploadProblem):
        found = asyncio.run(_through(_cut(broken, cuts)))
        assert sum(map(len, found)) <= len(broken)


_COUNT: Final = st.integers(0, 2**53)


@given(
    chunks=st.lists(
        st.builds(
            ChunkMetadata,
            index=_COUNT,
            start=_COUNT,
            size=_COUNT,
            sha256=st.sampled_from([None, "0" * 64, "ab" * 32]),
        ),
        max_size=5,
    ),
    torn=st.integers(0, 90),
    junk=st.binary(max_size=40),
)
def test_journal(chunks: list[ChunkMetadata], torn: int, junk: bytes) -> None:
    """Lines come back as they went; torn ones and nonsense hide no whole one."""
    half = format_lines(chunks[:1])[:torn]
    assert list(parse_lines(format_lines(chunks))) == chunks
    read = list(parse_lines(junk + half + format_lines(chunks)))
    assert read[len(read) - len(chunks) :] == chunks


@given(location=FIELD, number=FIELD, digest=FIELD, versions=FIELD, body=st.binary())
def test_answer_to_the_tus_client(
    location: str, number: str, digest: str, versions: str, body: bytes
) -> None:
    """A server that answers nonsense is one that we took for another."""
    answer = reply(
        body,
        Location=location,
        Upload_Offset=number,
        Repr_Digest=digest,
        Tus_Version=versions,
        Tus_Max_Size=number,
        Tus_Extension=versions,
        Retry_After=number,
    )
    calls: tuple[Callable[[], object], ...] = (
        lambda: tus_client.read_server(answer),
        lambda: tus_client.read_size(answer, "Upload-Offset"),
        lambda: tus_client.read_sha256(answer),
        lambda: tus_client.resolve("http://127.0.0.1/files/", answer),
        lambda: tus_client.read_options(number, {}),
        answer.json,
        answer.error,
        lambda: answer.read_as(UploadSession),
    )
    for call in calls:
        with contextlib.suppress(UploadKitError):
            call()


@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    b"<?xml version='1.0'?>",
                    b"<Error><Code>SlowDown</Code></Error>",
                    *(b"<a>", b"</a>", b"<Part>", b"</Part>", b"&lt;", b"&x;", b" "),
                    *(b"<!DOCTYPE a>", b"\xff", b"<a xmlns='b'>", b"]]>", b"<![CDATA["),
                ]
            ),
            st.binary(max_size=5),
        ),
        max_size=8,
    )
)
def test_answer_to_the_s3_client(pieces: list[bytes]) -> None:
    """What is no XML of S3's is an error of ours."""
    answer = reply(b"".join(pieces))
    failure(answer)
    with contextlib.suppress(UploadKitError):
        read_xml(answer).text("Code")


@given(tags=st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=4))
def test_list_of_parts(tags: list[str]) -> None:
    """Whatever a service calls its parts, we call them so too."""
    printable = [re.sub(r"[^\x20-\ud7ff]", "", tag).strip() for tag in tags]
    receipts = [
        Receipt(index=index, size=1, tag=tag) for index, tag in enumerate(printable)
    ]
    parts = read_xml(reply(part_list(receipts, checksums=False))).children("Part")
    assert [part.text("ETag") for part in parts] == printable


_SESSION: Final = UploadSession(
    session_id=_ID,
    name="a",
    source="/a",
    destination="http://127.0.0.1/",
    size=3,
    chunk_size=2,
    total_chunks=2,
    metadata={"k": "v"},
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut some bytes out and put others in, perhaps in several places."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 30)))
        junk = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [b"null", b"-1", b"1e999", b'"', b"{}", b"[" * 9999, b"9" * 5000]
                ),
            )
        )
        data = data[:start] + junk + data[end:]
    return data


async def keep(folder: Path) -> None:
    """Store a session with one receipt."""
    async with aclosing(JsonFileStore(folder)) as store:
        await store.put(_SESSION, expected=None)
        await store.record(_ID, Receipt(index=0, size=2, sha256="0" * 64), fence=0)


async def look(folder: Path) -> None:
    """See what has become of it."""
    async with aclosing(JsonFileStore(folder)) as store:
        with contextlib.suppress(SessionError):
            found = await store.get(_ID)
            assert found is None or found.session_id == _ID
        # Whatever was there, it stands in nobody's way.
        async for one in store.scan(on_corrupt=lambda _: None):
            assert one.session_id == _ID


@given(data=st.data())
def test_session_files(data: st.DataObject) -> None:
    """A damaged session is set aside and told of, or it is still one."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        asyncio.run(keep(folder))
        path = data.draw(st.sampled_from(sorted(folder.glob(f"{_ID}.*"))))
        path.write_bytes(data.draw(damaged(path.read_bytes())))
        asyncio.run(look(folder))


@given(
    lines=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *("[put]", "[serve]", "[nowhere]", "chunk-size = '5MiB'"),
                    *("parallel = 3", "parallel = -1", "limit = '1MB/s'", "port = 1e9"),
                    *("token = 'x'", "json = true", "a.b.c = []", "x = {y = 1}"),
                    *("allowed-origins = ['*']", "max-size = 99999999999999999999"),
                ]
            ),
            st.text(max_size=12),
        ),
        max_size=6,
    )
)
def test_settings_file(lines: list[str]) -> None:
    """A file of settings is read, or the error says what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload-kit.toml"
        path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
        with contextlib.suppress(UploadKitError):
            load_settings(click.Context(cli), path)


@pytest.mark.parametrize("parse", [parse_size, parse_rate, parse_duration])
@given(text=FIELD)
def test_amounts(parse: Callable[[Any], float], text: str) -> None:
    """An amount is a number that can be worked with, or an error."""
    with contextlib.suppress(UploadKitError):
        assert parse(text) >= 0
