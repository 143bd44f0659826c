"""The polish layer: sessions that survive the process, limits, compression, proof."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self, Unpack

from upload_kit.config import (
    DEFAULT_CLEANUP_INTERVAL,
    DEFAULT_PARALLEL,
    DEFAULT_SESSION_TTL,
    Compression,
)
from upload_kit.engine.request import describe
from upload_kit.errors import ConfigurationError, SourceError, UploadKitError
from upload_kit.models import Layer, UploadSpec
from upload_kit.planning import Plan, plan_chunks
from upload_kit.sessions.manager import (
    SessionManager,
    default_session_dir,
    open_store,
)
from upload_kit.throttle import BandwidthThrottle
from upload_kit.uploaders.keeper import Keeper
from upload_kit.uploaders.options import read_options
from upload_kit.uploaders.parallel import ParallelUploader

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator
    from types import TracebackType

    from upload_kit.config import TransferPolicy
    from upload_kit.models import UploadResult, UploadSession
    from upload_kit.sessions.manager import CleanupReport
    from upload_kit.sources.factory import SourceLike
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.options import FileOptions, UploaderOptions


class ResumableUploader(ParallelUploader):
    """
    Upload so that nothing that arrived is ever sent twice, whatever breaks.

    Uploading the same file to the same destination again goes on with its session. The
    SHA-256 of the whole file is compared end to end.

    Args:
        destination: URL of where files go; None, with an `api_key`: the Gemini Files
            API.

        session_dir: Where sessions are kept: a folder, which then has the history too,
            a file that ends in `.db`, or `memory:`; by default the user's state folder.

        session_ttl: Seconds until a session expires that nobody goes on with; None for
            never.

        keep_sessions: Make a session of every file, also of a small one, and keep those
            of completed uploads until they expire or are removed. So whoever is killed
            learns afterwards what had arrived.

        cleanup_interval: Seconds between two removals of expired sessions, while the
            uploader is used as a context.

        bandwidth_limit: Bytes a second over all uploads; None for no limit.

        throttle: A limit shared with other uploaders, in place of `bandwidth_limit`.

        compression: `off`, `auto` (where it pays), `gzip` or `zstd`.

        max_parallel: Chunks on the wire at once, over all files; never more.

        options: Those of `ChunkedUploader`.

    Example:
        >>> import asyncio
        >>> uploader = ResumableUploader(
        ...     "memory://docs/", session_dir="memory:", history=False
        ... )
        >>> asyncio.run(uploader.upload_file(b"hello")).verified.value
        'sha256'
    """

    layer: ClassVar[Layer] = Layer.POLISH

    def __init__(
        self,
        destination: str | None = None,
        *,
        session_dir: str | os.PathLike[str] | None = None,
        session_ttl: float | None = DEFAULT_SESSION_TTL,
        keep_sessions: bool = False,
        cleanup_interval: float = DEFAULT_CLEANUP_INTERVAL,
        bandwidth_limit: float | None = None,
        throttle: BandwidthThrottle | None = None,
        compression: Compression | str = Compression.AUTO,
        max_parallel: int = DEFAULT_PARALLEL,
        **options: Unpack[UploaderOptions],
    ) -> None:
        self._compression = _compression(compression)
        self._keep_sessions = keep_sessions
        super().__init__(destination, max_parallel=max_parallel, **options)
        self._resources.session_dir = session_dir
        self._session_ttl = session_ttl
        self._cleanup_interval = cleanup_interval
        self._cleaner: asyncio.Task[None] | None = None
        self._resources.throttle = throttle or BandwidthThrottle(bandwidth_limit)
        self._resources.make_keeper = self._make_keeper

    def policy(self) -> TransferPolicy:
        """Return how uploads run: verified as a whole, compressed where it pays."""
        return replace(
            super().policy(),
            whole_digest=True,
            compression=self._compression,
            always_session=self._keep_sessions,
        )

    def _make_keeper(self, destination: str) -> Keeper:
        place = self._resources.session_dir or default_session_dir() / "sessions"
        manager = SessionManager(
            open_store(place),
            ttl=self._session_ttl,
            keep_completed=self._keep_sessions,
        )
        return Keeper(manager, destination)

    @property
    def bandwidth_limit(self) -> float | None:
        """Bytes a second; may be changed while uploads run."""
        return self._throttle.rate

    @bandwidth_limit.setter
    def bandwidth_limit(self, rate: float | None) -> None:
        self._throttle.rate = rate

    @property
    def _throttle(self) -> BandwidthThrottle:
        assert self._resources.throttle is not None
        return self._resources.throttle

    async def create_session(
        self, source: SourceLike, **options: Unpack[FileOptions]
    ) -> UploadSession:
        """
        Make a session for a file, before a byte of it is sent.

        Args:
            source: A path or bytes; what can be read only once cannot be resumed.

            options: Name, size, content type and metadata; see `FileOptions`.

        Raises:
            SourceError: It cannot be read, or only once.
            RemoteError: The destination cannot be asked what it takes.
        """
        opened, request = read_options(source, options)
        async with self._session_keeper() as keeper:
            await opened.open(self.policy().read_timeout)
            try:
                if not opened.rereadable:
                    raise SourceError(
                        f"{opened.name} can be read only once, so it has no session.",
                        hint="Write it to a file first.",
                    )
                policy = self.policy()
                spec = await describe(opened, request, policy)
                destination = self._resources.destination
                capabilities = await destination.negotiate(spec)
                plan = plan_chunks(spec.size, policy.chunk_size, capabilities)
                return await keeper.make(spec, plan, opened)
            finally:
                await opened.aclose()

    def start_resumable(
        self, source: SourceLike, session_id: str, **options: Unpack[FileOptions]
    ) -> Transfer:
        """
        Go on with a session in the running event loop, and return its handle at once.

        Args:
            source: What the session was made for.

            session_id: Which session.

            options: Name and so on, where the source cannot tell; see `FileOptions`.
        """
        return self._begin(*read_options(source, options, session_id=session_id))

    async def upload_file_resumable(
        self, source: SourceLike, session_id: str, **options: Unpack[FileOptions]
    ) -> UploadResult:
        """
        Go on with a session from the last completed chunk, and return how it went.

        Args:
            source: What the session was made for.

            session_id: Which session.

            options: Name and so on, where the source cannot tell; see `FileOptions`.

        Raises:
            SessionNotFound: It was completed, removed, or never made.
            SessionExpired: It was not continued in time.
            SessionConflict: Another process works on it.
            SourceChanged: The source is not the one that the session was made for.
            UploadKitError: The upload failed; the session is kept.
        """
        return await self._finish(self.start_resumable(source, session_id, **options))

    async def resume(self, session_id: str) -> UploadResult:
        """
        Go on with a session whose source is a file, from the last completed chunk.

        Raises:
            SourceError: The session does not say which file.
            UploadKitError: As for `upload_file_resumable`.
        """
        async with self._session_keeper() as keeper:
            session = await keeper.manager.get(session_id)
        if session.source is None:
            raise SourceError(
                f"Session {session_id} was not made from a file.",
                hint="Call upload_file_resumable with the same data.",
                session_id=session_id,
            )
        return await self.upload_file_resumable(
            session.source,
            session_id,
            name=session.name,
            content_type=session.content_type,
            metadata=session.metadata,
        )

    async def sessions(self) -> list[UploadSession]:
        """
        Return every unfinished session, oldest first, for whatever destination.

        With `keep_sessions` those of complete uploads too: each tells what arrived.
        """
        async with self._session_keeper() as keeper:
            if self._keep_sessions:
                return list(await keeper.manager.list())
            return list(await keeper.manager.unfinished())

    async def cleanup(self) -> CleanupReport:
        """Remove expired sessions, and what this destination still holds of them."""
        async with self._session_keeper() as keeper:
            return await keeper.manager.cleanup(on_expired=self._throw_away)

    async def _throw_away(self, session: UploadSession) -> None:
        """Abort the remote side of an expired session, if it is at our destination."""
        if session.remote_token is None or session.destination != self._resources.shown:
            return
        spec = UploadSpec(name=session.name, size=session.size)
        plan = Plan(size=session.size, chunk_size=session.chunk_size)
        with contextlib.suppress(UploadKitError):
            remote = await self._resources.destination.reopen(
                spec, plan, session.remote_token
            )
            await remote.abort()

    @contextlib.asynccontextmanager
    async def _session_keeper(self) -> AsyncIterator[Keeper]:
        self._resources.acquire()
        try:
            yield self._resources.keeper
        finally:
            await self._resources.release()

    async def __aenter__(self) -> Self:
        """Keep connections open, and clean up at intervals, until the context ends."""
        await super().__aenter__()
        self._cleaner = asyncio.create_task(
            self._resources.keeper.manager.run_cleanup(
                self._cleanup_interval, on_expired=self._throw_away
            )
        )
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop cleaning up; wait for the uploads under way, or cancel them; close."""
        if self._cleaner is not None:
            self._cleaner.cancel()
            await asyncio.wait({self._cleaner})
            self._cleaner = None
        await super().__aexit__(exception_type, exception, traceback)


def _compression(wanted: Compression | str) -> Compression:
    try:
        return Compression(wanted)
    except ValueError as error:
        raise ConfigurationError(
            f"Unknown compression {wanted!r}.",
            hint=f"Known are {', '.join(Compression)}.",
        ) from error
