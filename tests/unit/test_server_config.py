"""Settings that cannot work are refused before anything is opened."""

from __future__ import annotations

from typing import Any

import pytest

from upload_kit.config import Secret
from upload_kit.errors import ConfigurationError
from upload_kit.server import ServerConfig


@pytest.mark.parametrize(
    "options",
    [
        {"port": -1},
        {"port": 65536},
        {"workers": 0},
        {"max_chunk": 0},
        {"max_size": 0},
        {"quota": -1},
        {"rate_limit": 0},
        {"grace": -1},
        {"min_rate": -1},
        {"idle_timeout": 0},
        {"expires_after": 0},
        {"max_chunk": 10},
        {"prefix": "store"},
        {"prefix": "/store/"},
        {"prefix": "/{store}"},
        {"directory": "null:", "workers": 2},
    ],
    ids=str,
)
def test_settings_are_refused(options: dict[str, Any]) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError) as caught:
        ServerConfig(**{"directory": "x", **options})
    assert any(name in str(caught.value) for name in (*options, "null:"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("", False),
        ("example.org", False),
    ],
)
def test_loopback_is_known(host: str, *, expected: bool) -> None:
    """Whether others can reach the server decides whether it warns."""
    assert ServerConfig(directory="x", host=host).is_loopback is expected


def test_tokens_do_not_show() -> None:
    """A configuration can be logged."""
    config = ServerConfig(directory="x", tokens=(Secret("me:hunter2"),))
    assert "hunter2" not in repr(config)
    assert not config.is_open
