"""Digests: written into HTTP fields and read from them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

# Between a digest's name in HTTP and in hashlib. Source: RFC 9530, section 7.2.
_HASHLIB_NAMES: Final = {"sha-256": "sha256", "sha-512": "sha512"}
_HTTP_NAMES: Final = {name: key for key, name in _HASHLIB_NAMES.items()}


def format_digest(algorithm: str, digest: bytes) -> str:
    """
    Write a digest as `Content-Digest` and its siblings have it.

    Args:
        algorithm: A name that hashlib knows: `sha256` or `sha512`.

        digest: The raw digest.

    Source: RFC 9530, section 2; RFC 8941 byte sequences.
    """
    encoded = base64.b64encode(digest).decode("ascii")
    return f"{_HTTP_NAMES[algorithm]}=:{encoded}:"


def parse_digests(field: str) -> dict[str, bytes]:
    """
    Read the digests of a `Content-Digest` field.

    Args:
        field: The field's value; algorithms we do not know are left out.

    Returns:
        Raw digests by their hashlib names.

    Raises:
        ValueError: It is no such field.
    """
    digests = {}
    for member in field.split(","):
        key, separator, value = member.strip(" \t").partition("=")
        if not separator or len(value) < 2 or value[0] != ":" or value[-1] != ":":
            raise ValueError(f"not a digest field: {field!r}")
        algorithm = _HASHLIB_NAMES.get(key)
        if algorithm is None:
            continue
        try:
            digest = base64.b64decode(value[1:-1], validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {value!r}") from error
        if len(digest) != hashlib.new(algorithm).digest_size:
            raise ValueError(f"wrong length for {key}: {value!r}")
        digests[algorithm] = digest
    return digests
