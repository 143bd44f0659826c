"""Many uploads, a few at a time; one that fails stops no other."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from upload_kit.errors import UploadKitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from upload_kit.engine.run import Engine
    from upload_kit.models import UploadResult

logger = logging.getLogger("upload_kit.transfer")


async def run_batch(engines: Iterable[Engine], *, at_once: int) -> list[UploadResult]:
    """
    Run many uploads and return a result for each, in their order.

    Args:
        engines: Taken one by one, as their turns come: a generator makes each upload
            only then.

        at_once: Uploads under way at once, at least 1.

    Returns:
        One result an upload; a failed one has `success` False and says why.
    """
    results: dict[int, UploadResult] = {}
    turns = iter(enumerate(engines))
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_work(turns, results))
    return [results[index] for index in sorted(results)]


async def _work(
    turns: Iterator[tuple[int, Engine]],
    results: dict[int, UploadResult],
) -> None:
    """Run one upload after another until none is left."""
    for index, engine in turns:
        try:
            results[index] = await engine.run()
        except Exception as error:  # Whatever it met, the others go on.
            if not isinstance(error, UploadKitError):
                logger.exception("An upload among many met a bug.")
            results[index] = engine.result()
