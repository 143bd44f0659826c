"""
The face that `import upload_kit as uk` shows: the plain API, and what is to be seen.

The same calls work in a notebook, a script and a REPL; what fits there is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from upload_kit.api import lookup
from upload_kit.api.starting import prepare, prepare_many, prepare_resume
from upload_kit.bridge import bridge
from upload_kit.errors import ConfigurationError
from upload_kit.frames import make_frame
from upload_kit.models import UploadStatus
from upload_kit.notebook.showing import begin_shown, run_shown
from upload_kit.notebook.sources import is_object, to_source
from upload_kit.terminal.words import short_id

if TYPE_CHECKING:
    import os

    from pandas import DataFrame

    from upload_kit.api.gathering import SourcesLike
    from upload_kit.api.jobs import Job
    from upload_kit.api.keywords import (
        ConnectionKeywords,
        StartKeywords,
        UploadKeywords,
    )
    from upload_kit.api.lookup import Moment
    from upload_kit.models import Layer, UploadResult
    from upload_kit.notebook.renderers import Progress
    from upload_kit.notebook.sources import NotebookSource, NotebookSources


def start(
    source: NotebookSource,
    destination: str | None = None,
    *,
    progress: Progress = "auto",
    **options: Unpack[StartKeywords],
) -> Job[UploadResult]:
    """
    Begin to upload one thing in the background, show it, and return at once.

    It goes on while other cells run.

    Args:
        source: A path, bytes, a binary file object, an async iterator of bytes, a
            DataFrame (parquet or CSV, by its name), a figure or an array.

        destination: URL of where it goes; None, with an `api_key`: the Gemini Files
            API.

        progress: `auto`, `widget`, `html`, `tqdm`, `text`, `static`, or None for
            nothing; the environment variable `UPLOAD_KIT_PROGRESS` is above it.

        options: `name`, `layer`, `parallel`, `chunk_size`, `limit` and so on; see
            `upload_kit.api.keywords`.

    Returns:
        The handle: `await job`, `job.result()`, or `.pause()`, `.resume()`, `.cancel()`
        and so on.

    Raises:
        ConfigurationError: The call cannot work as it is. What goes wrong afterwards
            is shown, and raised by `result` and by awaiting the job.
    """
    job = _prepare(source, destination, options)
    begin_shown(job, progress)
    return job


def upload(
    source: NotebookSource,
    destination: str | None = None,
    *,
    progress: Progress = "auto",
    **options: Unpack[StartKeywords],
) -> UploadResult:
    """
    Upload one thing, show it, wait for the end, and return how it went.

    Args:
        source: As for `start`, and so are the others.

        destination: URL of where it goes.

        progress: How it is shown.

        options: `name`, `layer`, `parallel`, `chunk_size`, `limit` and so on.

    Raises:
        UploadKitError: It failed; the class says how, the message what to do.
        WaitInterrupted: The wait was interrupted; the upload goes on.
    """
    bridge.refuse_here()
    return run_shown(_prepare(source, destination, options), progress)


def _prepare(
    source: NotebookSource, destination: str | None, options: StartKeywords
) -> Job[UploadResult]:
    made, name = to_source(source, options.get("name"))
    if name is not None:
        options["name"] = name
    return prepare(made, destination, **options)


def start_many(
    sources: NotebookSources,
    destination: str | None = None,
    *,
    progress: Progress = "auto",
    **options: Unpack[UploadKeywords],
) -> Job[list[UploadResult]]:
    """
    Begin to upload many things in the background, show them, and return at once.

    Args:
        sources: A folder, a pattern such as `data/**/*.parquet`, a list of those and of
            anything else that can be uploaded, or a dictionary by names.

        destination: URL of where they go.

        progress: How they are shown; see `start`.

        options: `layer`, `parallel`, `chunk_size`, `limit` and so on.

    Raises:
        SourceError: A folder is empty or cannot be read.
        ConfigurationError: The call cannot work as it is; nothing was uploaded.
    """
    job = prepare_many(_to_sources(sources), destination, **options)
    begin_shown(job, progress)
    return job


def upload_many(
    sources: NotebookSources,
    destination: str | None = None,
    *,
    progress: Progress = "auto",
    **options: Unpack[UploadKeywords],
) -> list[UploadResult]:
    """
    Upload many things, show them, and return a result for each, in their order.

    One that fails stops no other: its result has `success` False and says why.

    Args:
        sources: As for `start_many`, and so are the others.

        destination: URL of where they go.

        progress: How they are shown.

        options: `layer`, `parallel`, `chunk_size`, `limit` and so on.

    Raises:
        UploadKitError: As for `start_many`.
        WaitInterrupted: The wait was interrupted; the uploads go on.
    """
    bridge.refuse_here()
    job = prepare_many(_to_sources(sources), destination, **options)
    return run_shown(job, progress)


def resume(
    *session_ids: str,
    destination: str | None = None,
    progress: Progress = "auto",
    **options: Unpack[ConnectionKeywords],
) -> Job[list[UploadResult]]:
    """
    Go on with unfinished uploads in the background, show them, and return at once.

    Args:
        session_ids: Which sessions, or how their IDs begin; none for all that nobody
            works on and nobody cancelled.

        destination: The URL with its secrets, where it had some: sessions keep none.

        progress: How they are shown; see `start`.

        options: `token`, `parallel`, `limit` and so on.

    Raises:
        SessionNotFound: No ID begins so.
        SourceError: A session was not made from a file.
        ConfigurationError: The call cannot work as it is.
    """
    job = prepare_resume(*session_ids, destination=destination, **options)
    if job.files == 0:
        _say_why_nothing(options.get("session_dir"))
        progress = None
    begin_shown(job, progress)
    return job


def _say_why_nothing(session_dir: str | os.PathLike[str] | None) -> None:
    rest = lookup.sessions(session_dir)
    cancelled = [one for one in rest if one.status is UploadStatus.CANCELLED]
    in_use = [one for one in rest if lookup.is_in_use(one)]
    why = "There is nothing to resume"
    if cancelled:
        example = f'upload_kit.resume("{short_id(cancelled[-1].session_id)}")'
        why += f" but what was cancelled ({len(cancelled)}); for example {example}"
    if in_use:
        why += f"; other uploads are under way, here or elsewhere ({len(in_use)})"
    print(f"{why}.")  # noqa: T201 (an answer to whoever asked)


def sessions(session_dir: str | os.PathLike[str] | None = None) -> DataFrame:
    """
    Return every unfinished upload, with how much of it is already there.

    Needs pandas; `upload_kit.api.lookup.sessions` returns records.

    Args:
        session_dir: Where sessions are kept; None for the usual place.

    Returns:
        A row a session, oldest first; `upload_kit.notebook.frames.SESSIONS` has the
        columns and their types.
    """
    return make_frame("sessions_frame", lookup.sessions(session_dir))


def history(
    *,
    since: Moment = None,
    status: UploadStatus | str | None = None,
    layer: Layer | str | None = None,
    destination: str | None = None,
    limit: int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> DataFrame:
    """
    Return every upload that was made here.

    Needs pandas; `upload_kit.api.lookup.history` returns records.

    Args:
        since: Only those that started then or later: seconds since the epoch, a date,
            or how long ago, such as `2d`.

        status: Only those that ended so.

        layer: Only those that this layer made.

        destination: Only those to exactly this URL.

        limit: At most so many, the newest.

        path: The history's file, or the folder given as `session_dir`; None for the
            usual one.

    Returns:
        A row an upload, oldest first; `upload_kit.notebook.frames.HISTORY` has the
        columns and their types.
    """
    columns = lookup.history_columns(
        since=since,
        status=status,
        layer=layer,
        destination=destination,
        limit=limit,
        path=path,
    )
    return make_frame("history_frame", columns)


def _to_sources(sources: NotebookSources) -> SourcesLike:
    """Turn those that a notebook has into bytes, each by the name it is given."""
    if isinstance(sources, Mapping):
        return {name: to_source(source, name)[0] for name, source in sources.items()}
    several = sources if isinstance(sources, list | tuple) else [sources]
    if any(is_object(source) for source in several):
        raise ConfigurationError(
            "Tables, figures and arrays have no names of their own.",
            hint="Hand in a dictionary of names.",
        )
    return sources
