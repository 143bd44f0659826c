"""The MIME type of what is uploaded: by name, and by content where the name is mute."""

from __future__ import annotations

import mimetypes
from typing import Final

UNKNOWN: Final = "application/octet-stream"
_LOOKED_AT: Final = 4096

# What data people upload and the system's table often lacks, or has in another form.
_BY_SUFFIX: Final = {
    ".arrow": "application/vnd.apache.arrow.file",
    ".avro": "application/vnd.apache.avro",
    ".bin": UNKNOWN,
    ".bz2": "application/x-bzip2",
    ".ckpt": UNKNOWN,
    ".csv": "text/csv",
    ".feather": "application/vnd.apache.arrow.file",
    ".flac": "audio/flac",
    ".gguf": UNKNOWN,
    ".gz": "application/gzip",
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".ipynb": "application/x-ipynb+json",
    ".js": "text/javascript",
    ".jsonl": "application/x-ndjson",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mkv": "video/x-matroska",
    ".ndjson": "application/x-ndjson",
    ".npy": "application/x-npy",
    ".npz": "application/zip",
    ".onnx": UNKNOWN,
    ".parquet": "application/vnd.apache.parquet",
    ".pkl": UNKNOWN,
    ".pt": UNKNOWN,
    ".pth": UNKNOWN,
    ".safetensors": UNKNOWN,
    ".sqlite": "application/vnd.sqlite3",
    ".tar": "application/x-tar",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zst": "application/zstd",
}
# What data begins with that puremagic does not know, or takes for something else: of
# every zip archive it says that it is a Word document.
_BY_MAGIC: Final = (
    (0, b"%PDF-", "application/pdf"),
    (0, b"ARROW1", "application/vnd.apache.arrow.file"),
    (0, b"Obj\x01", "application/vnd.apache.avro"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    (0, b"\x93NUMPY", "application/x-npy"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"(\xb5/\xfd", "application/zstd"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (257, b"ustar", "application/x-tar"),
    # EPUB and OpenDocument name their type in a first member called "mimetype".
    (30, b"mimetype", None),
    (0, b"PK\x03\x04", "application/zip"),
)
# puremagic's confidence below which it guesses: "text" anywhere is a document to it.
_CERTAIN: Final = 0.5
# Python's own table, without what this machine's files would add to it.
_TABLE: Final = mimetypes.MimeTypes(filenames=())


def detect_mime_type(name: str, head: bytes = b"") -> str:
    """
    Return the MIME type of a file.

    Args:
        name: File name; its suffix decides if it is a known one.

        head: First bytes of the content, looked at when the name says nothing.

    Returns:
        `application/octet-stream` when neither tells.

    Example:
        >>> detect_mime_type("table.parquet")
        'application/vnd.apache.parquet'
    """
    return type_by_name(name) or _by_content(head)


def type_by_name(name: str) -> str | None:
    """Return the MIME type that a file's suffix stands for; None for a mute one."""
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > 0 else ""
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return _TABLE.types_map[True].get(suffix) or _TABLE.types_map[False].get(suffix)


def _by_content(head: bytes) -> str:
    for offset, magic, mime_type in _BY_MAGIC:
        if head.startswith(magic, offset):
            return mime_type or _guess(head)
    return _guess(head)


def _guess(head: bytes) -> str:
    if not head:
        return UNKNOWN
    import puremagic

    try:
        matches = puremagic.magic_string(head[:_LOOKED_AT])
    except (puremagic.PureError, ValueError):
        return UNKNOWN
    certain = (match for match in matches if match.confidence >= _CERTAIN)
    return next((match.mime_type for match in certain if match.mime_type), UNKNOWN)
