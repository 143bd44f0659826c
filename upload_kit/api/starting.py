"""
The plain face: uploads that run in the background, from any kind of program.

Nothing here shows anything; `upload_kit.notebook.face` adds that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

from upload_kit.api.gathering import gather
from upload_kit.api.items import Item
from upload_kit.api.jobs import Job
from upload_kit.api.keywords import make_uploader, read_keywords, split_keywords
from upload_kit.api.lookup import can_resume, find_session, sessions
from upload_kit.bridge import bridge
from upload_kit.config import DEFAULT_PARALLEL
from upload_kit.errors import ConfigurationError
from upload_kit.locations import parse_location
from upload_kit.models import Layer
from upload_kit.sources.factory import make_source
from upload_kit.throttle import BandwidthThrottle
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from upload_kit.api.gathering import SourcesLike
    from upload_kit.api.keywords import (
        ConnectionKeywords,
        StartKeywords,
        UploadKeywords,
    )
    from upload_kit.errors import UploadKitError
    from upload_kit.models import UploadResult, UploadSession
    from upload_kit.sources.factory import SourceLike
    from upload_kit.uploaders.chunked import ChunkedUploader

# Files that are opened and read ahead while as many as allowed are on the wire.
_READ_AHEAD: Final = 2


def start(
    source: SourceLike, destination: str | None = None, **options: Unpack[StartKeywords]
) -> Job[UploadResult]:
    """
    Begin to upload one file in the background, and return its handle at once.

    Args:
        source: A path, bytes, a binary file object or an async iterator of bytes.

        destination: URL of where it goes; None, with an `api_key`: the Gemini Files
            API.

        options: See `UploadKeywords` and `FileOptions`.

    Raises:
        ConfigurationError: The call cannot work as it is. What goes wrong afterwards
            is raised by `result` and by awaiting the job.
    """
    job = prepare(source, destination, **options)
    job.begin()
    return job


def upload(
    source: SourceLike, destination: str | None = None, **options: Unpack[StartKeywords]
) -> UploadResult:
    """
    Upload one file, wait for the end, and return how it went.

    Args:
        source: As for `start`, and so are the others.

        destination: URL of where it goes.

        options: See `UploadKeywords` and `FileOptions`.

    Raises:
        UploadKitError: It failed; the class says how, the message what to do.
        WaitInterrupted: The wait was interrupted; the upload goes on.
    """
    bridge.refuse_here()
    return start(source, destination, **options).result()


def start_many(
    sources: SourcesLike,
    destination: str | None = None,
    **options: Unpack[UploadKeywords],
) -> Job[list[UploadResult]]:
    """
    Begin to upload many files in the background, and return their handle at once.

    A file that fails stops no other.

    Args:
        sources: A folder, a pattern such as `data/**/*.parquet`, a list of those and of
            anything else that can be uploaded, or a dictionary by names.

        destination: URL of where they go.

        options: See `UploadKeywords`.

    Raises:
        SourceError: A folder is empty or cannot be read.
        ConfigurationError: The call cannot work as it is; nothing was uploaded.
    """
    job = prepare_many(sources, destination, **options)
    job.begin()
    return job


def upload_many(
    sources: SourcesLike,
    destination: str | None = None,
    **options: Unpack[UploadKeywords],
) -> list[UploadResult]:
    """
    Upload many files, wait for the end, and return a result for each, in their order.

    A file that fails stops no other: its result has `success` False and says why.

    Args:
        sources: As for `start_many`, and so are the others.

        destination: URL of where they go.

        options: See `UploadKeywords`.

    Raises:
        UploadKitError: As for `start_many`.
        WaitInterrupted: The wait was interrupted; the uploads go on.
    """
    bridge.refuse_here()
    return start_many(sources, destination, **options).result()


def resume(
    *session_ids: str,
    destination: str | None = None,
    **options: Unpack[ConnectionKeywords],
) -> Job[list[UploadResult]]:
    """
    Go on with unfinished uploads in the background, and return their handle at once.

    Args:
        session_ids: Which sessions, or how their IDs begin; none for all that can go on
            in this process and that nobody cancelled.

        destination: The URL with its secrets, where it had some: sessions keep none.

        options: See `ConnectionKeywords`; secrets such as `token` have to be given
            again.

    Raises:
        SessionNotFound: No ID begins so.
        SourceError: A session was not made from a file.
        ConfigurationError: The call cannot work as it is.
    """
    job = prepare_resume(*session_ids, destination=destination, **options)
    job.begin()
    return job


def prepare(
    source: SourceLike, destination: str | None = None, **options: Unpack[StartKeywords]
) -> Job[UploadResult]:
    """Return the job of `start`, not begun, for whoever wants to watch all of it."""
    of_file, rest = split_keywords(dict(options))
    uploader = make_uploader(destination, rest)
    item = _item(uploader, source, destination, of_file)
    return Job([item], at_once=1, outcome=_only)


def prepare_many(
    sources: SourcesLike,
    destination: str | None = None,
    **options: Unpack[UploadKeywords],
) -> Job[list[UploadResult]]:
    """Return the job of `start_many`, not begun."""
    of_file, rest = split_keywords(dict(options))
    if unfit := sorted({"name", "size"} & set(of_file)):
        raise ConfigurationError(
            f"{unfit[0]}= is for one file.", hint="Give a dictionary of names."
        )
    uploader = make_uploader(destination, rest)
    items = [
        _item(
            uploader,
            found.source,
            destination,
            {**of_file, "name": found.name},
            size=found.size,
        )
        for found in gather(sources)
    ]
    at_once = uploader.policy().max_parallel
    if uploader.layer is not Layer.FOUNDATION:
        at_once *= _READ_AHEAD
    return Job(items, at_once=at_once, outcome=_every)


def prepare_resume(
    *session_ids: str,
    destination: str | None = None,
    **options: Unpack[ConnectionKeywords],
) -> Job[list[UploadResult]]:
    """Return the job of `resume`, not begun."""
    keywords = read_keywords(dict(options))
    place = keywords.pop("session_dir", None)
    known = sessions(place)
    chosen = (
        [find_session(session_id, known) for session_id in session_ids]
        if session_ids
        else [session for session in known if can_resume(session)]
    )
    keywords["throttle"] = BandwidthThrottle(keywords.pop("limit", None))
    keywords["session_dir"] = place
    urls = {session.destination: session.destination for session in chosen}
    if destination is not None:
        urls[str(parse_location(destination))] = destination
    uploaders = {
        shown: make_uploader(url, keywords)
        for shown, url in urls.items()
        if any(session.destination == shown for session in chosen)
    }
    items = [
        _resumed(uploaders[session.destination], session)
        for session in {session.session_id: session for session in chosen}.values()
    ]
    at_once = keywords.get("parallel", DEFAULT_PARALLEL) * _READ_AHEAD
    return Job(items, at_once=at_once, outcome=_every)


def _item(
    uploader: ChunkedUploader,
    source: SourceLike,
    destination: str | None,
    of_file: dict[str, Any],
    *,
    size: int | None = None,
) -> Item:
    # Made once here, to be told now if it is nothing that can be uploaded.
    made = make_source(source, name=of_file.get("name"), size=of_file.get("size"))
    shown = "" if destination is None else str(parse_location(destination))
    return Item(
        name=made.name,
        begin=partial(uploader.start, source, **of_file),
        destination=shown,
        size=size if size is not None else made.size,
        path=made.path,
    )


def _resumed(uploader: ChunkedUploader, session: UploadSession) -> Item:
    assert isinstance(uploader, ResumableUploader)
    assert session.source is not None
    return Item(
        name=session.name,
        begin=partial(
            uploader.start_resumable,
            session.source,
            session.session_id,
            name=session.name,
            content_type=session.content_type,
            metadata=session.metadata,
        ),
        destination=session.destination,
        size=session.size,
        path=session.source,
    )


def _only(
    results: list[UploadResult], errors: list[UploadKitError | None]
) -> UploadResult:
    if errors[0] is not None:
        raise errors[0]
    return results[0]


def _every(
    results: list[UploadResult],
    errors: list[UploadKitError | None],  # noqa: ARG001 (each is in its result too)
) -> list[UploadResult]:
    return results
