"""
The port between the engine and every place that files go to.

A destination declares what it is in `planning.Capabilities`; the planner and the engine
read that, and nobody ever asks for its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.reply import Reply
    from upload_kit.destinations.wire import Wire
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, Receipt, RemoteObject, UploadSpec
    from upload_kit.planning import Capabilities, Plan


class RemoteUpload(Protocol):
    """One upload at a destination, from open to complete or abort."""

    @property
    def token(self) -> str:
        """All that is needed to reopen it; opaque, and a capability, so private."""
        ...

    async def held(self) -> Sequence[Receipt]:
        """
        Return a receipt for every whole chunk that the remote has now.

        On resume this is the truth; what a session remembers is not.

        Raises:
            RemoteGone: The upload expired or was removed.
            RemoteUnavailable: Worth another try.
        """
        ...

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """
        Store one chunk and return what the remote says it holds.

        Safe to call again after any failure, and safe to cancel: bytes that the remote
        kept are skipped or overwritten, never doubled.

        Args:
            chunk: Which bytes; `start` and `size` are in bytes of the source.

            body: The bytes; every call streams from the chunk's first byte.

        Returns:
            A receipt whose `size` equals `chunk.size`.

        Raises:
            RemoteUnavailable: Worth another try, after `retry_after` if given.
            OffsetConflict: The remote has another amount; worth another try.
            RemoteGone: The upload expired; open a new one.
            RemoteRejected: It will never take this chunk.
            IntegrityError: The remote's digest differs from ours.
        """
        ...

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """
        Publish the file in one atomic step; safe to call again.

        Args:
            receipts: One for every chunk, in order.

            sha256: Digest of the whole file for the remote to compare, where ours is
                known.

        Raises:
            IntegrityError: The remote's whole file differs; nothing was published.
            RemoteUnavailable: Worth another try.
            RemoteGone: The upload expired before it was complete.
        """
        ...

    async def abort(self) -> None:
        """Throw away what arrived; safe to call again, and when nothing is there."""
        ...


class Destination(Protocol):
    """A place that files go to; made once, used for many uploads at once."""

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """
        Find out what the destination can do for this upload.

        Raises:
            RemoteUnavailable: It could not be reached.
            AuthenticationFailed: It does not know us.
            ConfigurationError: It can never take such an upload.
        """
        ...

    async def open(self, spec: UploadSpec, plan: Plan) -> RemoteUpload:
        """
        Begin an upload.

        Raises:
            RemoteUnavailable: Worth another try.
            RemoteRejected: It will never take this upload.
        """
        ...

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> RemoteUpload:
        """
        Go on with an upload that another process began; `held` says what is there.

        Raises:
            RemoteGone: The token stands for nothing any more.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and files; safe to call again."""
        ...


@runtime_checkable
class Introduced(Protocol):
    """A destination that need not ask what its server has told somebody before."""

    def introduce(self, wire: Wire, reply: Reply) -> None:
        """
        Take what the server answered to OPTIONS, and the connection to it.

        Args:
            wire: Made with the options of this destination, which owns it from now on.

            reply: The answer, a good one or not.

        Raises:
            UploadKitError: What the answer stands for, if it is no good one.
        """
        ...


@runtime_checkable
class Cleanable(Protocol):
    """A destination where what was left half done stays until somebody aborts it."""

    async def clean_up(self, *, older_than: float) -> tuple[str, ...]:
        """
        Abort the uploads that were begun long ago, whoever began them.

        Args:
            older_than: Seconds since one was begun.

        Returns:
            The names of their files.
        """
        ...


class DestinationFactory(Protocol):
    """What the registry holds for a scheme: `module:callable` resolves to one."""

    def __call__(self, location: Location, options: ConnectionOptions) -> Destination:
        """
        Make the destination; no I/O happens yet.

        Raises:
            ConfigurationError: The URL cannot work.
        """
        ...
