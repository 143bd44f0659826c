"""
Faults for destinations that no link leads to: folders, memory, whatever has a URL.

`faulty+file:///folder?plan=KEY` is `file:///folder` behind a layer in which calls fail
as requests over a bad link do: before anything happened, in the middle of a body, after
everything did, or with a byte turned over.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from upload_kit.bench.faults import Direction, Fault, FaultKind, FaultPlan
from upload_kit.destinations.registry import make_destination, register
from upload_kit.errors import ConfigurationError, RemoteUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.base import Destination, RemoteUpload
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, Receipt, RemoteObject, UploadSpec
    from upload_kit.planning import Capabilities, Plan

_T = TypeVar("_T")

_PREFIX: Final = "faulty+"
# What strikes before anything else does, and leaves nothing done.
_BEFORE: Final = frozenset({FaultKind.REFUSE, FaultKind.BUSY})
# What strikes in the middle of a body.
_MIDWAY: Final = frozenset({FaultKind.CUT, FaultKind.RESET})


class FaultyLayer:
    """
    Decides which call suffers what; made by `faulty`.

    Args:
        plan: Its connections are calls here.
    """

    def __init__(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._numbers = itertools.count()
        self.faults = 0

    def next_call(self) -> Fault | None:
        """Return what the next call suffers."""
        faults = self._plan.for_connection(next(self._numbers))
        return faults[0] if faults else None

    async def strike(self, fault: Fault) -> None:
        """
        Let a fault happen: fail, or stall for its time.

        Raises:
            RemoteUnavailable: Unless it is a stall.
        """
        self.faults += 1
        if fault.kind is not FaultKind.STALL:
            raise RemoteUnavailable(
                f"A fault of the kind {fault.kind} struck.",
                status=fault.status if fault.kind is FaultKind.BUSY else None,
                retry_after=fault.retry_after,
            )
        if fault.seconds is None:
            # For ever: whoever calls has a limit, and this is there to see that.
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.sleep(fault.seconds)


_LAYERS: Final[dict[str, FaultyLayer]] = {}
_KEYS: Final = itertools.count()


@contextmanager
def faulty(url: str, plan: FaultPlan) -> Iterator[tuple[str, FaultyLayer]]:
    """
    Put a layer of faults before a destination, as long as the context lasts.

    Args:
        url: Of the destination; without a query.

        plan: Which calls suffer what.

    Returns:
        The URL of the destination behind the faults, and the layer.
    """
    scheme = url.partition("://")[0]
    register(_PREFIX + scheme, f"{__name__}:FaultyDestination")
    key, layer = str(next(_KEYS)), FaultyLayer(plan)
    _LAYERS[key] = layer
    try:
        yield f"{_PREFIX}{url}?plan={key}", layer
    finally:
        del _LAYERS[key]


class FaultyDestination:
    """A destination behind a layer of faults."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        url, _, key = location.url.reveal().partition("?plan=")
        try:
            self._layer = _LAYERS[key]
        except KeyError:
            raise ConfigurationError(f"There is no plan of faults {key!r}.") from None
        self._inner: Destination = make_destination(url.removeprefix(_PREFIX), options)
        self._limit = options.response_timeout

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Ask; see `Destination.negotiate`."""
        return await self._call(lambda: self._inner.negotiate(spec))

    async def open(self, spec: UploadSpec, plan: Plan) -> RemoteUpload:
        """Begin an upload; see `Destination.open`."""
        remote = await self._call(lambda: self._inner.open(spec, plan))
        return FaultyUpload(remote, self._layer, self._limit)

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> RemoteUpload:
        """Go on with an upload; see `Destination.reopen`."""
        remote = await self._call(lambda: self._inner.reopen(spec, plan, token))
        return FaultyUpload(remote, self._layer, self._limit)

    async def _call(self, call: Callable[[], Awaitable[_T]]) -> _T:
        return await _suffer(self._layer, self._layer.next_call(), call, self._limit)

    async def aclose(self) -> None:
        """Let go; see `Destination.aclose`."""
        await self._inner.aclose()


class FaultyUpload:
    """One upload behind a layer of faults."""

    def __init__(self, inner: RemoteUpload, layer: FaultyLayer, limit: float) -> None:
        self._inner = inner
        self._layer = layer
        self._limit = limit

    @property
    def token(self) -> str:
        """The token of the upload itself."""
        return self._inner.token

    async def held(self) -> Sequence[Receipt]:
        """Ask what is there; see `RemoteUpload.held`."""
        return await self._call(self._inner.held)

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Store a chunk; see `RemoteUpload.put`."""
        fault = self._layer.next_call()
        if fault is None or fault.direction is Direction.DOWN or not _is_midway(fault):
            return await _suffer(
                self._layer, fault, lambda: self._inner.put(chunk, body), None
            )
        return await self._inner.put(chunk, FaultyBody(body, fault, self._layer))

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Publish the file; see `RemoteUpload.complete`."""
        return await self._call(lambda: self._inner.complete(receipts, sha256=sha256))

    async def abort(self) -> None:
        """Throw away what arrived; see `RemoteUpload.abort`."""
        await self._call(self._inner.abort)

    async def _call(self, call: Callable[[], Awaitable[_T]]) -> _T:
        return await _suffer(self._layer, self._layer.next_call(), call, self._limit)


def _is_midway(fault: Fault) -> bool:
    return fault.kind in _MIDWAY | {FaultKind.STALL, FaultKind.CORRUPT}


async def _suffer(
    layer: FaultyLayer,
    fault: Fault | None,
    call: Callable[[], Awaitable[_T]],
    limit: float | None,
) -> _T:
    """
    Make a call that fails before it is made, or after, or not at all.

    Whoever puts a chunk has a limit of its own; all other calls have to end by
    themselves, so a stall without an end ends after `limit` seconds.
    """
    try:
        async with asyncio.timeout(limit):
            return await _fail_or_call(layer, fault, call)
    except TimeoutError as error:
        raise RemoteUnavailable("There was no answer in time.") from error


async def _fail_or_call(
    layer: FaultyLayer, fault: Fault | None, call: Callable[[], Awaitable[_T]]
) -> _T:
    # Nothing is corrupted here but the bytes of a body.
    if fault is None or fault.kind is FaultKind.CORRUPT:
        return await call()
    if fault.kind in _BEFORE or (
        fault.kind is not FaultKind.LOSE_REPLY and fault.direction is Direction.UP
    ):
        await layer.strike(fault)
        return await call()
    result = await call()
    await layer.strike(fault)
    return result


class FaultyBody:
    """
    A chunk's bytes that break off, stall or arrive wrong where the fault says.

    A fault that lies behind the last byte does not strike.
    """

    def __init__(self, inner: ChunkBody, fault: Fault, layer: FaultyLayer) -> None:
        self._inner = inner
        self._fault = fault
        self._layer = layer
        self._has_struck = False

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return self._inner.size

    @property
    def encoding(self) -> str | None:
        """Content coding on the wire."""
        return self._inner.encoding

    async def stream(self, skip: int = 0) -> AsyncIterator[memoryview]:
        """Yield the bytes until the fault strikes; see `ChunkBody.stream`."""
        position = skip
        async for piece in self._inner.stream(skip):
            place = self._fault.after - position
            position += len(piece)
            if self._has_struck or not 0 <= place < len(piece):
                yield piece
                continue
            self._has_struck = True
            if place:
                yield piece[:place]
            yield await self._strike(piece[place:])

    async def _strike(self, rest: memoryview) -> memoryview:
        """Return the rest of the piece as it arrives."""
        if self._fault.kind is not FaultKind.CORRUPT:
            await self._layer.strike(self._fault)
            return rest
        self._layer.faults += 1
        return memoryview(bytes([rest[0] ^ 0x10]) + bytes(rest[1:]))

    async def read(self) -> memoryview:
        """Return all of the bytes, as they arrive."""
        whole = bytearray()
        async for piece in self.stream():
            whole += piece
        return memoryview(whole)

    def hold(self) -> None:
        """Wait without a limit; see `ChunkBody.hold`."""
        self._inner.hold()

    async def digest(self, algorithm: str, skip: int = 0) -> bytes:
        """Return the digest of the chunk as it is at its source."""
        return await self._inner.digest(algorithm, skip)
