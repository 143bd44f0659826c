"""Where this program runs, as far as that decides what can be shown."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def shell() -> Any:
    """Return IPython's shell, or None where there is none."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def is_kernel() -> bool:
    """Return whether cells are run for a frontend that shows more than text."""
    return getattr(shell(), "kernel", None) is not None


def is_prompt() -> bool:
    """Return whether somebody types at a terminal, into Python or IPython."""
    return not is_kernel() and (shell() is not None or hasattr(sys, "ps1"))


def is_voila() -> bool:
    """Return whether a dashboard was made of the notebook."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


class Place:
    """A place in the output of the cell that ran when it was made."""

    def __init__(self, shown: object) -> None:
        from IPython.display import display

        # IPython's own functions have no types.
        put: Callable[..., Any] = display
        self._update: Callable[[object], None] = put(shown, display_id=True).update

    def update(self, shown: object) -> None:
        """Show something else there; from any thread."""
        self._update(shown)


def put(shown: object, *, raw: bool = False) -> None:
    """
    Show something in the output of the cell that runs now.

    Args:
        shown: Any object, or with `raw` its representations by MIME type.

        raw: Whether it is a dictionary of those.
    """
    from IPython.display import display

    untyped: Callable[..., Any] = display
    untyped(shown, raw=raw)


def has_widgets() -> bool:
    """Return whether ipywidgets can be imported."""
    try:
        import_module("ipywidgets")
    except ImportError:
        return False
    return True
