"""`upload-kit put`: what it takes, what it prints, and that it arrives."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.shell import Shell
from upload_kit.models import StreamingProgress, UploadResult
from upload_kit.server.child import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = sys.executable
TOKEN = "t0ken-of-the-tests"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server") / "store"
    with ServerProcess(folder, "--token", f"tests:{TOKEN}") as running:
        yield running


def make_file(path: Path, size: int) -> bytes:
    data = random.Random(os.fsencode(path)).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def visible(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by its path, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("layer", ["foundation", "feature", "polish"])
def test_each_layer_stores_the_same_bytes(shell: Shell, layer: str) -> None:
    """Whatever the layer, the file arrives under its own name, and nothing else."""
    data = make_file(shell.folder / "data.bin", 300_000)
    target = shell.folder / "store"
    done = shell.run(
        "put",
        *("--layer", layer, "--chunk-size", "64KiB", "--json"),
        "data.bin",
        f"file://{target}",
    )
    assert done.code == 0, done.err
    assert visible(target) == {"data.bin": data}
    assert len(done.lines[-1]["chunks"]) == 5


def test_json_is_progress_and_then_the_result(shell: Shell) -> None:
    """Every line parses; all but the last are progress, and nothing goes to stderr."""
    data = make_file(shell.folder / "data.bin", 300_000)
    done = shell.run("put", "--json", "--chunk-size", "64KiB", "data.bin", "memory://x")
    *progress, last = done.out.splitlines()
    told = [StreamingProgress.from_json(line) for line in progress]
    result = UploadResult.from_json(last)
    assert told[0].kind == "started"
    assert [line.is_final for line in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].result == result
    assert sum(line.kind == "confirmed" for line in told) == 5
    assert result.success
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    assert done.err == ""


def test_json_of_a_failure_ends_with_its_result(shell: Shell) -> None:
    """A program learns from the last line that, and why, an upload failed."""
    done = shell.run("put", "--json", "none.bin", "memory://x")
    assert done.code == 1
    result = UploadResult.from_json(done.out.splitlines()[-1])
    assert not result.success
    assert result.error_type == "SourceError"
    assert done.lines[-2]["kind"] == "failed"


def test_plain_lines_in_a_pipe(shell: Shell) -> None:
    """A pipe gets the start and the end as lines, without a terminal's tricks."""
    make_file(shell.folder / "data.bin", 300_000)
    done = shell.run("put", "data.bin", f"file://{shell.folder}/store")
    first, *_, last = done.out.splitlines()
    assert first == "data.bin: uploading 300.00 kB in 1 chunk"
    assert last.startswith("data.bin: 300.00 kB in ")
    assert "SHA-256 verified" in last
    assert last.endswith(f"file://{shell.folder}/store/data.bin")
    assert "\x1b" not in done.out
    assert "\r" not in done.out
    assert done.err == ""


def test_a_slow_upload_is_told_at_its_tenths(shell: Shell) -> None:
    """In between there are lines, at each tenth and at most one in two seconds."""
    make_file(shell.folder / "data.bin", 1_000_000)
    done = shell.run(
        "put",
        *("--limit", "200kB/s", "--chunk-size", "10kB", "--compress", "off"),
        *("data.bin", "memory://x"),
    )
    between = done.out.splitlines()[1:-1]
    assert 1 <= len(between) <= 3
    for line in between:
        assert line.startswith("data.bin: ")
        assert " of 1.00 MB, " in line
        assert line.endswith("left")


def test_quiet_prints_nothing(shell: Shell) -> None:
    """`--quiet` leaves the exit code, and errors."""
    make_file(shell.folder / "data.bin", 10)
    done = shell.run("put", "-q", "data.bin", "memory://x")
    assert (done.code, done.out, done.err) == (0, "", "")
    failed = shell.run("put", "-q", "none.bin", "memory://x")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err != ""


def test_an_empty_file(shell: Shell) -> None:
    """An empty file is a file."""
    (shell.folder / "empty.bin").touch()
    done = shell.run("put", "empty.bin", f"file://{shell.folder}/store")
    assert done.code == 0, done.err
    assert visible(shell.folder / "store") == {"empty.bin": b""}


def test_a_folder_keeps_its_shape(shell: Shell) -> None:
    """Every file of a folder goes by its path below it, hidden ones too."""
    names = ["a.bin", ".hidden", "sub/b.bin", "sub/deeper/c.bin"]
    files = {name: make_file(shell.folder / "data" / name, 1000) for name in names}
    done = shell.run("put", "data", f"file://{shell.folder}/store")
    assert done.code == 0, done.err
    assert visible(shell.folder / "store") == files
    assert done.out.splitlines()[-1].startswith("4 of 4 files, 4.00 kB in ")


def test_a_pattern_that_the_shell_left_alone(shell: Shell) -> None:
    """A quoted pattern finds files at any depth, by their paths below its folder."""
    for name in ("a.csv", "a.txt", "sub/b.csv", "sub/deeper/c.csv"):
        make_file(shell.folder / "data" / name, 100)
    done = shell.run("put", "data/**/*.csv", f"file://{shell.folder}/store")
    assert done.code == 0, done.err
    found = set(visible(shell.folder / "store"))
    assert found == {"a.csv", "sub/b.csv", "sub/deeper/c.csv"}


def test_a_name_for_one_file(shell: Shell) -> None:
    """`--name` says what a file is called, with folders if need be."""
    data = make_file(shell.folder / "data.bin", 100)
    shell.run(
        "put", "--name", "2026/new.bin", "data.bin", f"file://{shell.folder}/store"
    )
    assert visible(shell.folder / "store") == {"2026/new.bin": data}


def test_a_name_that_climbs_out_is_refused(shell: Shell) -> None:
    """A destination's folder is not left, whatever a name says."""
    make_file(shell.folder / "data.bin", 100)
    done = shell.run(
        "put", "--name", "../out.bin", "data.bin", f"file://{shell.folder}/store"
    )
    assert done.code == 1
    assert not (shell.folder / "out.bin").exists()


@pytest.mark.parametrize("size", [0, 1, 200_000], ids=["empty", "one-byte", "chunks"])
def test_a_stream_of_unknown_length(
    shell: Shell, server: ServerProcess, size: int
) -> None:
    """`-` uploads what a pipe brings, chunk by chunk, until it ends."""
    data = random.Random(size).randbytes(size)
    done = shell.run(
        "put",
        *("-", server.url, "--name", f"stream{size}", "--json"),
        *("--token", TOKEN, "--chunk-size", "64KiB"),
        stdin=data,
    )
    assert done.code == 0, done.err
    result = done.lines[-1]
    assert result["size"] == size
    assert result["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_stream_that_is_a_file(shell: Shell) -> None:
    """Standard input that was redirected from a file has a known length."""
    data = make_file(shell.folder / "data.bin", 100_000)
    with (shell.folder / "data.bin").open("rb") as file:
        done = shell.run("put", "--json", "-", "memory://x", "--name", "s", stdin=file)
    assert done.lines[-1]["sha256"] == hashlib.sha256(data).hexdigest()
    planned = next(line for line in done.lines if line.get("kind") == "planned")
    assert planned["progress"]["total"] == 100_000


def test_a_closed_standard_input(shell: Shell) -> None:
    """A standard input that is closed is told, not tripped over."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m upload_kit put - memory://x --name s <&-', PYTHON],
        capture_output=True,
        text=True,
        env=shell.environment,
        cwd=shell.folder,
        check=False,
    )
    assert done.returncode == 1
    assert "Standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_file_that_fails_stops_no_other(shell: Shell) -> None:
    """The others arrive, the failure is named, and the exit code is 1."""
    for name in ("a.bin", "b.bin"):
        make_file(shell.folder / name, 1000)
    done = shell.run(
        "put", "a.bin", "none.bin", "b.bin", f"file://{shell.folder}/store"
    )
    assert done.code == 1
    assert set(visible(shell.folder / "store")) == {"a.bin", "b.bin"}
    assert done.err.startswith("upload-kit: none.bin: There is no file")
    assert done.err.count("\n") == 1
    assert done.out.splitlines()[-1].startswith("2 of 3 files")


def test_failures_with_the_same_reason_are_told_once(
    shell: Shell, server: ServerProcess
) -> None:
    """Seven files that a server refuses make one message, not seven."""
    for index in range(7):
        make_file(shell.folder / "many" / f"{index}.bin", 2_000_000)
    done = shell.run("put", "many", server.url)
    assert done.code == 1
    complaints = [line for line in done.err.splitlines() if "401" in line]
    assert len(complaints) == 1
    assert "and 2 more" in complaints[0]


def test_existing_files_are_left_alone_if_told(shell: Shell) -> None:
    """`--no-overwrite` fails where something stands, and leaves it as it is."""
    make_file(shell.folder / "data.bin", 100)
    (shell.folder / "store").mkdir()
    (shell.folder / "store" / "data.bin").write_text("before")
    where = f"file://{shell.folder}/store"
    done = shell.run("put", "--no-overwrite", "data.bin", where)
    assert done.code == 1
    assert "exists already" in done.err
    assert visible(shell.folder / "store") == {"data.bin": b"before"}
    assert shell.run("put", "data.bin", where).code == 0


@pytest.mark.parametrize("way", ["flag", "file", "environment"])
def test_a_token_opens_the_server(
    shell: Shell, server: ServerProcess, way: str
) -> None:
    """A token comes as a flag, from a file or from the environment."""
    make_file(shell.folder / "data.bin", 100)
    (shell.folder / "token").write_text(f"{TOKEN}\n")
    words = {"flag": ["--token", TOKEN], "file": ["--token-file", "token"]}
    environment = {"UPLOAD_KIT_TOKEN": TOKEN} if way == "environment" else {}
    done = shell.run(
        "put", *words.get(way, []), "data.bin", server.url, environment=environment
    )
    assert done.code == 0, done.err
    assert TOKEN not in done.out + done.err


@pytest.mark.parametrize("words", [[], ["--token", "wrong"]], ids=["none", "wrong"])
def test_a_wrong_token_is_told_at_once(
    shell: Shell, server: ServerProcess, words: list[str]
) -> None:
    """A server that does not know us is not asked again and again."""
    make_file(shell.folder / "data.bin", 100)
    done = shell.run("put", *words, "data.bin", server.url)
    assert done.code == 1
    assert "401" in done.err
    assert "tries again" not in done.out
    assert "Traceback" not in done.err


def test_a_header_may_carry_the_token(shell: Shell, server: ServerProcess) -> None:
    """`--header` adds to every request, and is not shown."""
    make_file(shell.folder / "data.bin", 100)
    header = f"Authorization: Bearer {TOKEN}"
    done = shell.run("put", "-v", "--header", header, "data.bin", server.url)
    assert done.code == 0, done.err
    assert TOKEN not in done.out + done.err


def test_compression_is_as_told(shell: Shell, server: ServerProcess) -> None:
    """What compresses travels in fewer bytes if asked, and in all of them if not."""
    (shell.folder / "zeros.bin").write_bytes(bytes(2_000_000))
    sent = {}
    for how in ("off", "gzip", "zstd"):
        done = shell.run(
            "put",
            *("--compress", how, "--json", "--token", TOKEN, "--name", how),
            *("zeros.bin", server.url),
        )
        assert done.code == 0, done.err
        sent[how] = done.lines[-1]["bytes_sent"]
    assert sent["off"] == 2_000_000
    assert max(sent["gzip"], sent["zstd"]) < 100_000


def test_layers_without_sessions_keep_none(shell: Shell) -> None:
    """Only the polish layer remembers uploads; the others write history alone."""
    make_file(shell.folder / "data.bin", 100)
    for layer in ("foundation", "feature"):
        assert shell.run("put", "--layer", layer, "data.bin", "memory://x").code == 0
    assert not (shell.state / "sessions").exists()
    assert (shell.state / "history.db").exists()


@pytest.mark.parametrize("words", [["--json"], []], ids=["json", "plain"])
def test_a_reader_that_goes_away_does_not_end_an_upload(
    shell: Shell, words: list[str]
) -> None:
    """`put ... | head -1` uploads to the end; the exit code tells how it went."""
    names = ["a.bin", "b.bin"]
    files = {name: make_file(shell.folder / name, 500_000) for name in names}
    with subprocess.Popen(
        [
            *(PYTHON, "-m", "upload_kit", "put", "--limit", "1MB/s", *words),
            *("--chunk-size", "10kB", *names, f"file://{shell.folder}/store"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=shell.environment,
        cwd=shell.folder,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() != b""
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
    assert visible(shell.folder / "store") == files


def test_a_file_name_that_is_no_utf8(shell: Shell) -> None:
    """A name of any bytes arrives, and is printed without harm."""
    name = os.fsdecode(b"\xe9\xff \x1b[31m.bin")
    data = make_file(shell.folder / name, 100)
    done = shell.run("put", name, f"file://{shell.folder}/store")
    assert done.code == 0, done.err
    assert visible(shell.folder / "store") == {name: data}
    assert "\x1b" not in done.out
    listed = shell.run("put", "--json", name, "memory://x")
    assert listed.code == 0, listed.err
    assert listed.lines[-1]["success"]


def test_one_bar_on_a_terminal(shell: Shell) -> None:
    """A terminal shows a bar that fills, and then what became of the file."""
    make_file(shell.folder / "data.bin", 1_000_000)
    done = shell.on_terminal(
        "put",
        *("--limit", "500kB/s", "--chunk-size", "50kB", "data.bin", "memory://x"),
    )
    assert done.code == 0
    frames = [frame for frame in done.text.split("\r") if "data.bin" in frame]
    shares = {frame.split("%")[0].split()[-1] for frame in frames if "%" in frame}
    assert len(shares) > 3
    assert "1.00 MB of 1.00 MB" in done.text
    assert "left" in done.text
    assert "kB/s" in done.text
    assert "done in" in done.text
    assert done.text.rstrip().endswith("memory://x/data.bin")


def test_many_bars_on_a_terminal(shell: Shell) -> None:
    """Many files have a total, and at most five bars besides."""
    for index in range(12):
        make_file(shell.folder / "many" / f"{index:02}.bin", 20_000)
    done = shell.on_terminal("put", "--limit", "200kB/s", "many", "memory://x")
    assert done.code == 0
    assert "12 of 12 files 100%" in done.text
    assert done.text.rstrip().splitlines()[-1].startswith("12 of 12 files, 240.00 kB")
    # The cursor never goes further down than the total and five bars.
    assert "\r\n" * 5 in done.out
    assert "\r\n" * 6 not in done.out


def test_a_failure_on_a_terminal_is_red(shell: Shell) -> None:
    """The one red line of an error follows the bars, whose last state stays."""
    make_file(shell.folder / "a.bin", 1000)
    done = shell.on_terminal("put", "a.bin", "none.bin", "memory://x")
    assert done.code == 1
    assert "\x1b[31mupload-kit: none.bin: There is no file" in done.out
    assert "1 failed" in done.text


def test_colours_can_be_turned_off(shell: Shell) -> None:
    """NO_COLOR is obeyed; the words stay. Source: no-color.org."""
    make_file(shell.folder / "a.bin", 1000)
    words = ("put", "a.bin", "none.bin", "memory://x")
    done = shell.on_terminal(*words, environment={"NO_COLOR": "1"})
    assert "\x1b[3" not in done.out
    assert "failed" in done.text


def test_a_narrow_terminal(shell: Shell) -> None:
    """No line is longer than the terminal is wide."""
    make_file(shell.folder / ("long" * 20 + ".bin"), 100_000)
    done = shell.on_terminal(
        "put", "--limit", "100kB/s", "long" * 20 + ".bin", "memory://x", columns=60
    )
    assert done.code == 0
    drawn = [frame for frame in done.text.split("\r") if "|" in frame]
    assert drawn
    assert max(len(frame.rstrip("\n")) for frame in drawn) <= 60
