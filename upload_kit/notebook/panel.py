"""The panel of a job, made of core ipywidgets; it leaves a static card behind."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as widgets  # type: ignore[import-untyped] # it brings no types

from upload_kit.models import UploadStatus
from upload_kit.notebook.board import Board
from upload_kit.notebook.displays import Card
from upload_kit.notebook.live import STYLE, live_html
from upload_kit.notebook.places import Place, is_voila

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.api.jobs import Job
    from upload_kit.events import UploadEvent

# Seconds. Servers end kernels that show no sign of life, upload or not.
_HEARTBEAT: Final = 20.0
# Seconds after which the card is sent once more: a flood of other output may have made
# the server drop it.
_AGAIN: Final = 1.0


class Panel:
    """
    Shows a job, and has buttons to pause, resume and cancel it.

    Paints come from any thread; clicks too, and they only tell the job what to do.

    Args:
        job: What is shown.

        waiting: Whether a cell waits for the job.

        heartbeat: Seconds after which it paints although nothing has changed.
    """

    pause = 0.2
    """Seconds between two paints, at least: 5 a second."""

    def __init__(
        self, job: Job[Any], *, waiting: bool = False, heartbeat: float = _HEARTBEAT
    ) -> None:
        self._job = job
        self._heartbeat = heartbeat
        self._board = Board(job)
        self._painted = 0.0
        self._live = widgets.HTML(live_html(self._board.view()))
        self._toggle = _button("Pause", "pause", self._on_toggle)
        self._cancel = _button("Cancel", "times", self._on_cancel)
        self._hint = widgets.HTML()
        self._hint.add_class("uk-hint")
        self._controls = widgets.HBox([self._toggle, self._cancel, self._hint])
        style = widgets.HTML(STYLE)
        self._box = widgets.VBox([style, self._live, self._controls])
        self._box.add_class("upload-kit-panel")
        self._widgets = [
            self._box,
            style,
            self._live,
            self._controls,
            self._toggle,
            self._cancel,
            self._hint,
        ]
        self._place: Place | None = None
        self.set_waiting(waiting=waiting)

    def display(self) -> None:
        """Show the panel in the cell that runs now; only in the cell's own thread."""
        self._place = Place(_WithCard(self._box, self._board))

    def set_waiting(self, *, waiting: bool) -> None:
        """Say what the stop button does while a cell waits."""
        self._hint.value = (
            "This cell waits. Its stop button (\N{BLACK SQUARE}) ends the waiting, not"
            " the upload."
            if waiting
            else ""
        )

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Paint once, whatever happened since the last time."""
        self._board.update(events)
        view = self._board.view()
        self._set_buttons(view.progress.status)
        with self._live.hold_sync():
            before = self._live.value
            self._live.value = live_html(view)
            now = time.monotonic()
            if self._live.value != before:
                self._painted = now
            elif now - self._painted > self._heartbeat:
                self._painted = now
                self._live.send_state("value")

    def close(self) -> None:
        """Put the static card in the place of the widgets."""
        view = self._board.view()
        self._live.value = live_html(view)
        self._controls.layout.display = "none"
        if self._place is None:
            return
        card = Card(self._board)
        self._place.update(card)
        again = threading.Timer(_AGAIN, self._leave, [card])
        again.daemon = True
        again.start()

    def _leave(self, card: Card) -> None:
        assert self._place is not None
        self._place.update(card)
        # Voila takes no updates of what it has rendered: the widgets stay there.
        if not is_voila():
            for widget in self._widgets:
                widget.close()

    def _set_buttons(self, status: UploadStatus) -> None:
        paused = status is UploadStatus.PAUSED
        wanted = ("Resume", "play") if paused else ("Pause", "pause")
        if (self._toggle.description, self._toggle.icon) != wanted:
            with self._toggle.hold_sync():
                self._toggle.description, self._toggle.icon = wanted
                self._toggle.disabled = False
        self._toggle.disabled = self._cancel.disabled = status.is_final

    def _on_toggle(self, _: widgets.Button) -> None:
        if self._job.is_paused:
            self._job.resume()
        else:
            self._job.pause()

    def _on_cancel(self, _: widgets.Button) -> None:
        self._job.cancel()


class _WithCard:
    """A widget, and what frontends show that have no widgets."""

    def __init__(self, widget: widgets.Widget, board: Board) -> None:
        self._widget = widget
        self._board = board

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        card = Card(self._board)._repr_mimebundle_()
        shown = self._widget._repr_mimebundle_(**options) or {}
        return {**shown, **card}


def _button(
    label: str, icon: str, on_click: Callable[[widgets.Button], None]
) -> widgets.Button:
    button = widgets.Button(description=label, icon=icon, layout={"width": "96px"})
    button.on_click(on_click)
    return button
