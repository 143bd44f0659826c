"""What an upload has to be like, as pure functions of what is known of it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from upload_kit.models import ChunkMetadata
from upload_kit.server.documents import missing_ranges, total_chunks
from upload_kit.server.fields import DEFAULT_MEDIA_TYPE, check_metadata, malformed
from upload_kit.server.problems import ProblemType, UploadProblem
from upload_kit.server.storage import UploadInfo
from upload_kit.units import MIB

if TYPE_CHECKING:
    from upload_kit.server.config import ServerConfig
    from upload_kit.server.storage import StoredUpload

_MAX_NAME_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What a client says of an upload that is to begin."""

    name: str
    """The file's name."""

    size: int | None = None
    """Bytes; None when it is not known yet."""

    chunk_size: int | None = None
    """Bytes of a chunk; None leaves it to the server."""

    content_type: str = DEFAULT_MEDIA_TYPE
    """MIME type."""

    metadata: dict[str, str] = field(default_factory=dict)
    """What is to be kept beside the bytes."""

    whole_digest: bool = False
    """Whether the digest of the whole file will be asked for."""

    grows: bool = False
    """Whether it grows at its end, instead of coming in chunks."""

    is_part: bool = False
    """Whether it is only there to be joined with others."""

    joins: tuple[str, ...] = ()
    """IDs of the parts that it is joined from, in order."""

    traits: dict[str, str] = field(default_factory=dict)
    """What the protocol that it comes by remembers of it."""

    via: tuple[str, ...] = ()
    """IDs of the servers that it came through."""


def begin(
    config: ServerConfig, owner: str, new: NewUpload, chunk_size: int
) -> UploadInfo:
    """
    Give a new upload its ID.

    Raises:
        UploadProblem: What the client says of it is more than may be.
    """
    if len(new.name.encode(errors="replace")) > _MAX_NAME_BYTES:
        raise malformed(f"A name may have {_MAX_NAME_BYTES} bytes.")
    check_metadata(
        new.metadata,
        max_keys=config.max_metadata_keys,
        max_bytes=config.max_metadata_bytes,
    )
    check_size(config, new.size)
    return UploadInfo(
        upload_id=secrets.token_hex(16),
        owner=owner,
        name=new.name,
        size=new.size,
        chunk_size=chunk_size,
        content_type=new.content_type,
        metadata=new.metadata,
        whole_digest=new.whole_digest,
        grows=new.grows,
        is_part=new.is_part,
        joins=new.joins,
        traits=new.traits,
        via=new.via,
        created_at=time.time(),
    )


def choose_chunk_size(config: ServerConfig, new: NewUpload) -> int:
    """
    Return the size of a new upload's chunks.

    Raises:
        UploadProblem: The client's choice is out of range, or makes too many of them.
    """
    size, chunk_size = new.size or 0, new.chunk_size
    if chunk_size is None:
        chunk_size = config.default_chunk
        least = -(-size // config.max_chunks)
        if least > chunk_size:
            # The default would make too many of them; whole MiB, if there is room.
            chunk_size = max(least, min(-(-least // MIB) * MIB, config.max_chunk))
    if not 1 <= chunk_size <= config.max_chunk:
        raise UploadProblem(
            ProblemType.TOO_LARGE,
            f"A chunk may have 1 to {config.max_chunk} bytes, not {chunk_size}.",
            extra={"max_chunk": config.max_chunk},
        )
    if -(-size // chunk_size) > config.max_chunks:
        raise UploadProblem(
            ProblemType.TOO_LARGE,
            f"A file may have {config.max_chunks} chunks.",
            next_step="Take a larger chunk_size.",
            extra={"max_chunks": config.max_chunks},
        )
    return chunk_size


def place(
    config: ServerConfig, upload: StoredUpload, index: int, size: int | None
) -> ChunkMetadata:
    """
    Return where a chunk belongs and how large it is.

    Args:
        config: Limits.

        upload: Whose chunk it is.

        index: Which one.

        size: Bytes that come; None if that is not known, and then the file's size is.

    Raises:
        UploadProblem: There is no such chunk, or it has another size.
    """
    info = upload.info
    _refuse_if_growing(info)
    start, total = index * info.chunk_size, total_chunks(info)
    if index >= (config.max_chunks if total is None else total):
        raise malformed(f"There is no chunk {index}.")
    if info.size is not None:
        wanted = min(info.chunk_size, info.size - start)
        if size not in (None, wanted):
            raise _wrong_chunk(index, wanted, size)
        return ChunkMetadata(index=index, start=start, size=wanted)
    if size is None:
        raise UploadProblem(
            ProblemType.LENGTH_REQUIRED,
            "A coded chunk needs an upload whose size is known.",
        )
    # Other threads may add chunks meanwhile; `max` looks at all of them in one go.
    is_short_within = size < info.chunk_size and max(upload.chunks, default=-1) > index
    if size > info.chunk_size or is_short_within:
        raise _wrong_chunk(index, info.chunk_size, size)
    check_size(config, start + size)
    return ChunkMetadata(index=index, start=start, size=size)


def settle(upload: StoredUpload, size: int | None) -> UploadInfo:
    """
    Return the info with the final size, if all chunks are there.

    Args:
        upload: What is to be completed.

        size: Bytes, as the client says now; None if it says nothing.

    Raises:
        UploadProblem: Chunks are missing, or the size is another one.
    """
    info, chunks = upload.info, dict(upload.chunks)
    _refuse_if_growing(info)
    received = sum(chunk.size for chunk in chunks.values())
    if info.size is None:
        info = replace(info, size=received if size is None else size)
    elif size not in (None, info.size):
        raise _wrong_file(info.size, size)
    missing = missing_ranges(chunks, total_chunks(info)) if info.size else []
    if missing:
        raise UploadProblem(
            ProblemType.INCOMPLETE,
            f"{sum(end - start for start, end in missing)} chunks are missing.",
            extra={"missing": missing},
        )
    if received != info.size:
        raise _wrong_file(received, info.size)
    return info


def check_published(info: UploadInfo, sha256: str | None, size: int | None) -> None:
    """Refuse to complete a published file again as another one than it is."""
    if size not in (None, info.size):
        raise _wrong_file(info.size, size)
    check_whole_digest(sha256, info.sha256)


def check_whole_digest(expected: str | None, actual: str | None) -> None:
    """Refuse a file whose digest, if it is known, is not the one that was sent."""
    if None not in (expected, actual) and expected != actual:
        raise UploadProblem(
            ProblemType.DIGEST_MISMATCH,
            "The SHA-256 of the whole file is another one.",
            next_step="Find out which chunks differ with '?chunks=1', or begin anew.",
            extra={"expected": expected, "actual": actual},
        )


def refuse_if_complete(info: UploadInfo) -> None:
    """Refuse to change what is published."""
    if info.completed_at is not None:
        raise UploadProblem(
            ProblemType.ALREADY_COMPLETE, "The upload is complete and published."
        )


def refuse_if_expired(upload: StoredUpload, expires_after: float) -> None:
    """Refuse to go on with an upload that is only waiting to be removed."""
    if (
        upload.info.completed_at is None
        and time.time() > upload.touched_at + expires_after
    ):
        raise UploadProblem(
            ProblemType.EXPIRED,
            f"The upload was not continued within {expires_after:g} s.",
        )


def _refuse_if_growing(info: UploadInfo) -> None:
    if info.grows:
        raise UploadProblem(
            ProblemType.NOT_FOUND, "This upload does not come in chunks."
        )


def check_size(config: ServerConfig, size: int | None) -> None:
    """Refuse a file that is larger than may be."""
    limit = config.max_size
    if limit is not None and (size or 0) > limit:
        raise UploadProblem(
            ProblemType.TOO_LARGE,
            f"A file may have {limit} bytes, not {size}.",
            extra={"max_size": limit},
        )


def _wrong_chunk(index: int, wanted: int, size: int | None) -> UploadProblem:
    return UploadProblem(
        ProblemType.SIZE_MISMATCH,
        f"Chunk {index} has {wanted} bytes, not {size}.",
        extra={"expected": wanted, "actual": size},
    )


def _wrong_file(expected: int | None, actual: int | None) -> UploadProblem:
    return UploadProblem(
        ProblemType.SIZE_MISMATCH,
        f"The file has {expected} bytes, not {actual}.",
        extra={"expected": expected, "actual": actual},
    )
