"""The ladder of displays: which one fits where the program runs."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from upload_kit.errors import ConfigurationError
from upload_kit.notebook.places import has_widgets, is_kernel, is_prompt

Progress: TypeAlias = (
    Literal["auto", "widget", "html", "tqdm", "text", "static", "none"] | None
)
"""What callers may ask for; None is `none`."""

VARIABLE: Final = "UPLOAD_KIT_PROGRESS"
"""The environment variable that is above all but silence, which a caller may want."""


class Renderer(StrEnum):
    """How a job is shown."""

    WIDGET = "widget"
    """A panel with bars and buttons; at the end a static card."""

    HTML = "html"
    """A card that is written anew; no buttons."""

    TQDM = "tqdm"
    """Bars on a terminal."""

    TEXT = "text"
    """Plain lines."""

    STATIC = "static"
    """A card at the end, once somebody waits for it."""

    NONE = "none"
    """Nothing."""


_AUTO: Final = "auto"
_STREAMS: Final = frozenset({Renderer.TQDM, Renderer.TEXT})


def choose(wanted: Progress = _AUTO, *, waiting: bool) -> Renderer:
    """
    Return how to show a job here and now.

    Args:
        wanted: What the caller asked for; `UPLOAD_KIT_PROGRESS` is above it, but shows
            nothing where nothing was asked for.

        waiting: Whether the caller waits for the job.

    Raises:
        ConfigurationError: There is no such display.
    """
    if wanted in {None, Renderer.NONE.value}:
        return Renderer.NONE
    name = os.environ.get(VARIABLE) or wanted or _AUTO
    if name == _AUTO:
        return _detect(waiting=waiting)
    try:
        renderer = Renderer(name)
    except ValueError:
        known = ", ".join([_AUTO, *Renderer])
        raise ConfigurationError(
            f"There is no display {name!r} for progress.", hint=f"Use one of {known}."
        ) from None
    return _fit(renderer, waiting=waiting)


def _detect(*, waiting: bool) -> Renderer:
    if not is_kernel():
        if is_prompt() and not waiting:
            # It would write into the line that somebody types.
            return Renderer.STATIC
        return Renderer.TQDM if sys.stderr.isatty() else Renderer.TEXT
    if os.environ.get("CI"):
        return Renderer.STATIC
    return Renderer.WIDGET if has_widgets() else Renderer.HTML


def _fit(renderer: Renderer, *, waiting: bool) -> Renderer:
    """Return the next best display where the wanted one cannot work."""
    kernel = is_kernel()
    if renderer is Renderer.WIDGET and not has_widgets():
        renderer = Renderer.HTML
    if renderer in {Renderer.WIDGET, Renderer.HTML} and not kernel:
        return Renderer.TEXT
    if renderer in _STREAMS and kernel and not waiting:
        # What a thread prints lands in whichever cell happens to run.
        return Renderer.STATIC
    return renderer
