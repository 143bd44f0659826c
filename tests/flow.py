"""A flow that admits everything and counts, and bodies that use it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from upload_kit.bodies import MAX_PIECE, BufferedBody
from upload_kit.models import ChunkMetadata

if TYPE_CHECKING:
    from upload_kit.planning import Plan


class CountingFlow:
    """
    What a body asks for leave, and tells what went.

    Args:
        piece_size: Bytes of a piece.
    """

    def __init__(self, piece_size: int = MAX_PIECE) -> None:
        self.piece_size = piece_size
        self.admitted = 0
        self.wire = 0
        self.source = 0
        self.restarts = 0
        self.alive_calls = 0
        self.holds = 0

    async def admit(self, size: int) -> None:
        self.admitted += size

    def handed(self, wire: int, source: int) -> None:
        self.wire += wire
        self.source += source

    def restart(self, wire: int, source: int) -> None:
        self.wire, self.source = wire, source
        self.restarts += 1

    def alive(self) -> None:
        self.alive_calls += 1

    def hold(self) -> None:
        self.holds += 1


def chunk_of(data: bytes, plan: Plan, index: int) -> ChunkMetadata:
    """Return a chunk of the data, with its digest."""
    chunk = plan.chunk(index)
    part = data[chunk.start : chunk.end]
    return ChunkMetadata(
        index=index,
        start=chunk.start,
        size=len(part),
        sha256=hashlib.sha256(part).hexdigest(),
    )


def body_of(
    data: bytes, chunk: ChunkMetadata, flow: CountingFlow | None = None
) -> BufferedBody:
    """Return a chunk's bytes, ready to go."""
    view = memoryview(data)[chunk.start : chunk.end]
    return BufferedBody(chunk, view, flow or CountingFlow())
