"""
Answers over HTTP, read whole, and what their statuses mean.

What a status means is decided here for everybody; an adapter that knows better looks at
`Reply.status` first.
"""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from upload_kit.errors import (
    AuthenticationFailed,
    IntegrityError,
    RemoteError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    UploadKitError,
)
from upload_kit.locations import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import CIMultiDictProxy

T = TypeVar("T")

# What comes of a body that is no JSON, that nests too deep, or whose text is no UTF-8.
_NO_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeError)
# Characters of what another side said that are shown in a message.
_EXCERPT: Final = 200

_RETRYABLE: Final = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 507, 509})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, read whole."""

    method: str
    raw_url: str = field(repr=False)
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def url(self) -> str:
        """Where it came from, without secrets."""
        return redact(self.raw_url)

    def json(self) -> Any:
        """
        Return the body as JSON.

        Raises:
            RemoteRejected: It is no JSON, so this is not the server we took it for.
        """
        try:
            return msgspec.json.decode(self.body)
        except _NO_JSON as error:
            raise RemoteRejected(
                f"{self.method} {self.url} did not answer with JSON.",
                status=self.status,
                hint="Check that the URL is that of an upload server.",
            ) from error

    def read_as(self, record: type[T]) -> T:
        """
        Return the body as a record.

        Raises:
            RemoteRejected: It is none, so this is not the server we took it for.
        """
        try:
            return msgspec.json.decode(self.body, type=record)
        except (*_NO_JSON, UploadKitError) as error:
            raise RemoteRejected(
                f"{self.method} {self.url} did not answer as it should: {error}.",
                status=self.status,
                hint="Check that the URL is that of an upload server.",
            ) from error

    @property
    def problem(self) -> Mapping[str, Any]:
        """The problem details (RFC 9457), or nothing."""
        if "json" not in self.headers.get("Content-Type", ""):
            return {}
        try:
            problem = msgspec.json.decode(self.body)
        except _NO_JSON:
            return {}
        return problem if isinstance(problem, dict) else {}

    def error(self) -> RemoteError | IntegrityError:
        """Return the error that this status stands for."""
        problem = self.problem
        detail = problem.get("detail") or problem.get("title")
        text = str(detail) if detail else self.body[:_EXCERPT].decode(errors="replace")
        said = self._moved or excerpt(text) or "(no explanation)"
        message = f"{self.method} {self.url} answered {self.status}: {said}"
        if not message.endswith("."):
            message += "."
        hint = excerpt(str(problem.get("next_step") or "")) or None
        if self._moved:
            hint = "Give that URL: redirects are not followed, or tokens would be too."
        if self.status == 422:
            return IntegrityError(message, hint=hint)
        return _class_for(self.status)(
            message, status=self.status, retry_after=self.retry_after, hint=hint
        )

    @property
    def is_redirect(self) -> bool:
        """Whether it says where to ask instead."""
        return self.status in _REDIRECTS and "Location" in self.headers

    @property
    def _moved(self) -> str:
        if not self.is_redirect:
            return ""
        return f"it has moved to {redact(excerpt(self.headers['Location']))}"

    @property
    def retry_after(self) -> float | None:
        """Seconds that the other side asks us to wait."""
        value = self.headers.get("Retry-After", "").strip()
        if not value:
            return None
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            moment = email.utils.parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        return max(0.0, moment - time.time())


def _class_for(status: int) -> type[RemoteError]:
    if status in {401, 403, 407}:
        return AuthenticationFailed
    if status in {404, 410}:
        return RemoteGone
    if status in _RETRYABLE:
        return RemoteUnavailable
    return RemoteRejected


def excerpt(text: str) -> str:
    """Return the start of what another side said, as one line that can be shown."""
    shown = "".join(c if c.isprintable() else " " for c in text[:_EXCERPT])
    return " ".join(shown.split())
