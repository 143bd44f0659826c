"""
The handle of uploads that run in the background: one file, or many.

A job's uploads run in the bridge's thread; the job may be held, watched and waited for
in any other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from upload_kit.api.items import claiming, refusal, unexpected, waiting
from upload_kit.api.samples import Recording
from upload_kit.bridge import bridge
from upload_kit.errors import UploadCancelled, UploadKitError
from upload_kit.frames import make_frame
from upload_kit.progress.feeds import Hub
from upload_kit.progress.tracker import sum_progress
from upload_kit.units import format_rate, format_size
from upload_kit.waiting import wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from pandas import DataFrame

    from upload_kit.api.items import Item
    from upload_kit.events import UploadEvent
    from upload_kit.models import UploadProgress, UploadResult
    from upload_kit.progress.feeds import Feed
    from upload_kit.transfer import Transfer

R_co = TypeVar("R_co", covariant=True)

# An interrupt comes through at once only if nobody waits longer than this in one go.
_SLICE: Final = 0.2


class WaitInterrupted(KeyboardInterrupt):
    """Somebody interrupted the waiting for a job; the job goes on."""

    def _render_traceback_(self) -> list[str]:
        """Show IPython what to do now, instead of where we were."""
        return [str(self)]


class Job(Generic[R_co]):
    """
    One or many uploads, under way in the background or done.

    Every method may be called from any thread. Whoever lets go of the job does not end
    it: `upload_kit.jobs()` lists those that run.

    Args:
        items: What to upload.

        at_once: Uploads under way at once.

        outcome: Turns the results and the errors, one of each an item, into what
            `result` returns or raises.

    Example:
        >>> job = start("big.bin", "http://127.0.0.1:8000/")  # doctest: +SKIP
        >>> job.pause(), job.resume()  # doctest: +SKIP
        >>> job.result()  # or: await job  # doctest: +SKIP
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        at_once: int,
        outcome: Callable[[list[UploadResult], list[UploadKitError | None]], R_co],
    ) -> None:
        self._items = items
        self._at_once = at_once
        self._outcome = outcome
        self._parts = [waiting(item) for item in items]
        self._results: list[UploadResult | None] = [None] * len(items)
        self._errors: list[UploadKitError | None] = [None] * len(items)
        self._transfers: dict[int, Transfer] = {}
        self._running = asyncio.Event()
        self._running.set()
        self._is_cancelled = False
        self._hub = Hub()
        self._last: UploadEvent | None = None
        self._recording = Recording()
        self._began = time.monotonic()
        self._elapsed: float | None = None
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.on_shown: Callable[[], None] | None = None
        """Shows the job where it is the value of a notebook's cell."""
        self.on_waited: Callable[[], None] | None = None
        """Called once, by the first who has waited for the end."""

    def begin(self) -> None:
        """Start the uploads in the background, and return at once."""
        _live[self] = None
        try:
            bridge.submit(self._run())
        except BaseException:
            _live.pop(self, None)
            raise

    async def _run(self) -> None:
        turns = iter(enumerate(self._items))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(self._work(turns))
        finally:
            self._end()

    async def _work(self, turns: Iterator[tuple[int, Item]]) -> None:
        """Make one upload after another until none is left."""
        for index, item in turns:
            # No limit: who pauses a job decides for how long.
            await self._running.wait()
            if self._is_cancelled:
                self._refuse(index, UploadCancelled(f"{item.name} was cancelled."))
            else:
                await self._upload(index, item)

    async def _upload(self, index: int, item: Item) -> None:
        try:
            with claiming(item):
                await self._follow(index, item.begin())
        except UploadKitError as error:
            self._refuse(index, error)
        except Exception as error:  # noqa: BLE001 (a worker's outermost edge: nobody would hear of it)
            self._refuse(index, unexpected(error))

    async def _follow(self, index: int, transfer: Transfer) -> None:
        self._transfers[index] = transfer
        if not self._running.is_set():
            transfer.pause()
        try:
            async for event in transfer:
                self._take(index, event)
            # It ends by itself right after its last event.
            await asyncio.wait({transfer.task})
            if not transfer.task.cancelled():
                transfer.task.result()
            await transfer
        finally:
            self._transfers.pop(index, None)

    def _take(self, index: int, event: UploadEvent) -> None:
        self._parts[index] = event.progress
        if event.result is not None:
            self._results[index] = event.result
        self._recording.update(event)
        self._last = event
        self._hub.emit(event)

    def _refuse(self, index: int, error: UploadKitError) -> None:
        """Note that an upload failed; tell everybody, if it did not do so itself."""
        self._errors[index] = error
        result = self._results[index]
        if result is None:
            self._take(index, refusal(self._parts[index], error))
        elif result.error is None:
            self._results[index] = replace(
                result, error=str(error), error_type=type(error).__name__
            )

    def _end(self) -> None:
        for index, item in enumerate(self._items):
            if self._results[index] is None:
                self._refuse(index, UploadCancelled(f"{item.name} was broken off."))
        self._elapsed = time.monotonic() - self._began
        _live.pop(self, None)
        self._ended.set_result(None)
        self._hub.close()

    @property
    def name(self) -> str:
        """The file's name, or how many files there are."""
        if len(self._items) == 1:
            return self._items[0].name
        return f"{len(self._items):,} files"

    @property
    def files(self) -> int:
        """How many uploads there are."""
        return len(self._items)

    @property
    def size(self) -> int | None:
        """Bytes of all files, as far as that is known before they start."""
        sizes = [part.total for part in self._parts]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @property
    def destination(self) -> str:
        """URL of where it goes, without secrets; empty for more than one."""
        places = {item.destination for item in self._items}
        return places.pop() if len(places) == 1 else ""

    @property
    def id(self) -> str | None:
        """The ID in events, logs and history; None before it began, or for many."""
        return self._parts[0].transfer_id or None if self.files == 1 else None

    @property
    def session_id(self) -> str | None:
        """The session to resume, once there is one; None for many."""
        if self.files != 1:
            return None
        if (transfer := self._transfers.get(0)) is not None:
            return transfer.session_id
        result = self._results[0]
        return None if result is None else result.session_id

    @property
    def progress(self) -> UploadProgress:
        """The whole state as it stands now; of many, their sum."""
        parts = list(self._parts)
        for index, transfer in list(self._transfers.items()):
            parts[index] = transfer.progress
        if len(parts) == 1:
            return parts[0]
        elapsed = self._elapsed or time.monotonic() - self._began
        return sum_progress(parts, name=self.name, elapsed=elapsed)

    @property
    def results(self) -> tuple[UploadResult, ...]:
        """How those uploads ended that have ended, in the order of the files."""
        return tuple(result for result in self._results if result is not None)

    @property
    def is_paused(self) -> bool:
        """Whether somebody paused it, and it has not ended."""
        return not (self._running.is_set() or self.done())

    def done(self) -> bool:
        """Return whether everything has ended, in whatever way."""
        return self._ended.done()

    def pause(self) -> None:
        """Stop sending; nothing that arrived is lost."""
        self._call(self._pause)

    def _pause(self) -> None:
        self._running.clear()
        for transfer in self._transfers.values():
            transfer.pause()

    def resume(self) -> None:
        """Go on sending."""
        self._call(self._resume)

    def _resume(self) -> None:
        self._running.set()
        for transfer in self._transfers.values():
            transfer.resume()

    def cancel(self) -> None:
        """End it; what has a session can be resumed, the rest is cleared up."""
        self._call(self._cancel)

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._running.set()
        for transfer in self._transfers.values():
            transfer.cancel()

    def _interrupt(self) -> None:
        """End it as the program ends: what has a session counts as paused."""
        self._is_cancelled = True
        self._running.set()
        for transfer in self._transfers.values():
            transfer.interrupt()

    def _call(self, function: Callable[[], None]) -> None:
        # Nothing more: a button's click may come in any thread, at any time.
        if not self.done():
            bridge.loop.call_soon_threadsafe(function)

    def result(self, timeout: float | None = None) -> R_co:
        """
        Wait for the end, and return how it went.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Returns:
            The `UploadResult`; of many a list of them, in the order of the files, with
            the failed ones among them.

        Raises:
            UploadKitError: The upload of a single file failed, or it was cancelled.
            TimeoutError: It has not ended by then; it goes on.
            WaitInterrupted: The wait was interrupted; the job goes on.
            ConfigurationError: Called in the thread that the uploads run in.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"{self.name} is not done after {timeout} s.")
        return self._outcome(self._complete_results(), self._errors)

    def wait(self, timeout: float | None = None) -> bool:
        """
        Wait for the end, however it comes, and return whether it has come.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            WaitInterrupted: The wait was interrupted; the job goes on.
            ConfigurationError: Called in the thread that the uploads run in.
        """
        if not self.done():
            bridge.refuse_here()
        try:
            wait(self._ended, timeout)
        except TimeoutError:
            return False
        except KeyboardInterrupt:
            raise WaitInterrupted(
                f"Stopped waiting; the upload of {self.name} goes on. To end it:"
                " upload_kit.jobs()[-1].cancel(), or .pause()."
            ) from None
        self._tell()
        return True

    def _tell(self) -> None:
        tell, self.on_waited = self.on_waited, None
        if tell is not None:
            tell()

    def _complete_results(self) -> list[UploadResult]:
        results = list(self.results)
        assert len(results) == self.files
        return results

    def __await__(self) -> Generator[Any, None, R_co]:
        """
        Wait for the end, in any event loop.

        Cancelling whoever waits does not cancel the uploads.
        """
        return self._wait().__await__()

    async def _wait(self) -> R_co:
        while not self.done():
            ended = asyncio.wrap_future(self._ended)
            await asyncio.wait({ended}, timeout=_SLICE)
        self._tell()
        return self._outcome(self._complete_results(), self._errors)

    def __aiter__(self) -> Feed:
        """Iterate over the events from now on, to the end."""
        return self.subscribe()

    def subscribe(self) -> Feed:
        """Return a feed of the events from now on; of the last one if it is done."""
        last = self._last if self.done() else None
        feed = self._hub.subscribe()
        if last is not None:
            feed.put(last)
        if self.done():
            feed.close()
        return feed

    def samples(self) -> DataFrame:
        """
        Return bytes over time, for a plot of the speed; needs pandas.

        Columns: `at` (UTC), `elapsed_s` (float64), `sent_bytes` and `confirmed_bytes`
        (Int64), `throughput_mb_s` (float64: sent since the row before, MB of 10^6).
        """
        return make_frame("samples_frame", self._recording.samples)

    def __repr__(self) -> str:
        """Tell what, and where it stands."""
        progress = self.progress
        amount = format_size(progress.confirmed)
        if progress.total is not None:
            amount += f" of {format_size(progress.total)}"
        if not progress.status.is_final:
            amount += f", {format_rate(progress.rate)}"
        return f"<Job {self.name}: {progress.status.value}, {amount}>"

    def _ipython_display_(self) -> None:
        # IPython asks for this method, and then prints nothing by itself.
        if self.on_shown is None:
            print(repr(self))  # noqa: T201 (what a notebook's cell shows of its value)
        else:
            self.on_shown()


_live: dict[Job[Any], None] = {}


def jobs() -> list[Job[Any]]:
    """Return the jobs that are under way in this process, oldest first."""
    return list(_live)


async def _end_all() -> None:
    """Let what runs end well before the program does, and tell of it."""
    ending = list(_live)
    for job in ending:
        job._interrupt()  # noqa: SLF001 (the same module)
    for job in ending:
        # Limited by the bridge.
        await asyncio.wait({asyncio.wrap_future(job._ended)})  # noqa: SLF001
    for job in ending:
        warnings.warn(
            f"The program ended while {job.name} was on its way: job.result() waits for"
            " the end. What has a session goes on with upload_kit.resume().",
            RuntimeWarning,
            stacklevel=1,
        )


bridge.at_close(_end_all)
