"""What the campaigns found in `memory://`: each case failed before it was mended."""

from __future__ import annotations

import pytest

from upload_kit.bench.faults import Fault, FaultKind, FaultPlan
from upload_kit.bench.faults_destination import faulty
from upload_kit.config import RetryPolicy
from upload_kit.destinations.memory import memory_folder
from upload_kit.uploaders.chunked import ChunkedUploader


@pytest.mark.parametrize("overwrite", [True, False], ids=["overwrite", "keep"])
async def test_lost_answer_to_publishing_sends_nothing_again(
    *, overwrite: bool
) -> None:
    """Asked again, the folder says what the upload became."""
    folder = memory_folder(f"publishing-{overwrite:d}")
    lost = Fault(kind=FaultKind.LOSE_REPLY)
    # Its calls: negotiate, open, held, two chunks, complete.
    plan = FaultPlan(script=((), (), (), (), (), (lost,)))
    with faulty(f"memory://{folder.name}/", plan) as (url, layer):
        uploader = ChunkedUploader(
            url,
            chunk_size=3,
            overwrite=overwrite,
            history=False,
            retry=RetryPolicy(base_delay=0.0),
        )
        result = await uploader.upload_file(b"hello", name="a")
    assert layer.faults == 1
    assert result.bytes_sent == 5
    assert folder.objects == {"a": b"hello"}
    assert folder.parts == {}
