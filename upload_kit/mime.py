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
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > 0 else ""
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    by_name = _TABLE.types_map[True].get(suffix) or _TABLE.types_map[False].get(suffix)
    return by_name or _by_content(head)


def _by_content(head: bytes) -> str:
    if not head:
        return UNKNOWN
    import puremagic

    try:
        return puremagic.from_string(head[:_LOOKED_AT], mime=True) or UNKNOWN
    except (puremagic.PureError, ValueError):
        return UNKNOWN
