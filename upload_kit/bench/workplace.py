"""Where a benchmark works: a folder, and servers that end with it."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Workplace:
    """
    A folder of its own, and whatever is entered into `_stack`, for as long as it lasts.

    Use it as a context manager.

    Args:
        folder: Where the folder is made; None for the system's temporary folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self._parent = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make the folder."""
        made = tempfile.mkdtemp(prefix="upload_kit-bench-", dir=self._parent)
        self._folder = Path(made)
        self._stack.callback(shutil.rmtree, made, ignore_errors=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what was entered; remove the folder."""
        self._stack.close()
