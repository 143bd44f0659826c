"""Faults for destinations without a link: they strike where the plan says."""

from __future__ import annotations

from typing import Final

import pytest

from upload_kit.bench.faults import Direction, Fault, FaultKind, FaultPlan
from upload_kit.bench.faults_destination import faulty
from upload_kit.config import RetryPolicy
from upload_kit.destinations.memory import memory_folder
from upload_kit.destinations.registry import make_destination
from upload_kit.errors import ConfigurationError, RemoteUnavailable
from upload_kit.uploaders.chunked import ChunkedUploader

QUICK: Final = RetryPolicy(attempts=3, base_delay=0.0)
# The calls of an upload of two chunks: negotiate, open, held, put, put, complete.
FIRST_PUT: Final = 3
COMPLETE: Final = 5


def plan_at(call: int, fault: Fault) -> FaultPlan:
    return FaultPlan(script=(*[()] * call, (fault,)))


@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=FaultKind.REFUSE),
        Fault(kind=FaultKind.BUSY, retry_after=0),
        Fault(kind=FaultKind.LOSE_REPLY),
        Fault(kind=FaultKind.CUT, after=1),
        Fault(kind=FaultKind.RESET, direction=Direction.DOWN),
        Fault(kind=FaultKind.STALL, seconds=0.01),
        Fault(kind=FaultKind.STALL),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.direction}-{fault.seconds}",
)
async def test_one_fault_costs_one_retry(call: int, fault: Fault) -> None:
    """Whichever call fails in whatever way, the next try makes it good."""
    with faulty("memory://strikes/", plan_at(call, fault)) as (url, layer):
        uploader = ChunkedUploader(
            url,
            chunk_size=3,
            history=False,
            retry=QUICK,
            stall_timeout=0.2,
            response_timeout=0.2,
        )
        result = await uploader.upload_file(b"hello", name="a")
    assert layer.faults == 1
    assert memory_folder("strikes").objects["a"] == b"hello"
    passed = fault.kind is FaultKind.STALL and fault.seconds is not None
    assert result.retries == (0 if passed else 1)


async def test_corrupted_byte_is_noticed_and_sent_again() -> None:
    """The bytes that arrive differ in one bit, and their digest does not fit."""
    fault = Fault(kind=FaultKind.CORRUPT, after=1)
    plan = plan_at(FIRST_PUT, fault)
    with faulty("memory://corrupted/", plan) as (url, layer):
        uploader = ChunkedUploader(url, chunk_size=3, history=False, retry=QUICK)
        result = await uploader.upload_file(b"hello", name="a")
    assert (layer.faults, result.retries) == (1, 1)
    assert memory_folder("corrupted").objects["a"] == b"hello"


async def test_fault_behind_the_last_byte_does_not_strike() -> None:
    """A body that is too short for it arrives whole."""
    fault = Fault(kind=FaultKind.CUT, after=3)
    with faulty("memory://short/", plan_at(FIRST_PUT, fault)) as (url, layer):
        uploader = ChunkedUploader(url, chunk_size=3, history=False, retry=QUICK)
        await uploader.upload_file(b"hello", name="a")
    assert layer.faults == 0


async def test_faults_for_good_end_the_upload() -> None:
    """An upload whose every call fails says so, with the last fault's error."""
    plan = FaultPlan(share=1.0, kinds=(FaultKind.REFUSE,))
    with faulty("memory://never/", plan) as (url, layer):
        uploader = ChunkedUploader(url, history=False, retry=QUICK)
        with pytest.raises(RemoteUnavailable, match="refuse"):
            await uploader.upload_file(b"hello", name="a")
    assert layer.faults == QUICK.attempts


def test_faults_end_with_their_context() -> None:
    """The URL means nothing once nobody plans its faults any more."""
    with faulty("memory://gone/", FaultPlan()) as (url, _):
        make_destination(url)
    with pytest.raises(ConfigurationError, match="no plan"):
        make_destination(url)
