"""One worker process: `python -m upload_kit.server.worker`, started by `workers.py`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from upload_kit.errors import ConfigurationError
from upload_kit.logs import about, set_up_logging
from upload_kit.server.app import TOKENS, WorkerRole, running_server
from upload_kit.server.process import listener, on_hangup, stop_signal, tune_memory
from upload_kit.server.workers import READY, read_order

if TYPE_CHECKING:
    from upload_kit.server.workers import WorkerOrder


def main() -> int:
    """Serve until SIGTERM, SIGINT, or the end of standard input: the parent died."""
    order = read_order(sys.stdin.buffer)
    set_up_logging(order.logs)
    tune_memory()
    try:
        with about(worker=str(order.index)):
            asyncio.run(_serve(order))
    except ConfigurationError as error:
        sys.stderr.write(f"Worker {order.index}: {error}\n")
        return 2
    return 0


async def _serve(order: WorkerOrder) -> None:
    role = WorkerRole(cleans=order.index == 0, rates_fd=order.rates_fd)
    with listener(order.config, reuse_port=True) as bound:
        async with (
            stop_signal() as stop,
            running_server(order.config, listener=bound, role=role) as server,
        ):
            await _stop_with_parent(stop)
            with on_hangup(server.app[TOKENS].reload):
                os.write(sys.stdout.fileno(), READY)
                await stop.wait()


async def _stop_with_parent(stop: asyncio.Event) -> None:
    """End when standard input does: nobody is left who would end this process."""

    class Watch(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            stop.set()

    await asyncio.get_running_loop().connect_read_pipe(Watch, sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(main())
