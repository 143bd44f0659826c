"""Bearer tokens: who somebody is, kept as digests only."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

from upload_kit.config import Secret
from upload_kit.errors import ConfigurationError
from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_DIGEST: Final = re.compile(r"sha256=([0-9a-f]{64})", re.ASCII)

ANYBODY: Final = "anybody"
"""Who everybody is on a server without tokens."""


class Tokens:
    """
    The tokens that a server knows, and whose they are.

    Args:
        tokens: Each `name:token`, or a bare token; a token may be given as the digest
            of it, `sha256=` and hexadecimal digits, so that nobody learns it here.

        file: Further ones, one a line; blank lines and those that begin with `#` do not
            count.

    Raises:
        ConfigurationError: The file cannot be read, or holds no token.
    """

    def __init__(self, tokens: Iterable[Secret], file: Path | None = None) -> None:
        self._fixed = [_entry(token.reveal()) for token in tokens]
        self._file = file
        self._owners: list[tuple[bytes, str]] = []
        self.reload()

    @property
    def is_open(self) -> bool:
        """Whether everybody may upload."""
        return not self._fixed and self._file is None

    def reload(self) -> None:
        """
        Read the file again; what was known stays known if it cannot be read.

        Raises:
            ConfigurationError: The file cannot be read, or holds no token.
        """
        read = _read(self._file) if self._file else []
        owners = [*self._fixed, *(_entry(token.reveal()) for token in read)]
        if not owners and not self.is_open:
            raise ConfigurationError(f"No token in {self._file}.")
        self._owners = owners

    def owner(self, authorization: str | None) -> str:
        """
        Return whose token an `Authorization` field holds.

        The time it takes does not depend on how much of a token is right.

        Raises:
            UploadProblem: There is no token in it, or none that is known.
        """
        if self.is_open:
            return ANYBODY
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("A bearer token is wanted.")
        digest = _digest(token.strip())
        found = None
        for known, owner in self._owners:
            if hmac.compare_digest(known, digest):
                found = owner
        if found is None:
            raise _unauthorized("The token is not known.")
        return found

    def require(self, owner: str, authorization: str | None) -> None:
        """
        Refuse a token that was its owner's, and is not any more.

        Raises:
            UploadProblem: It is nobody's now, or somebody else's.
        """
        if self.owner(authorization) != owner:
            raise _unauthorized("The token is somebody else's by now.")


def _read(file: Path) -> list[Secret]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"Cannot read the tokens in {file}: {error}."
        ) from None
    stripped = (line.strip() for line in lines)
    return [Secret(line) for line in stripped if line and not line.startswith("#")]


def _entry(text: str) -> tuple[bytes, str]:
    """Return the digest of a token, and the name that its uploads are kept under."""
    name, colon, token = text.partition(":")
    if not colon:
        digest = _known_by(text)
        return digest, f"token-{digest.hex()[:16]}"
    if not name or not token:
        raise ConfigurationError("A token must be 'name:token' or a bare token.")
    return _known_by(token), f"name-{name}"


def _known_by(text: str) -> bytes:
    """Return the digest of a token, which may be all that was written down of it."""
    if match := _DIGEST.fullmatch(text):
        return bytes.fromhex(match[1])
    return _digest(text)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _unauthorized(detail: str) -> UploadProblem:
    return UploadProblem(ProblemType.UNAUTHORIZED, detail)
