"""What tests of more than one module start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.tus_api import TusApi, tus_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def tus(tmp_path: Path) -> AsyncIterator[TusApi]:
    async with tus_server(tmp_path / "s", busy_timeout=2.0) as tus:
        yield tus
