"""An upload server in a forked process, which keeps its port when it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upload_kit.bench.campaigns.forks import START_SECONDS
from upload_kit.errors import UploadKitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from upload_kit.bench.campaigns.forks import Fork, ForkServer

_SERVE = "upload_kit.bench.campaigns.children:serve_folder"


class ForkedServer:
    """
    A server over a folder; started, killed and started again.

    Args:
        forks: Where processes come from.

        folder: What it stores to.

        environment: Variables of its environment.

        call: What the process does.

        patience: Seconds that it may take to start.

        settings: Of its `ServerConfig`, as JSON.
    """

    def __init__(
        self,
        forks: ForkServer,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        call: str = _SERVE,
        patience: float = START_SECONDS,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.port = 0
        self.url = ""
        self.settings = settings
        self._forks = forks
        self._environment = environment
        self._call = call
        self._patience = patience
        self._fork: Fork | None = None

    @property
    def process(self) -> Fork:
        """The process; only while it runs."""
        assert self._fork is not None
        return self._fork

    async def start(self) -> None:
        """
        Start it, and wait until it accepts connections.

        Raises:
            UploadKitError: It did not start.
        """
        order = {"directory": str(self.folder), "port": self.port, **self.settings}
        self._fork = await self._forks.fork(
            self._call, order, environment=self._environment
        )
        said = await self._fork.hear(self._patience)
        if said is None:
            raise UploadKitError(f"No server over {self.folder} has started.")
        self.url = said["url"]
        self.port = urlsplit(self.url).port or 0

    async def kill(self) -> None:
        """End it with kill -9."""
        await self.process.kill()

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        await self.process.terminate()
