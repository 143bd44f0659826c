"""`upload-kit serve`: it starts, tells where, obeys its options, and ends well."""

from __future__ import annotations

import json
import re
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import click
import pytest

from tests.shell import Shell
from upload_kit.cli.serve import make_config, serve
from upload_kit.config import Secret
from upload_kit.server.config import Forwarding, ForwardName, ServerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        yield made


def config_of(*words: str) -> ServerConfig:
    """Return the settings that options stand for."""
    context = serve.make_context("serve", list(words))
    given = {k: v for k, v in context.params.items() if k != "as_json"}
    return make_config(**given)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(shell: Shell, number: int) -> None:
    """It says where it is once it is ready, takes files, and ends with 0."""
    running = shell.start("serve", "--port", "0", "--dir", "store", "--json")
    url = running.wait_for(lambda line: "url" in line)["url"]
    (shell.folder / "data.bin").write_bytes(b"hello")
    assert shell.run("put", "data.bin", url).code == 0
    ending = running.interrupt(number)
    assert ending.code == 0
    assert "Traceback" not in ending.err
    assert ending.lines == [{"url": url, "pid": running.process.pid}]
    stored = list((shell.folder / "store").rglob("data.bin"))
    assert [path.read_bytes() for path in stored] == [b"hello"]


def test_people_are_told_in_words(shell: Shell) -> None:
    """Without --json a sentence says where it is and how to end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = shell.start("serve", "--port", str(port), "--dir", "store")
    line = running.next_line()
    assert line.startswith(b"Keeps files in store. Ready at http://127.0.0.1:")
    assert running.interrupt(signal.SIGINT).code == 0


def test_its_limits_hold(shell: Shell) -> None:
    """What an option forbids is refused, with a reason."""
    running = shell.start(
        *("serve", "--port", "0", "--dir", "store", "--json", "--max-size", "1kB")
    )
    url = running.wait_for(lambda line: "url" in line)["url"]
    (shell.folder / "big.bin").write_bytes(bytes(2000))
    done = shell.run("put", "big.bin", url)
    assert done.code == 1
    assert done.err.startswith("upload-kit: ")


def test_several_workers_share_a_port(shell: Shell) -> None:
    """--workers starts processes on one port, and they end together."""
    running = shell.start(
        *("serve", "--port", "0", "--dir", "store", "--json", "--workers", "2")
    )
    url = running.wait_for(lambda line: "url" in line)["url"]
    for index in range(4):
        (shell.folder / f"{index}.bin").write_bytes(bytes([index]) * 1000)
    done = shell.run("put", "*.bin", url)
    assert done.code == 0, done.err
    ending = running.interrupt(signal.SIGTERM)
    assert ending.code == 0, ending.err


def test_a_port_that_is_taken(shell: Shell) -> None:
    """A port that somebody else has is wrong use, and no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = shell.run("serve", "--port", port, "--dir", "store")
    assert done.code == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in done.err
    assert done.err.count("\n") == 1


def test_a_folder_that_cannot_be(shell: Shell) -> None:
    """A folder that cannot be made is wrong use, and no traceback."""
    (shell.folder / "file").touch()
    done = shell.run("serve", "--port", "0", "--dir", "file/store")
    assert done.code == 2
    assert "Cannot keep uploads in file/store" in done.err


def test_everybody_is_warned_of(shell: Shell) -> None:
    """A server without tokens that others can reach says so."""
    running = shell.start(
        *("serve", "--host", "0.0.0.0", "--port", "0", "--dir", "store", "--json")
    )
    running.wait_for(lambda line: "url" in line)
    ending = running.interrupt(signal.SIGTERM)
    assert "there are no tokens" in ending.err


def test_options_that_are_not_given_are_the_servers_own() -> None:
    """The command's defaults are those of the settings: there is one truth."""
    assert config_of("--dir", "store") == ServerConfig(directory="store")


OPTIONS = {
    "host": ("0.0.0.0", "host", "0.0.0.0"),
    "port": ("9", "port", 9),
    "prefix": ("/store", "prefix", "/store"),
    "workers": ("3", "workers", 3),
    "durability": ("page-cache", "durability", "page-cache"),
    "max-size": ("1GB", "max_size", 10**9),
    "max-chunk": ("8MiB", "max_chunk", 2**23),
    "max-chunks": ("7", "max_chunks", 7),
    "quota": ("2TB", "quota", 2 * 10**12),
    "max-sessions": ("5", "max_sessions", 5),
    "rate-limit": ("10MB/s", "rate_limit", 10**7),
    "request-limit": ("2.5", "request_limit", 2.5),
    "idle-timeout": ("5s", "idle_timeout", 5.0),
    "expires-after": ("2d", "expires_after", 172_800.0),
    "cleanup-interval": ("10m", "cleanup_interval", 600.0),
    "grace": ("2s", "grace", 2.0),
    "memory-budget": ("32MiB", "memory_budget", 2**25),
    "allow-origin": ("https://a.b", "allowed_origins", {"https://a.b"}),
}


@pytest.mark.parametrize(
    ("option", "field"), [(name, value[1]) for name, value in OPTIONS.items()]
)
def test_each_option_reaches_the_server(option: str, field: str) -> None:
    """An option is the setting of its name, with units read."""
    typed, _, expected = OPTIONS[option]
    assert getattr(config_of(f"--{option}", typed), field) == expected


def test_tokens_are_hidden(shell: Shell, tmp_path: Path) -> None:
    """A server's tokens are shown by nothing, and may come from a file."""
    (tmp_path / "tokens").write_text("a:one\n")
    config = config_of("--token", "x:hunter2", "--token-file", str(tmp_path / "tokens"))
    assert "hunter2" not in repr(config)
    assert config.tokens[0].reveal() == "x:hunter2"
    assert config.token_file == tmp_path / "tokens"
    shown = shell.run("config", "show", "serve", "--token", "x:hunter2")
    assert shown.code == 0, shown.err
    assert "hunter2" not in shown.out


def test_forwarding_keeps_its_secrets(shell: Shell, tmp_path: Path) -> None:
    """Where files go on to is set like the rest; its secrets never stand in clear."""
    (tmp_path / "token").write_text("hunter2\n")
    config = config_of(
        *("--forward", "s3://bucket/in/", "--forward-names", "unique"),
        *("--forward-token-file", str(tmp_path / "token"), "--forward-remove"),
        *("--forward-limit", "10MB/s"),
    )
    assert config.forward == Forwarding(
        url=Secret("s3://bucket/in/"),
        token=Secret("hunter2"),
        names=ForwardName.UNIQUE,
        remove=True,
        limit=10_000_000,
    )
    assert "hunter2" not in repr(config)
    for name, value in (("", "http://u:hunter2@h/"), ("-token", "hunter2")):
        with pytest.raises(click.BadParameter) as refused:
            config_of(f"--forward{name}", value)
        assert "hunter2" not in refused.value.format_message()
    variables = {
        "UPLOAD_KIT_SERVE_FORWARD": "http://u:hunter2@h/",
        "UPLOAD_KIT_SERVE_FORWARD_TOKEN": "hunter2",
        "UPLOAD_KIT_SERVE_FORWARD_LIMIT": "20MB/s",
    }
    shown = shell.run("config", "show", "serve", environment=variables)
    assert shown.code == 0, shown.err
    assert "hunter2" not in shown.out
    assert "http://***@h/" in shown.out
    assert re.search(r"serve.forward-limit +20.* UPLOAD_KIT_", shown.out)


def test_a_server_that_throws_away_cannot_have_workers(shell: Shell) -> None:
    """Options that cannot work together are wrong use."""
    done = shell.run("serve", "--dir", "null:", "--workers", "2", "--port", "0")
    assert done.code == 2
    assert "null:" in done.err


def test_help_tells_of_every_setting() -> None:
    """Whatever the server can be told, the command can: nothing is left to code."""
    options = {
        option.name
        for option in serve.params
        if isinstance(option, click.Option) and option.expose_value
    }
    settings = set(ServerConfig.__dataclass_fields__)
    # What concerns forwarding is a record of its own.
    forwarding = {name for name in options if name.startswith("forward_")}
    assert {name.removeprefix("forward_") for name in forwarding} == {
        *Forwarding.__dataclass_fields__.keys() - {"url"},
        "token_file",
    }
    options -= forwarding
    inner = {
        "default_chunk",
        "max_metadata_keys",
        "max_metadata_bytes",
        "min_rate",
        "rate_window",
        "header_timeout",
        "busy_timeout",
    }
    assert settings - options == inner
    assert json.dumps(sorted(options - settings)) == '["as_json"]'
