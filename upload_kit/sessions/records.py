"""What every session store does alike, without I/O: IDs, filters, versions, JSON."""

from __future__ import annotations

import json
import logging
import re
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from upload_kit.errors import (
    ConfigurationError,
    SessionConflict,
    SessionCorrupt,
    SessionError,
    SessionNotFound,
)
from upload_kit.models import UploadSession

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Mapping,
    )

logger = logging.getLogger("upload_kit.sessions")

_ID: Final = re.compile(r"[0-9a-f]{32}")
_FILTERS: Final = frozenset(
    {
        "session_id",
        "name",
        "source",
        "destination",
        "content_type",
        "status",
        "lease_owner",
        "error",
    }
)


def new_session_id() -> str:
    """Return 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def is_session_id(text: str) -> bool:
    """Return whether this is the form of a session ID: 32 lower-case hex digits."""
    return _ID.fullmatch(text) is not None


def check_id(session_id: str) -> str:
    """
    Return the ID, once it is safe to be a part of a path.

    Raises:
        ConfigurationError: It is no session ID.
    """
    if not is_session_id(session_id):
        raise ConfigurationError(
            f"Not a session ID: {session_id[:80]!r}.",
            hint="It has 32 lower-case hexadecimal digits.",
        )
    return session_id


def check_filters(where: Mapping[str, str]) -> None:
    """
    Make sure that only text fields of a session are asked for.

    Raises:
        ConfigurationError: There is no such field.
    """
    unknown = where.keys() - _FILTERS
    if unknown:
        raise ConfigurationError(
            f"Sessions cannot be filtered by {', '.join(sorted(unknown))}.",
            hint=f"Possible are {', '.join(sorted(_FILTERS))}.",
        )


def matches(session: UploadSession, where: Mapping[str, str]) -> bool:
    """Return whether every named field has the value that is asked for."""
    return all(getattr(session, field) == value for field, value in where.items())


def next_version(session_id: str, stored: int | None, expected: int | None) -> int:
    """
    Return the version to write, if the stored one is the one that was read.

    Raises:
        SessionConflict: Somebody else changed, made or removed the session.
    """
    if stored == expected:
        return (stored or 0) + 1
    if stored is None:
        what = "was removed meanwhile"
    elif expected is None:
        what = "exists already"
    else:
        what = f"was changed meanwhile (version {stored}, expected {expected})"
    raise SessionConflict(f"Session {session_id} {what}.", session_id=session_id)


def check_fence(session_id: str, stored: int | None, fence: int) -> None:
    """
    Make sure that nobody took the session over.

    Args:
        session_id: Which session.

        stored: The fence of the youngest lease; None if there is no such session.

        fence: The fence of the lease that the caller holds.

    Raises:
        SessionConflict: A younger lease exists.
        SessionNotFound: There is no such session.
    """
    if stored is None:
        raise SessionNotFound(
            f"There is no session {session_id}.", session_id=session_id
        )
    if fence < stored:
        raise SessionConflict(
            f"Another process took session {session_id} over "
            f"(lease {stored}; this one is {fence}).",
            session_id=session_id,
        )


def encode_session(session: UploadSession) -> str:
    """
    Return a session as JSON in plain ASCII.

    The standard library writes it, because a path may hold lone surrogates (bytes of a
    file name that are no UTF-8), which msgspec refuses.
    """
    return json.dumps(msgspec.to_builtins(session), separators=(",", ":"))


def decode_session(plain: object) -> UploadSession:
    """
    Build a session from plain JSON types, checking every field.

    Raises:
        ValueError: It is no session.
    """
    try:
        return msgspec.convert(plain, UploadSession)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def warn(error: SessionError) -> None:
    """Report what was passed over by a scan that nobody else listens to."""
    logger.warning("%s", error)


async def scan_heads(
    heads: Iterable[UploadSession],
    where: Mapping[str, str],
    get: Callable[[str], Awaitable[UploadSession | None]],
    report: Callable[[SessionError], None],
) -> AsyncIterator[UploadSession]:
    """Yield the sessions that match, oldest first, each read when its turn comes."""
    for head in sorted(heads, key=lambda head: (head.created_at, head.session_id)):
        if not matches(head, where):
            continue
        try:
            session = await get(head.session_id)
        except SessionCorrupt as error:
            report(error)
            continue
        if session is not None and matches(session, where):
            yield session
