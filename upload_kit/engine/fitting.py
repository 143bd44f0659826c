"""What suits one upload: its plan, a session or none, lanes, a way of reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from upload_kit.engine.reading import ReadingOptions
from upload_kit.errors import ConfigurationError
from upload_kit.planning import plan_chunks
from upload_kit.units import MIB, format_size

if TYPE_CHECKING:
    from upload_kit.config import TransferPolicy
    from upload_kit.planning import Capabilities, Plan
    from upload_kit.sources.base import Source

# Streams that wait for their data and still leave each other memory.
_STREAMS: Final = 4
# Bytes of a file in one chunk up to which no session is made, unless asked for.
_NO_SESSION: Final = MIB


def fitting_plan(
    source: Source, policy: TransferPolicy, capabilities: Capabilities, *, where: str
) -> Plan:
    """
    Return a plan that suits the destination, and the memory where it has to.

    Raises:
        ConfigurationError: There is none.
    """
    chunk_size, budget = policy.chunk_size, policy.memory_budget
    if not source.rereadable:
        # What cannot be read again is held until it has arrived, and while its
        # data is waited for: some memory is left for other uploads.
        chunk_size = min(chunk_size, max(1, budget // _STREAMS))
    plan = plan_chunks(source.size, chunk_size, capabilities, where=where)
    if not source.rereadable and plan.chunk(0).size > budget:
        raise ConfigurationError(
            f"{source.name} can be read only once, and its chunks of"
            f" {format_size(plan.chunk_size)} are more than the memory of"
            f" {format_size(budget)} that may be used.",
            hint="Write it to a file first, or raise memory_budget.",
        )
    return plan


def may_resume(
    source: Source,
    policy: TransferPolicy,
    capabilities: Capabilities,
    *,
    plan: Plan,
    session_id: str | None,
) -> bool:
    """
    Return whether a session would be of use.

    Args:
        source: Opened.

        policy: How to run.

        capabilities: What the destination can do.

        plan: The chunks.

        session_id: The session that is asked for; None for any, or none.

    Raises:
        ConfigurationError: One is asked for that cannot be gone on with.
    """
    possible = capabilities.resumable and source.rereadable
    if session_id is not None:
        if not possible:
            raise ConfigurationError(
                f"{source.name} cannot be resumed: the source or the destination"
                " keeps nothing to go on with."
            )
        return True
    if policy.always_session:
        return possible
    # One small chunk is sent again sooner than it is remembered.
    small = plan.size is not None and plan.size <= _NO_SESSION
    return possible and not (small and plan.total_chunks == 1)


def lane_count(policy: TransferPolicy, capabilities: Capabilities, plan: Plan) -> int:
    """Return how many chunks may be under way at once."""
    limits = (policy.max_parallel, capabilities.lanes, plan.total_chunks)
    return min(limit for limit in limits if limit is not None)


def reading_options(
    source: Source,
    policy: TransferPolicy,
    capabilities: Capabilities,
    *,
    plan: Plan,
    lanes: int,
) -> ReadingOptions:
    """Return how to read: what is held in memory, and which digests are wanted."""
    size = source.size
    largest = plan.chunk_size if size is None else min(plan.chunk_size, size)
    # Where memory holds a chunk for each lane, but none ahead, the pool makes the
    # reader wait: cheaper than reading and digesting everything twice.
    needed = largest * min(lanes, plan.total_chunks or lanes)
    streamed = source.rereadable and needed > policy.memory_budget
    digest_first = capabilities.digest_first or bool(capabilities.checksums)
    # A streamed file in one chunk is digested while it travels.
    alone = streamed and not digest_first and plan.total_chunks == 1
    # Somebody asked for the whole one, or nothing else could be compared.
    comparable = bool(capabilities.whole_checksums) and not digest_first
    whole_digest = (policy.whole_digest or comparable) and not alone
    # One digest is enough where chunks go in order, and nobody asks for theirs.
    in_order = capabilities.lanes == 1
    return ReadingOptions(
        streamed=streamed,
        digest_first=digest_first,
        whole_digest=whole_digest,
        by_prefix=whole_digest and in_order and not (digest_first or streamed),
        # What was digested should still be in the system's cache when it is sent.
        ahead=max(1, policy.memory_budget // plan.chunk_size) if streamed else 1,
    )
