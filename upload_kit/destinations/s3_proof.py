"""Whether what S3 says of an object proves that it is what was sent."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from upload_kit.destinations.s3_xml import encode_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.s3_bucket import Stored
    from upload_kit.models import Receipt

_TAG: Final = re.compile(r'"?([0-9a-f]{32})"?')


async def is_same(found: Stored, body: ChunkBody) -> bool:
    """Whether an object has these bytes, as far as the service says what it has."""
    if found.sha256:
        return found.sha256 == encode_digest(await body.digest("sha256"))
    if found.md5 is None or found.size != body.size:
        return False
    return found.md5 == (await body.digest("md5")).hex()


def has_parts(found: Stored, receipts: Sequence[Receipt]) -> bool | None:
    """Whether an object is what these parts make; None if it does not tell."""
    ours = composite(receipts)
    if found.sha256 and ours is not None:
        # The number of parts follows the digest, though not everywhere.
        return found.sha256.partition("-")[0] == ours
    etag = _etag(receipts)
    if "-" not in found.etag or etag is None:
        return None
    return found.etag.strip('"') == etag


def composite(receipts: Sequence[Receipt]) -> str | None:
    """Return the digest of the parts' digests in base64; None if one is not known."""
    digest = hashlib.sha256()
    for receipt in receipts:
        if receipt.sha256 is None:
            return None
        digest.update(bytes.fromhex(receipt.sha256))
    return encode_digest(digest.digest())


def _etag(receipts: Sequence[Receipt]) -> str | None:
    """Return what most services make of the parts' ETags; None if they cannot."""
    digest = hashlib.md5(usedforsecurity=False)
    for receipt in receipts:
        match = _TAG.fullmatch(receipt.tag or "")
        if match is None:
            return None
        digest.update(bytes.fromhex(match[1]))
    return f"{digest.hexdigest()}-{len(receipts)}"
