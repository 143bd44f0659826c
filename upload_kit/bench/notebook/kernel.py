"""A kernel to measure in, with somebody who reads all that it shows."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, Self

from upload_kit.errors import MissingExtra, UploadKitError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_CELL_SECONDS: Final = 600.0
_START_SECONDS: Final = 60.0


class MeasuredKernel:
    """
    Runs cells in a real kernel while the context lasts; it blocks.

    Args:
        state: Where its sessions and its history go.

    Raises:
        MissingExtra: There is no kernel to be had.
    """

    def __init__(self, state: Path) -> None:
        try:
            import ipykernel  # noqa: F401 (it is started by its name)
            import ipywidgets  # type: ignore[import-untyped] # noqa: F401
            from jupyter_client.manager import KernelManager
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "ipykernel", "notebook") from error
        self._state = state
        self._manager = KernelManager(kernel_name="python3")

    def __enter__(self) -> Self:
        """Start it."""
        # Neither a build machine nor the user's taste decides what is measured.
        left_out = {"CI", "UPLOAD_KIT_PROGRESS"}
        outside = {
            name: value for name, value in os.environ.items() if name not in left_out
        }
        state = {"UPLOAD_KIT_SESSION_DIR": str(self._state)}
        self._manager.start_kernel(env={**outside, **state})
        try:
            self._client = self._manager.blocking_client()
            self._client.start_channels()
            self._client.wait_for_ready(timeout=_START_SECONDS)
            self.run("from upload_kit.bench.notebook import cells")
            # What is imported only once would count for the first run alone.
            self.run("import ipywidgets, pandas, upload_kit as uk; uk.history()")
        except BaseException:
            self._manager.shutdown_kernel(now=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def ask(self, function: str, *args: object, **options: object) -> dict[str, Any]:
        """Call one of the functions of `cells` in a cell, and return its figures."""
        words = [*map(repr, args), *(f"{key}={one!r}" for key, one in options.items())]
        printed = self.run(f"cells.{function}({', '.join(words)})")
        figures: dict[str, Any] = json.loads(printed)
        return figures

    def run(self, code: str) -> str:
        """
        Run a cell, read every message of it, and return what it printed.

        Raises:
            UploadKitError: The cell failed.
        """
        printed: list[str] = []

        def take(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(
            code, timeout=_CELL_SECONDS, output_hook=take
        )
        content = reply["content"]
        if content["status"] != "ok":
            raise UploadKitError(
                f"The cell {code!r} failed: {content['ename']}: {content['evalue']}"
            )
        return "".join(printed)
