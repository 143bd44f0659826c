"""Settings: flags, then the environment, then files, then defaults; shown with why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest
from click.testing import CliRunner

from upload_kit.cli.main import cli
from upload_kit.cli.parameters import Settings
from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from click.testing import Result


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder and a home of one's own, and an empty environment."""
    for name in list(os.environ):
        if name.startswith("UPLOAD_KIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, obj=Settings())


def shown(*words: str) -> dict[str, dict[str, Any]]:
    """Return what `config show --json` prints, by command and key."""
    result = run(*words[:-1], "config", "show", "--json", *words[-1].split())
    assert result.exit_code == 0, result.output
    settings = [json.loads(line) for line in result.stdout.splitlines()]
    return {f"{one['command'] or ''}.{one['key']}": one for one in settings}


def refusal(content: str) -> str:
    """Return what is said of a file with this content."""
    Path("upload-kit.toml").write_text(content)
    result = run("config", "show")
    assert isinstance(result.exception, ConfigurationError), result.output
    return str(result.exception)


def user_file() -> Path:
    folder = platformdirs.user_config_path("upload_kit", appauthor=False)
    folder.mkdir(parents=True)
    return folder / "upload-kit.toml"


def test_an_earlier_place_wins_over_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flag, environment, working folder, user's folder, default: in this order."""
    assert shown("put")["put.parallel"]["origin"] == "default"
    seen = [shown("put")["put.parallel"]["value"]]

    home = user_file()
    home.write_text("[put]\nparallel = 4\nlimit = '1MB/s'\n")
    seen.append(shown("put")["put.parallel"]["value"])
    assert shown("put")["put.parallel"]["where"] == str(home)

    Path("upload-kit.toml").write_text("[put]\nparallel = 5\n")
    seen.append(shown("put")["put.parallel"]["value"])
    assert shown("put")["put.parallel"]["where"] == "upload-kit.toml"
    # Files win setting by setting, not as a whole.
    assert shown("put")["put.limit"]["where"] == str(home)

    monkeypatch.setenv("UPLOAD_KIT_PUT_PARALLEL", "6")
    seen.append(shown("put")["put.parallel"]["value"])
    assert shown("put")["put.parallel"]["where"] == "UPLOAD_KIT_PUT_PARALLEL"

    seen.append(shown("put --parallel 7")["put.parallel"]["value"])
    assert shown("put --parallel 7")["put.parallel"]["origin"] == "flag"
    assert seen == [3, 4, 5, 6, 7]


def test_a_named_file_is_the_only_one(folder: Path) -> None:
    """`--config` leaves the files in the usual places alone."""
    Path("upload-kit.toml").write_text("[put]\nparallel = 5\nname = 'x'\n")
    other = folder / "other.toml"
    other.write_text("[put]\nparallel = 9\n")
    settings = shown("--config", str(other), "put")
    assert settings["put.parallel"]["value"] == 9
    assert settings["put.name"]["origin"] == "default"


def test_the_environment_names_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UPLOAD_KIT_CONFIG` does what `--config` does; an empty file means none."""
    Path("upload-kit.toml").write_text("[put]\nparallel = 5\n")
    monkeypatch.setenv("UPLOAD_KIT_CONFIG", os.devnull)
    assert shown("put")["put.parallel"]["origin"] == "default"


def test_what_stands_above_the_tables_is_for_every_command() -> None:
    """One line is enough for all that have the same option; a table wins over it."""
    Path("upload-kit.toml").write_text(
        "session-dir = 'here'\nlog-format = 'json'\n[resume]\nsession-dir = 'there'\n"
    )
    settings = shown("")
    assert settings["put.session-dir"]["value"] == "here"
    assert settings["sessions.session-dir"]["value"] == "here"
    assert settings["resume.session-dir"]["value"] == "there"
    assert settings[".log-format"]["value"] == "json"


def test_a_setting_does_what_its_flag_does(folder: Path) -> None:
    """What a file says is what a real upload does."""
    Path("upload-kit.toml").write_text(
        "[put]\nchunk-size = 1000\njson = true\nlayer = 'feature'\n"
    )
    Path("a.bin").write_bytes(bytes(2500))
    result = subprocess.run(
        [sys.executable, "-m", "upload_kit", "put", "a.bin", f"file://{folder}/out"],
        env={**os.environ, "UPLOAD_KIT_SESSION_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
        check=True,
    )
    last = json.loads(result.stdout.splitlines()[-1])
    assert [chunk["size"] for chunk in last["chunks"]] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        pytest.param(
            "[put]\nparalel = 3\n", ["paralel", "[put]", "'parallel'?"], id="key"
        ),
        pytest.param("[pot]\nparallel = 3\n", ["'pot'", "'put'?"], id="table"),
        pytest.param("log-fromat = 'json'\n", ["'log-format'?"], id="above"),
        pytest.param(
            "[put]\nzzz = 1\n", ["Known are", "chunk-size"], id="nothing-near"
        ),
        pytest.param("[put]\nparallel = 'x'\n", ["[put] parallel", "'x'"], id="value"),
        pytest.param("[put]\nparallel = 0\n", ["[put] parallel", "0"], id="range"),
        pytest.param("[put]\nchunk-size = -5\n", ["[put] chunk-size"], id="size"),
        pytest.param("[put]\nlimit = true\n", ["a text or a number"], id="bool"),
        pytest.param("[put]\nquiet = 'yes'\n", ["true or false"], id="no-bool"),
        pytest.param("[put]\nlimit = [1]\n", ["a text or a number"], id="list"),
        pytest.param("json = true\n", ["different things", "[put]"], id="ambiguous"),
        pytest.param("config = 'x'\n", ["unknown setting 'config'"], id="config"),
        pytest.param("[put\n", ["is no TOML", "line 1"], id="syntax"),
    ],
)
def test_a_mistake_in_a_file_is_named(content: str, parts: list[str]) -> None:
    """The message says which file, which table, which key, and what to write."""
    message = refusal(content)
    for part in ["upload-kit.toml", *parts]:
        assert part in message


def test_a_mistake_in_a_file_is_wrong_use(folder: Path) -> None:
    """The shell's user gets one line and exit code 2, not a traceback."""
    Path("upload-kit.toml").write_text("[put]\nparalel = 3\n")
    result = subprocess.run(
        [sys.executable, "-m", "upload_kit", "sessions"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "Did you mean 'parallel'?" in result.stderr


def test_a_variable_is_called_after_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--dir` of `serve` is `UPLOAD_KIT_SERVE_DIR`, whatever the code calls it."""
    monkeypatch.setenv("UPLOAD_KIT_SERVE_DIR", "/srv/store")
    monkeypatch.setenv("UPLOAD_KIT_PUT_JSON", "1")
    monkeypatch.setenv("UPLOAD_KIT_LOG_FORMAT", "json")
    settings = shown("")
    assert settings["serve.dir"]["value"] == "/srv/store"
    assert settings["put.json"]["value"] is True
    assert settings[".log-format"]["value"] == "json"


def test_a_wrong_value_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable that cannot be used is an error, not a default."""
    monkeypatch.setenv("UPLOAD_KIT_PUT_PARALLEL", "many")
    result = run("config", "show")
    assert result.exit_code == 2
    assert "UPLOAD_KIT_PUT_PARALLEL" in result.output


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["table", "json"])
def test_secrets_are_not_shown(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens and the values of headers are told to be there, and nothing more."""
    monkeypatch.setenv("UPLOAD_KIT_TOKEN", "hunter2")
    Path("upload-kit.toml").write_text(
        "[put]\nheader = ['X-Key: swordfish']\n[serve]\ntoken = ['me:mellon']\n"
        "[history]\ndestination = 'https://me:open-sesame@host/?sig=abcdef'\n"
    )
    output = run("config", "show", *words).output
    for secret in ("hunter2", "swordfish", "mellon", "open-sesame", "abcdef"):
        assert secret not in output
    assert "X-Key: ***" in output


def test_the_table_says_which_files_are_read() -> None:
    """People see where they could write settings."""
    Path("upload-kit.toml").write_text("")
    lines = run("config", "show").output.splitlines()
    assert "File: upload-kit.toml (read)" in lines
    assert any("(not there, or not used)" in line for line in lines)
    assert any(line.startswith("Sessions and history: ") for line in lines)


def test_no_such_command_is_wrong_use() -> None:
    """A misspelt command is told."""
    result = run("config", "show", "pot")
    assert result.exit_code == 2
    assert "No such command 'pot'" in result.output
