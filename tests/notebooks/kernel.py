"""A real kernel, spoken to as a frontend does: cells queued, messages by their cell."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PATIENCE: Final = 40.0

# By these a kernel knows that nobody watches it, or who has started it.
_SIGNS: Final = frozenset(
    {
        "CI",
        "BINDER_LAUNCH_HOST",
        "BINDER_SERVICE_HOST",
        "JUPYTERHUB_API_URL",
        "SERVER_SOFTWARE",
    }
)


@dataclass(kw_only=True)
class Cell:
    """One cell that was run, and what came out of it."""

    code: str
    """What was run."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """Its output messages, in order."""

    done: bool = False
    """Whether the kernel said that it is idle again."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the contents of its messages of one kind."""
        return [one["content"] for one in self.messages if one["msg_type"] == kind]

    @property
    def text(self) -> str:
        """What it printed, and what its values look like as text."""
        printed = [content["text"] for content in self.of("stream")]
        shown = [
            content["data"].get("text/plain", "")
            for kind in ("display_data", "execute_result", "update_display_data")
            for content in self.of(kind)
        ]
        return "".join(printed) + "\n".join(shown)

    @property
    def error(self) -> str | None:
        """The class of the error that ended it."""
        errors = self.of("error")
        return errors[0]["ename"] if errors else None


def kernel_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a kernel in front of which a person sits."""
    outside = {name: value for name, value in os.environ.items() if name not in _SIGNS}
    return {**outside, **own}


class Kernel:
    """A running kernel and its client."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(env=kernel_environment(environment))
        self._connect()
        self.stray: list[dict[str, Any]] = []
        self.all: list[dict[str, Any]] = []

    def _connect(self) -> None:
        self._cells: dict[str, Cell] = {}
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=_PATIENCE)

    def queue(self, *codes: str) -> list[Cell]:
        """Send cells without waiting, as "Run All" does."""
        cells = []
        for code in codes:
            cell = Cell(code=code)
            self._cells[self._client.execute(code, stop_on_error=False)] = cell
            cells.append(cell)
        return cells

    def run(self, *codes: str) -> list[Cell]:
        """Send cells without waiting, and collect until all of them are done."""
        cells = self.queue(*codes)
        self.finish(*cells)
        return cells

    def cell(self, code: str) -> Cell:
        """Run one cell; it must not fail."""
        [cell] = self.run(code)
        assert cell.error is None, cell.of("error")
        return cell

    def finish(self, *cells: Cell, timeout: float = _PATIENCE) -> None:
        """Collect messages until these cells are done."""
        deadline = time.monotonic() + timeout
        while not all(cell.done for cell in cells):
            left = [cell.code for cell in cells if not cell.done]
            assert time.monotonic() < deadline, f"not done: {left}"
            self.collect(0.5)

    def until(self, cell: Cell, text: str) -> None:
        """Collect messages until a cell has printed something."""
        deadline = time.monotonic() + _PATIENCE
        while text not in cell.text:
            assert time.monotonic() < deadline, f"{text!r} is not in {cell.text!r}"
            self.collect(0.5)

    def collect(self, seconds: float) -> None:
        """Take in one message, or wait that long for none."""
        with contextlib.suppress(queue.Empty):
            message = self._client.get_iopub_msg(timeout=seconds)
            self.all.append(message)
            cell = self._cells.get(message["parent_header"].get("msg_id", ""))
            if cell is None:
                self.stray.append(message)
                return
            cell.messages.append(message)
            if message["content"].get("execution_state") == "idle":
                cell.done = True

    def drain(self, seconds: float) -> None:
        """Take in everything that comes in that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.collect(left)

    def interrupt(self) -> None:
        """Press the stop button."""
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """End the kernel at once, and start a new one."""
        self._restart(now=True)

    def restart(self) -> None:
        """Restart the kernel as the frontend's button does."""
        self._restart(now=False)

    def _restart(self, *, now: bool) -> None:
        self._client.stop_channels()
        self._manager.restart_kernel(now=now)
        self._connect()

    def click(self, comm_id: str) -> None:
        """Click the button behind a comm, as a frontend does."""
        message = self._client.session.msg(
            "comm_msg",
            {
                "comm_id": comm_id,
                "data": {
                    "method": "custom",
                    "content": {"event": "click"},
                },
            },
        )
        self._client.shell_channel.send(message)

    def buttons(self, cell: Cell) -> dict[str, str]:
        """Return the comms of a cell's buttons, by what they say."""
        found = {}
        for content in cell.of("comm_open"):
            state = content["data"].get("state", {})
            if state.get("_model_name") == "ButtonModel":
                found[state["description"]] = content["comm_id"]
        return found

    def close(self) -> None:
        """End it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def open_kernel(environment: Mapping[str, str]) -> Iterator[Kernel]:
    """Start a kernel, and end it."""
    kernel = Kernel(environment)
    try:
        yield kernel
    finally:
        kernel.close()
