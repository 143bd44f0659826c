"""Digests of bytes that are written at the same time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from upload_kit.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

# Bytes that are hashed about as soon as handed to another thread.
_SMALL: Final = 256 * KIB


class Digest(Protocol):
    """What follows bytes, such as an object of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


@contextmanager
def hashed_beside(
    pool: Executor, digest: Digest, pieces: Sequence[bytes]
) -> Iterator[None]:
    """
    Have another thread hash pieces while this one does something else with them.

    When the context ends, they are hashed: by this thread if no other had the time for
    it. So calls in threads of the pool itself never wait for one another.

    Args:
        pool: Has the other thread.

        digest: What to add the pieces to.

        pieces: Bytes; few of them are hashed before the context begins.
    """
    if sum(map(len, pieces)) <= _SMALL:
        _update(digest, pieces)
        yield
        return
    hashing = pool.submit(_update, digest, pieces)
    try:
        yield
    finally:
        if hashing.cancel():
            _update(digest, pieces)
        else:
            hashing.result()


def _update(digest: Digest, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)
