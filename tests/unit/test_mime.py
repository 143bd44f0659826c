"""MIME types: by name for what data people have, by content where the name is mute."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.mime import UNKNOWN, detect_mime_type

BY_NAME = {
    "a.arrow": "application/vnd.apache.arrow.file",
    "a.avro": "application/vnd.apache.avro",
    "a.bz2": "application/x-bzip2",
    "a.csv": "text/csv",
    "a.flac": "audio/flac",
    "a.gif": "image/gif",
    "a.h5": "application/x-hdf5",
    "a.html": "text/html",
    "a.ipynb": "application/x-ipynb+json",
    "a.jpeg": "image/jpeg",
    "a.jpg": "image/jpeg",
    "a.js": "text/javascript",
    "a.json": "application/json",
    "a.jsonl": "application/x-ndjson",
    "a.md": "text/markdown",
    "a.mkv": "video/x-matroska",
    "a.mp3": "audio/mpeg",
    "a.mp4": "video/mp4",
    "a.npy": "application/x-npy",
    "a.npz": "application/zip",
    "a.onnx": UNKNOWN,
    "a.parquet": "application/vnd.apache.parquet",
    "a.pdf": "application/pdf",
    "a.png": "image/png",
    "a.py": "text/x-python",
    "a.safetensors": UNKNOWN,
    "a.sqlite": "application/vnd.sqlite3",
    "a.svg": "image/svg+xml",
    "a.tar": "application/x-tar",
    "a.tar.gz": "application/gzip",
    "a.tsv": "text/tab-separated-values",
    "a.txt": "text/plain",
    "a.wav": "audio/wav",
    "a.webp": "image/webp",
    "a.xml": "text/xml",
    "a.yaml": "application/yaml",
    "a.zip": "application/zip",
    "a.zst": "application/zstd",
    "A.CSV": "text/csv",
    "folder.d/a.Parquet": "application/vnd.apache.parquet",
}


@pytest.mark.parametrize("name", BY_NAME)
def test_type_by_name(name: str) -> None:
    """The suffix decides, in whatever case, and whatever the content looks like."""
    assert detect_mime_type(name) == BY_NAME[name]
    assert detect_mime_type(name, b"%PDF-1.7\n") == BY_NAME[name]


def png() -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    length, check = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + length + chunk + check


def archive(member: str = "hello.txt", content: str = "hello") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr(member, content)
    return file.getvalue()


def tape() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("hello.txt"), io.BytesIO(b""))
    return file.getvalue()


EPUB = "application/epub+zip"
BY_CONTENT = [
    (png(), "image/png"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "image/jpeg"),
    (b"GIF89a\1\0\1\0\0\0\0;", "image/gif"),
    (b"%PDF-1.7\n%\xe2\xe3", "application/pdf"),
    (b"<!doctype html><html>", "text/html"),
    (b"\0\0\0\x20ftypisom\0\0\2\0isom", "video/mp4"),
    (gzip.compress(b"hello"), "application/gzip"),
    (lzma.compress(b"hello"), "application/x-xz"),
    (bz2.compress(b"hello"), "application/x-bzip2"),
    (archive(), "application/zip"),
    (archive("mimetype", EPUB), EPUB),
    (tape(), "application/x-tar"),
    (b"PAR1\x15\4", "application/vnd.apache.parquet"),
    (b"\x93NUMPY\1\0", "application/x-npy"),
    (b"\x89HDF\r\n\x1a\n" + bytes(88), "application/x-hdf5"),
    (b"SQLite format 3\0" + bytes(84), "application/vnd.sqlite3"),
    (b"a text that says nothing\n" * 20, UNKNOWN),
    (bytes(4096), UNKNOWN),
]


@pytest.mark.parametrize(("head", "kind"), BY_CONTENT, ids=[b for _, b in BY_CONTENT])
@pytest.mark.parametrize("name", ["mute", "a.unheard-of", "a.", ".hidden"])
def test_type_by_content_where_the_name_says_nothing(
    name: str, head: bytes, kind: str
) -> None:
    """The first bytes tell, and are not taken for what they are not."""
    assert detect_mime_type(name, head) == kind


@pytest.mark.parametrize("name", ["mute", "", ".", "a.", "a.unheard-of", ".csv"])
def test_nothing_known_is_octets(name: str) -> None:
    """Neither a name nor bytes: just bytes."""
    assert detect_mime_type(name) == UNKNOWN
    assert detect_mime_type(name, b"") == UNKNOWN


@given(name=st.text(), head=st.binary(max_size=300))
def test_any_name_and_content_have_a_type(name: str, head: bytes) -> None:
    """Hostile bytes break no upload, and the type can stand in a header."""
    kind = detect_mime_type(name, head)
    assert kind.isascii()
    assert kind.isprintable()
    assert kind.count("/") == 1
