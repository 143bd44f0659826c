"""The foundation layer: one chunk after another, checked, retried, reported."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Self, Unpack

from upload_kit.config import (
    DEFAULT_CHUNK_SIZE,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_MEMORY_BUDGET,
    DEFAULT_READ_TIMEOUT,
    DEFAULT_RESPONSE_TIMEOUT,
    ConnectionOptions,
    RetryPolicy,
    Secret,
    TransferPolicy,
)
from upload_kit.engine.run import Engine
from upload_kit.errors import ConfigurationError
from upload_kit.models import Layer
from upload_kit.progress.feeds import Feed
from upload_kit.transfer import Transfer
from upload_kit.uploaders.callbacks import calling
from upload_kit.uploaders.options import read_options
from upload_kit.uploaders.resources import Resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from upload_kit.engine.request import UploadRequest
    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadResult
    from upload_kit.sources.base import Source
    from upload_kit.sources.factory import SourceLike
    from upload_kit.uploaders.callbacks import ProgressCallback
    from upload_kit.uploaders.options import FileOptions

_OF_A_KEY: Final = "gemini://"


class ChunkedUploader:
    """
    Upload files chunk by chunk, strictly one after another.

    Each chunk is digested, sent, acknowledged and, if need be, tried again before the
    next one goes. Connections are opened by the first upload and closed after the last
    one; `async with` keeps them open in between.

    Args:
        destination: URL of where files go, such as `file:///srv/store`,
            `http://host:8000/` or `memory://name/`. A file keeps its name there. None,
            with an `api_key`: the Gemini Files API.

        chunk_size: Bytes a chunk; the destination's limits may change it.

        on_progress: Called with an `UploadProgress` as things happen, never so often
            that it slows the upload. A plain function is called in a thread, a
            coroutine function in the upload's event loop.

        retry: When a chunk is tried again.

        token: Bearer token.

        api_key: The same as `token`, as services call it that give out keys.

        headers: Further request headers, for HTTP destinations.

        overwrite: False refuses when something stands at the destination already.

        whole_digest: Compute the SHA-256 of the whole file, and have the destination
            compare it.

        stall_timeout: Seconds without movement after which a connection is given up.

        connect_timeout: Seconds to find, reach and greet the destination's host.

        response_timeout: Seconds for the destination to answer once it was sent what it
            is to answer to; what grows with the file's size comes on top.

        read_timeout: Seconds for the disk to give the next bytes of a file; streams may
            take as long as their authors do.

        memory_budget: Bytes of chunk buffers, over all uploads of this uploader.

        max_connections: Open connections at most.

        history: Whether, or in which file, a row is kept of every upload.

    Raises:
        ConfigurationError: The URL or a number cannot work.

    Example:
        >>> import asyncio
        >>> uploader = ChunkedUploader("memory://docs/", history=False)
        >>> result = asyncio.run(uploader.upload_file(b"hello", name="hello.txt"))
        >>> result.success, result.size
        (True, 5)
    """

    layer: ClassVar[Layer] = Layer.FOUNDATION
    """Which layer this is, in events and in the history."""

    def __init__(
        self,
        destination: str | None = None,
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        on_progress: ProgressCallback | None = None,
        retry: RetryPolicy | None = None,
        token: str | Secret | None = None,
        api_key: str | Secret | None = None,
        headers: Mapping[str, str] | None = None,
        overwrite: bool = True,
        whole_digest: bool = False,
        stall_timeout: float = 30.0,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
        response_timeout: float = DEFAULT_RESPONSE_TIMEOUT,
        read_timeout: float = DEFAULT_READ_TIMEOUT,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
        max_connections: int = 100,
        history: bool | str | Path = True,
    ) -> None:
        self._policy = TransferPolicy(
            layer=self.layer,
            chunk_size=chunk_size,
            retry=retry or RetryPolicy(),
            whole_digest=whole_digest,
            overwrite=overwrite,
            stall_timeout=stall_timeout,
            response_timeout=response_timeout,
            read_timeout=read_timeout,
            memory_budget=memory_budget,
        )
        self._on_progress = on_progress
        self._resources = Resources(
            _destination(destination, api_key),
            ConnectionOptions(
                token=_credential(token, api_key),
                headers=tuple(
                    (name, Secret(value)) for name, value in (headers or {}).items()
                ),
                max_connections=max_connections,
                connect_timeout=connect_timeout,
                response_timeout=response_timeout,
            ),
            self.policy,
            history=history,
        )
        self._running: set[Transfer] = set()

    def policy(self) -> TransferPolicy:
        """Return how uploads run; a layer refines what the layer below returns."""
        return self._policy

    def start(self, source: SourceLike, **options: Unpack[FileOptions]) -> Transfer:
        """
        Begin an upload in the running event loop, and return its handle at once.

        Args:
            source: A path, bytes, a binary file object or an async iterator of bytes.

            options: Name, size, content type and metadata; see `FileOptions`.

        Raises:
            ConfigurationError: It is nothing that can be uploaded.
        """
        source_, request = read_options(source, options)
        return self._begin(source_, request)

    async def upload_file(
        self, source: SourceLike, **options: Unpack[FileOptions]
    ) -> UploadResult:
        """
        Upload one file and return how it went.

        Cancelling this cancels the upload.

        Args:
            source: A path, bytes, a binary file object or an async iterator of bytes.

            options: Name, size, content type and metadata; see `FileOptions`.

        Raises:
            UploadKitError: It failed; the class says how, the message what to do.
        """
        return await self._finish(self.start(source, **options))

    def _begin(self, source: Source, request: UploadRequest) -> Transfer:
        """Start an upload; it gives back what it shares with others when it ends."""
        shared = self._resources.acquire()
        feed = None if self._on_progress is None else Feed()
        engine = Engine(
            source,
            request,
            self.policy(),
            shared,
            listeners=self._listeners(feed),
        )
        transfer = Transfer(engine, self._around(feed))
        self._running.add(transfer)
        transfer.task.add_done_callback(lambda _: self._running.discard(transfer))
        return transfer

    def _listeners(self, feed: Feed | None) -> list[Callable[[UploadEvent], None]]:
        """Return who hears of every event; a layer adds to it."""
        return [] if feed is None else [feed.put]

    @asynccontextmanager
    async def _around(self, feed: Feed | None) -> AsyncIterator[None]:
        """Report progress while an upload runs, then let go of what it shares."""
        try:
            async with calling(self._on_progress, feed):
                yield
        finally:
            await self._resources.release()

    async def _finish(self, transfer: Transfer) -> UploadResult:
        """Await an upload that belongs to whoever awaits it."""
        try:
            return await transfer
        except asyncio.CancelledError:
            transfer.cancel()
            # Limited: clearing up after a cancelled upload is.
            await asyncio.wait({transfer.task})
            raise

    async def __aenter__(self) -> Self:
        """Keep connections open until the context ends."""
        self._resources.acquire()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the uploads under way, or cancel them after an error; close."""
        running = set(self._running)
        if exception is not None:
            for transfer in running:
                transfer.cancel()
        if running:
            await asyncio.wait({transfer.task for transfer in running})
        await self._resources.release()


def _destination(destination: str | None, api_key: str | Secret | None) -> str:
    """Return where files go: a key alone stands for the service that gave it out."""
    if destination is not None:
        return destination
    if api_key is None:
        raise ConfigurationError(
            "There is no destination.",
            hint="Give a URL such as file:///srv/store, or api_key=... for Gemini.",
        )
    return _OF_A_KEY


def _credential(
    token: str | Secret | None, api_key: str | Secret | None
) -> Secret | None:
    if token is not None and api_key is not None:
        raise ConfigurationError("Give a token or an api_key, not both.")
    credential = token if api_key is None else api_key
    return Secret(credential) if isinstance(credential, str) else credential
