"""Displays without widgets: a card that is written anew, and one at the end."""

from __future__ import annotations

import contextvars
import sys
from typing import TYPE_CHECKING, Any

from upload_kit.notebook.board import Board
from upload_kit.notebook.card import card_html, card_text
from upload_kit.notebook.places import Place, is_kernel, put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.api.jobs import Job
    from upload_kit.events import UploadEvent


class Card:
    """A job as it stood when the card was made; HTML for a notebook, else text."""

    def __init__(self, board: Board) -> None:
        self._view = board.view()

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {"text/html": card_html(self._view), "text/plain": card_text(self._view)}

    def __repr__(self) -> str:
        """Return the card as text."""
        return card_text(self._view)


class HtmlDisplay:
    """
    A card that is written anew twice a second, for notebooks without widgets.

    Args:
        job: What is shown.
    """

    pause = 0.5

    def __init__(self, job: Job[Any]) -> None:
        self._board = Board(job)
        self._place: Place | None = None
        # Frontends that go by the cell, not by the display's ID, find it with this.
        self._cell = contextvars.copy_context()

    def display(self) -> None:
        """Show the card in the cell that runs now; only in the cell's own thread."""
        self._place = Place(Card(self._board))

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Write the card anew."""
        self._board.update(events)
        if self._place is not None:
            self._cell.run(self._place.update, Card(self._board))

    def close(self) -> None:
        """Write it for the last time."""
        self.show(())


class StaticDisplay:
    """
    Shows nothing until somebody has waited for the end; then a card, or lines of text.

    Args:
        job: What is shown.
    """

    pause = 0.1

    def __init__(self, job: Job[Any]) -> None:
        self._board = Board(job)

    def show(self, events: Sequence[UploadEvent]) -> None:
        """Remember what happened."""
        self._board.update(events)

    def close(self) -> None:
        """Nothing was shown yet."""

    def tell(self) -> None:
        """Show how it ended, in the cell that runs now."""
        card = Card(self._board)
        if is_kernel():
            put(card)
        else:
            print(card, file=sys.stderr)  # noqa: T201 (this is the display)
