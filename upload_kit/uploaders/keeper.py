"""Which session an upload goes on with: the named one, one that fits, a new one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from upload_kit.errors import ConfigurationError, SourceChanged, UploadKitError
from upload_kit.models import UploadStatus
from upload_kit.sessions.base import can_go_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from upload_kit.models import UploadSession, UploadSpec
    from upload_kit.planning import Plan
    from upload_kit.sessions.base import Checkpoint
    from upload_kit.sessions.manager import SessionManager
    from upload_kit.sources.base import Source


class Keeper:
    """
    Finds or makes the sessions of one uploader; the engine's `SessionKeeper`.

    Args:
        manager: Keeps the sessions; closed with this.

        destination: URL of the destination, without secrets.
    """

    def __init__(self, manager: SessionManager, destination: str) -> None:
        self.manager = manager
        self._destination = destination

    @asynccontextmanager
    async def hold(
        self,
        spec: UploadSpec,
        plan: Plan,
        source: Source,
        *,
        session_id: str | None = None,
    ) -> AsyncIterator[Checkpoint]:
        """Hold the session of an upload; see `SessionKeeper.hold`."""
        made = None
        if session_id is not None:
            session = await self.manager.get(session_id)
            self._require_same(session, source)
        elif (found := await self._find(source)) is not None:
            session = found
        else:
            session = made = await self.make(spec, plan, source)
        lease = None
        try:
            async with self.manager.lease(session.session_id) as lease:
                yield lease
                lease.finish(UploadStatus.COMPLETE)
        except UploadKitError as error:
            if made and lease and not can_go_on(lease.session, error):
                await self.manager.delete(made.session_id)
            raise

    async def _find(self, source: Source) -> UploadSession | None:
        if source.path is None or source.identity is None:
            return None
        return await self.manager.find(
            source=source.path,
            name=source.name,
            destination=self._destination,
            identity=source.identity,
        )

    async def make(self, spec: UploadSpec, plan: Plan, source: Source) -> UploadSession:
        """Make a session for an opened source."""
        return await self.manager.create(
            spec,
            source=source.path,
            destination=self._destination,
            chunk_size=plan.chunk_size,
            total_chunks=plan.total_chunks,
            identity=source.identity,
        )

    def _require_same(self, session: UploadSession, source: Source) -> None:
        if session.destination != self._destination:
            raise ConfigurationError(
                f"Session {session.session_id} uploads to {session.destination}, not to"
                f" {self._destination}."
            )
        if session.size != source.size or session.identity != source.identity:
            raise SourceChanged(
                f"{source.name} is not what it was when session {session.session_id}"
                f" was made: it had {session.size} bytes, now {source.size}.",
                hint="Upload it anew.",
                session_id=session.session_id,
            )

    async def aclose(self) -> None:
        """Close the store."""
        await self.manager.aclose()
