"""`upload-kit put` and `resume` in processes of their own, to be watched and killed."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import msgspec

from upload_kit.errors import UploadKitError
from upload_kit.events import EventKind, UploadEvent
from upload_kit.models import StreamingProgress, UploadResult
from upload_kit.threads import in_thread
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from types import TracebackType

_COMMAND: Final = (sys.executable, "-m", "upload_kit")
# A result lists every chunk of its file.
_LONGEST_LINE: Final = 64 * MIB
# As long as the client itself waits for an answer; each retry is a line.
_SILENCE: Final = 90.0
_ENDING: Final = 15.0


class DemoFailed(UploadKitError):
    """Something did not go as it was meant to."""


class UploadProcess:
    """
    Runs one command that uploads, for as long as the context lasts.

    Args:
        words: The command line after `upload-kit`, without --json.

        folder: Its log goes here, and to `state` its sessions and its history.

        silence: Seconds without a line after which it is given up.
    """

    def __init__(self, *words: str, folder: Path, silence: float = _SILENCE) -> None:
        self._words = words
        self._folder = folder
        self._silence = silence
        self._process: asyncio.subprocess.Process | None = None
        self._errors = folder / "upload.log"
        self.result: UploadResult | None = None

    def __str__(self) -> str:
        """Return the command as one would type it."""
        return shlex.join(["upload-kit", *self._words])

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start it."""
        with await in_thread(self._errors.open, "wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                *self._words,
                "--json",
                env=_environment(self._folder),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, if it has not ended by itself."""
        await self.kill()

    async def kill(self) -> None:
        """End it as a crash would: with kill -9."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        # No limit: nothing survives this.
        await self._process.wait()

    async def events(self) -> AsyncGenerator[UploadEvent]:
        """
        Yield what it tells; afterwards `result` is set.

        Raises:
            DemoFailed: It said nothing for too long, or ended without a result.
        """
        seq = 0
        while line := await self._line():
            plain = msgspec.json.decode(line)
            if "kind" in plain:
                yield _event(StreamingProgress.from_dict(plain), seq)
                seq += 1
            else:
                self.result = UploadResult.from_dict(plain)
        await self._check_ending()

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._silence):
                return await self._process.stdout.readline()
        except TimeoutError as error:
            raise DemoFailed(
                f"`{self}` said nothing for {self._silence:.0f} s."
            ) from error

    async def _check_ending(self) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(_ENDING):
                code = await self._process.wait()
        except TimeoutError as error:
            raise DemoFailed(
                f"`{self}` did not end within {_ENDING:.0f} s of its last word."
            ) from error
        if code != 0 or self.result is None or not self.result.success:
            said = (await in_thread(self._errors.read_text)).strip()
            raise DemoFailed(f"`{self}` ended with code {code}: {said[-2000:]}")


def _environment(folder: Path) -> dict[str, str]:
    """Leave the user's own settings, sessions and history alone."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UPLOAD_KIT_")
    }
    return {
        **kept,
        "UPLOAD_KIT_CONFIG": os.devnull,
        "UPLOAD_KIT_SESSION_DIR": str(folder / "state"),
    }


def _event(line: StreamingProgress, seq: int) -> UploadEvent:
    return UploadEvent(
        kind=EventKind(line.kind),
        transfer_id=line.progress.transfer_id,
        seq=seq,
        at=line.at,
        progress=line.progress,
        chunk=line.chunk,
        error=line.error,
        result=line.result,
    )
