"""The handle of one upload: awaitable, async-iterable, and it can be paused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from typing import TYPE_CHECKING

from upload_kit.errors import ConfigurationError, UploadCancelled, UploadKitError
from upload_kit.sessions.base import INTERRUPTED
from upload_kit.waiting import wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractAsyncContextManager

    from upload_kit.engine.run import Engine
    from upload_kit.models import UploadProgress, UploadResult
    from upload_kit.progress.feeds import Feed

logger = logging.getLogger("upload_kit.transfer")


class Transfer:
    """
    One upload, under way or done.

    It runs as a task of the event loop in which it was started; every method may be
    called from any thread, and it can be awaited in any loop.

    Args:
        engine: What runs.

        around: Entered before it runs, left after it ended.

    Example:
        >>> transfer = uploader.start("big.bin")  # doctest: +SKIP
        >>> async for event in transfer: ...  # doctest: +SKIP
        >>> result = await transfer  # doctest: +SKIP
    """

    def __init__(
        self, engine: Engine, around: AbstractAsyncContextManager[None]
    ) -> None:
        self._engine = engine
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        # So that nobody who waits for it can cancel it.
        self._ended.set_running_or_notify_cancel()
        self._result: UploadResult | None = None
        self._error: Exception | None = None
        self.task = self._loop.create_task(self._run(), name=f"upload {self.id}")

    async def _run(self) -> None:
        try:
            async with self._around:
                await self._upload()
        except asyncio.CancelledError:
            # How it ended is known, unless it never began: who cancels is in a hurry.
            if self._result is None and self._error is None:
                self._error = self._engine.cancelled()
        except Exception as error:  # The outermost edge: whoever awaits it gets it.
            logger.exception("%s could not let go of what it shares.", self.name)
            self._error = self._error or error
        finally:
            self._ended.set_result(None)

    async def _upload(self) -> None:
        try:
            self._result = await self._engine.run()
        except asyncio.CancelledError:
            self._error = self._engine.cancelled()
        except Exception as error:  # As above; what it shares is let go of in peace.
            if not isinstance(error, UploadKitError):
                logger.exception("The upload of %s met a bug.", self.name)
            self._error = error

    @property
    def id(self) -> str:
        """The ID in events, logs and history."""
        return self._engine.state.transfer_id

    @property
    def name(self) -> str:
        """File name at the destination."""
        return self._engine.state.name

    @property
    def session_id(self) -> str | None:
        """The session that remembers this upload, once there is one."""
        return self._engine.session_id

    @property
    def progress(self) -> UploadProgress:
        """The whole state as it stands now."""
        return self._engine.state.snapshot()

    def done(self) -> bool:
        """Return whether it has ended, in whatever way."""
        return self._ended.done()

    def pause(self) -> None:
        """Stop sending; nothing that arrived is lost."""
        self._call(self._engine.pause)

    def resume(self) -> None:
        """Go on sending."""
        self._call(self._engine.resume)

    def cancel(self) -> None:
        """End it; with a session it can be resumed, without one it is cleared up."""
        self._call(self.task.cancel)

    def interrupt(self) -> None:
        """End it for now: a session counts as paused, not as cancelled by somebody."""
        self._call(lambda: self.task.cancel(INTERRUPTED))

    def _call(self, function: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def result(self, timeout: float | None = None) -> UploadResult:
        """
        Wait in a thread other than the upload's own, and return how it ended.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: It has not ended by then; it goes on.
            UploadKitError: The upload failed, or was cancelled.
            ConfigurationError: Called in the upload's own event loop: await it there.
        """
        if not self.done() and _running_loop() is self._loop:
            raise ConfigurationError(
                "result() would block the event loop that the upload runs in.",
                hint="Write: result = await transfer",
            )
        try:
            wait(self._ended, timeout)
        except TimeoutError as error:
            message = f"{self.name} is not done after {timeout} s."
            raise TimeoutError(message) from error
        return self._outcome()

    def _outcome(self) -> UploadResult:
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise UploadCancelled(f"The upload of {self.name} broke off.")
        return self._result

    def __await__(self) -> Generator[None, None, UploadResult]:
        """
        Wait for the end, in any event loop.

        Cancelling whoever waits does not cancel the upload.
        """
        return self._wait().__await__()

    async def _wait(self) -> UploadResult:
        if _running_loop() is self._loop:
            await asyncio.wait({self.task})
            return self._outcome()
        # No limit of its own: every wait of an upload has one.
        await asyncio.wait({asyncio.wrap_future(self._ended)})
        return self._outcome()

    def __aiter__(self) -> Feed:
        """Iterate over its events from now on, to its end."""
        return self._engine.subscribe()

    def __repr__(self) -> str:
        """Tell which upload, and where it stands."""
        progress = self.progress
        total = "?" if progress.total is None else progress.total
        return (
            f"<Transfer {self.name!r} {progress.status.value}"
            f" {progress.confirmed}/{total}>"
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
