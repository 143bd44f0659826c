"""Whatever is used for long keeps no more than it says."""

from __future__ import annotations

from upload_kit.destinations.memory import memory_folder
from upload_kit.uploaders.parallel import ParallelUploader


async def test_tracker_keeps_the_newest_and_the_sum_of_all() -> None:
    """However many uploads there were, a thousand are kept, and none is forgotten."""
    uploader = ParallelUploader("memory://tracked/", history=False, max_parallel=8)
    content = b"some bytes"
    for _ in range(3):
        await uploader.upload_files({f"{n}.bin": content for n in range(500)})
    memory_folder("tracked").objects.clear()
    assert len(uploader.tracker.tasks) == 1000
    assert len(uploader.tracker._updates) == 1000
    total = uploader.total_progress
    assert total.confirmed == total.sent == total.total == 1500 * len(content)
    assert total.chunks_confirmed == 1500
    assert total.status.value == "complete"
