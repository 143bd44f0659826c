"""The keywords that uploaders and their verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from upload_kit.engine.request import UploadRequest
from upload_kit.sources.factory import make_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from upload_kit.config import RetryPolicy, Secret
    from upload_kit.sources.base import Source
    from upload_kit.sources.factory import SourceLike
    from upload_kit.uploaders.callbacks import ProgressCallback


class UploaderOptions(TypedDict, total=False):
    """Keywords of `ChunkedUploader`, which every layer takes and passes down."""

    chunk_size: int
    on_progress: ProgressCallback | None
    retry: RetryPolicy | None
    token: str | Secret | None
    api_key: str | Secret | None
    headers: Mapping[str, str] | None
    overwrite: bool
    whole_digest: bool
    stall_timeout: float
    connect_timeout: float
    response_timeout: float
    read_timeout: float
    memory_budget: int
    max_connections: int
    history: bool | str | Path


class FileOptions(TypedDict, total=False):
    """Keywords of whatever uploads one file."""

    name: str | None
    """File name at the destination; by default the source's own."""

    size: int | None
    """Bytes, where the caller knows them and the source cannot tell."""

    content_type: str | None
    """MIME type; by default it is detected."""

    metadata: Mapping[str, str] | None
    """Kept beside the bytes, where the destination can."""

    via: Sequence[str]
    """IDs of the servers that it came through, none of which takes it once more."""


def read_options(
    source: SourceLike, options: FileOptions, *, session_id: str | None = None
) -> tuple[Source, UploadRequest]:
    """
    Return what an engine needs to know of one file.

    Raises:
        ConfigurationError: It is nothing that can be uploaded.
    """
    request = UploadRequest(
        content_type=options.get("content_type"),
        metadata=dict(options.get("metadata") or {}),
        session_id=session_id,
        via=tuple(options.get("via") or ()),
    )
    made = make_source(source, name=options.get("name"), size=options.get("size"))
    return made, request
