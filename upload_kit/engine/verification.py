"""What may be believed of what a remote says it has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from upload_kit.errors import IntegrityError
from upload_kit.models import Verification

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upload_kit.models import Receipt, RemoteObject
    from upload_kit.planning import Capabilities, Plan


def trusted(
    receipts: Iterable[Receipt], remembered: Iterable[Receipt], plan: Plan
) -> dict[int, Receipt]:
    """
    Return what of the remote's chunks need not be sent again, by index.

    Args:
        receipts: What the remote says it holds now.

        remembered: What it acknowledged in earlier runs.

        plan: The chunks of the source.

    Returns:
        Receipts of whole chunks, each with a digest to compare the source with.
    """
    known = {receipt.index: receipt for receipt in remembered}
    held = {}
    for receipt in receipts:
        if not _is_whole(receipt, plan):
            continue
        earlier = known.get(receipt.index, receipt)
        kept = replace(
            receipt,
            sha256=receipt.sha256 or earlier.sha256,
            prefix_sha256=earlier.prefix_sha256,
            tag=receipt.tag or earlier.tag,
        )
        # Without a digest nothing would prove that the bytes are still the same.
        can_be_proved = kept.sha256 is not None or kept.prefix_sha256 is not None
        # What it holds now must be what it acknowledged, or is sent again.
        if can_be_proved and earlier.sha256 in {None, kept.sha256}:
            held[receipt.index] = kept
    return held


def _is_whole(receipt: Receipt, plan: Plan) -> bool:
    total, index = plan.total_chunks, receipt.index
    return total is None or (index < total and receipt.size == plan.chunk(index).size)


def verify(
    stored: RemoteObject,
    capabilities: Capabilities,
    *,
    name: str,
    size: int | None,
    sha256: str | None,
) -> Verification:
    """
    Compare what stands at the destination with what was read.

    Args:
        stored: What the remote says of it.

        capabilities: What the remote checked before.

        name: The source's name, for messages.

        size: Bytes that were read.

        sha256: Their digest; None if it is not known.

    Raises:
        IntegrityError: They differ.
    """
    if stored.size is not None and stored.size != size:
        raise IntegrityError(
            f"{stored.location} has {stored.size} bytes, but {name} has {size}."
        )
    if stored.sha256 is not None and sha256 is not None:
        if stored.sha256 != sha256:
            raise IntegrityError(
                f"{stored.location} has the digest {stored.sha256}, but {name} has"
                f" {sha256}."
            )
        return Verification.SHA256
    if capabilities.checksums:
        return Verification.CHUNKS
    return Verification.NONE if stored.size is None else Verification.SIZE
