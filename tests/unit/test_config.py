"""Settings: checked when they are made, and secrets that stay secret."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest

from upload_kit.config import (
    DEFAULT_CHUNK_SIZE,
    DEFAULT_PARALLEL,
    DEFAULT_SESSION_TTL,
    Compression,
    ConnectionOptions,
    RetryPolicy,
    Secret,
    TransferPolicy,
)
from upload_kit.errors import ConfigurationError

HIDDEN = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "show",
    [repr, str, "{}".format, "%s".__mod__, "{!r:>40}".format],
    ids=["repr", "str", "format", "percent", "format-repr"],
)
def test_secret_does_not_show_itself(show: Any) -> None:
    """However it is turned into text, there are three stars."""
    assert HIDDEN not in show(Secret(HIDDEN))
    assert "***" in show(Secret(HIDDEN))


def test_secret_is_compared_by_what_it_hides() -> None:
    """Two of the same are one key; only `reveal` gives it away."""
    assert Secret(HIDDEN) == Secret(HIDDEN)
    assert Secret(HIDDEN) != Secret("other")
    assert Secret(HIDDEN) != HIDDEN
    assert len({Secret(HIDDEN), Secret(HIDDEN)}) == 1
    assert Secret(HIDDEN).reveal() == HIDDEN


def test_options_do_not_show_their_secrets() -> None:
    """A repr in a traceback or a log has no token and no header's value."""
    options = ConnectionOptions(
        token=Secret(HIDDEN), headers=(("X-Api-Key", Secret(HIDDEN)),)
    )
    assert HIDDEN not in repr(options)
    assert "X-Api-Key" in repr(options)
    assert HIDDEN not in repr(dataclasses.asdict(options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("chunk_size", "max_parallel", "stall_timeout", "min_rate")
        for value in (0, -1, math.nan)
    ]
    + [("response_timeout", 0), ("read_timeout", 0), ("memory_budget", -5)],
)
def test_policy_out_of_range_is_refused(name: str, value: float) -> None:
    """The message names the field and the value."""
    with pytest.raises(
        ConfigurationError, match=f"{name} must be above 0, not {value}"
    ):
        TransferPolicy(**{name: value})  # type: ignore[arg-type] # That is the point.


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"max_elapsed": 0.0},
        {"base_delay": -0.1},
        {"max_delay": -1.0},
        {"base_delay": math.nan},
        {"max_delay": math.nan},
        {"max_retry_after": math.nan},
        {"max_retry_after": -1.0},
    ],
    ids=str,
)
def test_retry_policy_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    """No tries, no time, or a wait that is no number."""
    with pytest.raises(ConfigurationError):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    "name", ["max_connections", "connect_timeout", "response_timeout"]
)
def test_connection_options_out_of_range_are_refused(name: str) -> None:
    """None of them means no limit when it is zero."""
    with pytest.raises(ConfigurationError, match=name):
        ConnectionOptions(**{name: 0})  # type: ignore[arg-type] # That is the point.


@pytest.mark.parametrize(
    "headers",
    [
        (("X-Note", "a\r\nX-Evil: 1"),),
        (("X-Note", "a\0"),),
        (("X Note", "a"),),
        (("", "a"),),
        (("X-Näme", "a"),),
    ],
    ids=repr,
)
def test_header_that_cannot_travel_is_refused(
    headers: tuple[tuple[str, str], ...],
) -> None:
    """A line break in a header would begin another one; the value is not shown."""
    with pytest.raises(ConfigurationError) as refused:
        ConnectionOptions(headers=tuple((k, Secret(v)) for k, v in headers))
    assert "Evil" not in str(refused.value)


@pytest.mark.parametrize("token", ["", "a\n", "a b", "a\r\nX: 1", "tök"], ids=repr)
def test_token_that_cannot_travel_is_refused(token: str) -> None:
    """Such as one read from a file with the line's end."""
    with pytest.raises(ConfigurationError, match="token") as refused:
        ConnectionOptions(token=Secret(token))
    assert not token.strip() or token not in str(refused.value)


def test_defaults_are_what_the_documentation_says() -> None:
    """5 MiB, three at once, 48 hours."""
    assert DEFAULT_CHUNK_SIZE == 5 * 1024 * 1024
    assert DEFAULT_PARALLEL == 3
    assert DEFAULT_SESSION_TTL == 48 * 3600
    assert TransferPolicy().max_parallel == 1
    assert TransferPolicy().compression is Compression.OFF


def test_settings_never_change() -> None:
    """What was resolved at the edge stays."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        TransferPolicy().chunk_size = 1  # type: ignore[misc] # That is the point.


def test_settings_travel_between_processes() -> None:
    """A benchmark hands them to its workers."""
    policy = TransferPolicy(chunk_size=7, retry=RetryPolicy(attempts=2))
    assert pickle.loads(pickle.dumps(policy)) == policy
