"""Events: flat, whole, and told as a line of a progress stream."""

from __future__ import annotations

import dataclasses

import pytest

from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import UploadProgress, UploadResult, UploadStatus

STATE = UploadProgress(
    transfer_id="t", name="n", status=UploadStatus.FAILED, total=9, sent=4, confirmed=2
)


def event(kind: EventKind = EventKind.FAILED) -> UploadEvent:
    return UploadEvent(
        kind=kind,
        transfer_id="t",
        seq=7,
        at=1.5,
        progress=STATE,
        chunk=3,
        attempt=2,
        wait=0.25,
        error="It broke.",
        result=UploadResult(success=False, name="n", error="It broke."),
    )


@pytest.mark.parametrize("kind", EventKind)
def test_only_an_ending_is_final(kind: EventKind) -> None:
    """After completed, failed or cancelled nothing comes any more."""
    assert kind.is_final is (kind.value in {"completed", "failed", "cancelled"})


@pytest.mark.parametrize("kind", EventKind)
def test_json_and_back(kind: EventKind) -> None:
    """A line of a log brings the same event back."""
    assert UploadEvent.from_json(event(kind).to_json()) == event(kind)


def test_line_of_a_stream_tells_all_that_a_reader_needs() -> None:
    """Kind, state, chunk, error and result; not the engine's own counts."""
    line = event().to_streaming()
    assert line.kind == "failed"
    assert line.progress is STATE
    assert (line.chunk, line.error, line.at) == (3, "It broke.", 1.5)
    assert line.result is event().result or line.result == event().result
    assert {field.name for field in dataclasses.fields(line)} == {
        "kind",
        "progress",
        "at",
        "chunk",
        "error",
        "result",
        "leg",
    }
    assert line.is_final
