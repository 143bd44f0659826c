"""The feature layer: chunks in parallel, many files, progress streamed live."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Unpack

from upload_kit.batch import run_batch
from upload_kit.config import DEFAULT_PARALLEL
from upload_kit.engine.run import Engine
from upload_kit.errors import ConfigurationError
from upload_kit.models import Layer
from upload_kit.progress.feeds import Feed
from upload_kit.progress.tracker import ProgressTracker
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.options import read_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from upload_kit.config import TransferPolicy
    from upload_kit.events import UploadEvent
    from upload_kit.models import StreamingProgress, UploadProgress, UploadResult
    from upload_kit.sources.factory import SourceLike
    from upload_kit.uploaders.options import FileOptions, UploaderOptions

# Files that are opened and read ahead while as many as allowed are on the wire.
_READ_AHEAD = 2


class ParallelUploader(ChunkedUploader):
    """
    Upload chunks in parallel, and many files at once.

    Args:
        destination: URL of where files go; None, with an `api_key`: the Gemini Files
            API.

        max_parallel: Chunks on the wire at once, over all files; never more.

        options: Those of `ChunkedUploader`.

    Example:
        >>> import asyncio
        >>> uploader = ParallelUploader("memory://docs/", history=False)
        >>> results = asyncio.run(uploader.upload_files({"a": b"1", "b": b"2"}))
        >>> [result.name for result in results]
        ['a', 'b']
    """

    layer: ClassVar[Layer] = Layer.FEATURE

    def __init__(
        self,
        destination: str | None = None,
        *,
        max_parallel: int = DEFAULT_PARALLEL,
        **options: Unpack[UploaderOptions],
    ) -> None:
        self._max_parallel = max_parallel
        super().__init__(destination, **options)
        self.tracker = ProgressTracker()

    def policy(self) -> TransferPolicy:
        """Return how uploads run: `max_parallel` chunks at once."""
        return replace(super().policy(), max_parallel=self._max_parallel)

    def _listeners(self, feed: Feed | None) -> list[Callable[[UploadEvent], None]]:
        return [*super()._listeners(feed), self.tracker.update]

    @property
    def total_progress(self) -> UploadProgress:
        """The sum over every upload of this uploader."""
        return self.tracker.summary()

    async def upload_files(
        self, sources: Iterable[SourceLike] | dict[str, SourceLike]
    ) -> list[UploadResult]:
        """
        Upload many files and return a result for each, in their order.

        A file that fails stops no other: its result has `success` False and says why.
        Cancelling this cancels them all.

        Args:
            sources: Whatever `upload_file` takes; as a dictionary, by the names that
                they get at the destination.

        Raises:
            ConfigurationError: One of them is nothing that can be uploaded; then none
                was. Or it is one source, not many.
        """
        if isinstance(sources, str | bytes | bytearray | os.PathLike):
            raise ConfigurationError(
                "upload_files takes many sources, and got one.",
                hint="Write upload_file(source) or upload_files([source]).",
            )
        pairs = (
            list(sources.items())
            if isinstance(sources, dict)
            else [(None, source) for source in sources]
        )
        prepared = [read_options(source, {"name": name}) for name, source in pairs]
        feed = None if self._on_progress is None else Feed()
        shared = self._resources.acquire()
        listeners = self._listeners(feed)
        policy = self.policy()
        engines = (
            Engine(source, request, policy, shared, listeners=listeners)
            for source, request in prepared
        )
        async with self._around(feed):
            return await run_batch(engines, at_once=policy.max_parallel * _READ_AHEAD)

    async def stream_file(
        self, source: SourceLike, **options: Unpack[FileOptions]
    ) -> AsyncGenerator[StreamingProgress]:
        """
        Upload one file and yield its progress as records; the last one has the result.

        A slow reader misses intermediate byte counts, and never slows the upload. One
        that stops reading early cancels it.

        Args:
            source: As for `upload_file`.

            options: Name, size, content type and metadata; see `FileOptions`.
        """
        transfer = self.start(source, **options)
        try:
            async for event in transfer:
                yield event.to_streaming()
        finally:
            if not transfer.progress.status.is_final:
                transfer.cancel()
            # Limited: clearing up is. Nothing runs on once the stream has ended.
            await asyncio.wait({transfer.task})

    async def upload_file_streaming(
        self, source: SourceLike, **options: Unpack[FileOptions]
    ) -> AsyncGenerator[str]:
        """
        Upload one file and yield its progress as NDJSON.

        Each line is a `StreamingProgress` in JSON and ends with a newline; the last
        one has the result, also when the upload failed.

        Args:
            source: As for `upload_file`.

            options: Name, size, content type and metadata; see `FileOptions`.
        """
        async with aclosing(self.stream_file(source, **options)) as stream:
            async for progress in stream:
                yield progress.to_json() + "\n"

    async def upload_file_sse(
        self, source: SourceLike, **options: Unpack[FileOptions]
    ) -> AsyncGenerator[str]:
        """
        Upload one file and yield its progress as server-sent events.

        Args:
            source: As for `upload_file`.

            options: Name, size, content type and metadata; see `FileOptions`.
        """
        async with aclosing(self.stream_file(source, **options)) as stream:
            async for progress in stream:
                yield f"event: {progress.kind}\ndata: {progress.to_json()}\n\n"
