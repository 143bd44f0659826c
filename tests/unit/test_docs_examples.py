"""Every example runs, against a real server, and does what its first lines say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.servers.nginx import _free_port
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent.parent
EXAMPLES: Final = ROOT / "docs" / "examples"
PAGE: Final = "http://127.0.0.1:8080"
_SECONDS: Final = 50.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("examples") / "store"
    with ServerProcess(folder, "--allow-origin", PAGE) as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "UPLOAD_KIT_SESSION_DIR": str(tmp_path / "state"),
        "UPLOAD_KIT_CONFIG": os.devnull,
        "UPLOAD_KIT_PROGRESS": "none",
    }


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / f"big-{tmp_path.name}.bin"
    path.write_bytes(os.urandom(5_000_000))
    return path


def words_of(name: str, *words: str | Path) -> list[str | Path]:
    program = {".py": sys.executable, ".sh": "sh"}[Path(name).suffix]
    return [program, EXAMPLES / name, *words]


def run(environment: dict[str, str], name: str, *words: str | Path) -> str:
    done = subprocess.run(
        words_of(name, *words),
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(server: ServerProcess, name: str) -> bytes:
    """Return what the server has under a name."""
    (path,) = (p for p in server.folder.joinpath("files").rglob("*") if p.name == name)
    return path.read_bytes()


def test_script(
    server: ServerProcess, environment: dict[str, str], big: Path, tmp_path: Path
) -> None:
    """One file, compared as a whole; what fails is an exit code and a reason."""
    told = run(environment, "script.py", big, server.url)
    assert "compared by sha256" in told
    assert stored(server, big.name) == big.read_bytes()
    failed = subprocess.run(
        words_of("script.py", tmp_path / "missing.bin", server.url),
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert failed.returncode == 1
    assert "There is no file" in failed.stderr


def test_async_app(server: ServerProcess, environment: dict[str, str]) -> None:
    """Everything that was measured arrived."""
    told = run(environment, "async_app.py", server.url)
    size = 5 * 50_000 * len(b"time,value\n")
    assert told == f"{size} of {size} bytes arrived\n"
    assert len(stored(server, "measurement-4.csv")) == size // 5


def test_many_files(
    server: ServerProcess, environment: dict[str, str], tmp_path: Path
) -> None:
    """A folder goes by the paths below it, and an unreadable file stops no other."""
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "many-a.txt").write_bytes(b"a")
    (folder / "deep" / "many-b.txt").write_bytes(b"b")
    assert "2 of 2 files arrived" in run(
        environment, "many_files.py", folder, server.url
    )
    assert stored(server, "many-a.txt") == b"a"


def test_survive(server: ServerProcess, environment: dict[str, str], big: Path) -> None:
    """Killed with -9 in the middle, the upload goes on in another process."""
    process = subprocess.Popen(
        words_of("survive.py", "begin", big, server.url),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout as lines:
        session_id = lines.readline().strip()
        while int(lines.readline().partition("/")[0]) < 1_000_000:
            pass
        process.send_signal(signal.SIGKILL)
    told = run(environment, "survive.py", "resume", server.url, session_id)
    were, sent = (int(word) for word in told.split() if word.isdigit())
    assert were >= 1_000_000
    assert were + sent == 5_000_000
    assert hashlib.sha256(big.read_bytes()).hexdigest() in told
    assert stored(server, big.name) == big.read_bytes()


def test_web_progress(server: ServerProcess, environment: dict[str, str]) -> None:
    """A body goes through the application, and its progress comes back as events."""
    port = str(_free_port())
    process = subprocess.Popen(
        words_of("web_progress.py", port, server.url),
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout as lines:
        assert "Running on" in lines.readline()
        # Nobody waits for the rest of what it says.
        threading.Thread(target=lines.read, daemon=True).start()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/archive?name=web.bin",
            data=bytes(3_000_000),
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            events = answer.read().decode().split("\n\n")
        process.terminate()
        process.wait(_SECONDS)
    assert events[0].startswith("event: started")
    last = json.loads(events[-2].partition("data: ")[2])
    assert last["result"]["success"]
    assert len(stored(server, "web.bin")) == 3_000_000


def test_own_server(environment: dict[str, str], tmp_path: Path) -> None:
    """The token lets in, and nothing else does."""
    told = run(environment, "own_server.py", tmp_path / "mine", "open-sesame")
    assert "Refused: " in told
    assert told.splitlines()[-1] == "Stored: a.txt"


def test_curl(server: ServerProcess, environment: dict[str, str], big: Path) -> None:
    """Chunks with digests need no client of ours."""
    told = run(environment, "curl.sh", big, server.url).splitlines()
    assert told[1] == "5 chunks"
    document = json.loads(told[2])
    assert document["sha256"] == hashlib.sha256(big.read_bytes()).hexdigest()
    assert stored(server, big.name) == big.read_bytes()


def test_pipe(
    server: ServerProcess, environment: dict[str, str], tmp_path: Path
) -> None:
    """What a program writes arrives as it is, without a file in between."""
    folder = tmp_path / "piped"
    folder.mkdir()
    (folder / "inside.txt").write_bytes(b"inside")
    result = json.loads(run(environment, "pipe.sh", folder, server.url))
    assert result["success"]
    archive = tmp_path / "back.tar"
    archive.write_bytes(stored(server, "piped.tar"))
    listed = subprocess.run(
        ["tar", "--list", "--file", archive], capture_output=True, text=True, check=True
    )
    assert "inside.txt" in listed.stdout


@pytest.mark.timeout(90)
def test_notebook(environment: dict[str, str], tmp_path: Path) -> None:
    """Every cell runs, one after another, in a kernel of its own."""
    copy = tmp_path / "notebook.ipynb"
    shutil.copy(EXAMPLES / "notebook.ipynb", copy)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "--nbval-lax",
            "--nbval-kernel-name",
            "python3",
            copy,
            "--rootdir",
            tmp_path,
            "-c",
            os.devnull,
        ],
        env={**environment, "CI": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=85,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


_DRIVER: Final = """
import { readFileSync } from "node:fs";
import { webcrypto } from "node:crypto";
import { upload } from %(module)s;
globalThis.crypto ??= webcrypto;
const [server, path, mode] = process.argv.slice(2);
const file = new Blob([readFileSync(path)]);
let sessionId = null;
const told = [];
const stop = new Error("the page was closed");
const options = {
  name: "from-a-page.bin",
  onSession: (id) => { sessionId = id; },
  onProgress: (confirmed) => {
    told.push(confirmed);
    if (mode === "twice" && told.length === 3) throw stop;
  },
};
try {
  await upload(file, server, { ...options, parallel: mode === "twice" ? 1 : 3 });
} catch (error) {
  if (error !== stop) throw error;
}
let first = told.at(-1);
const done = await upload(file, server, { ...options, sessionId });
console.log(JSON.stringify({ done, first, told }));
"""


def drive(server: ServerProcess, path: Path, mode: str, tmp_path: Path) -> Any:
    """Have the page's own module upload a file, as a browser would."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    driver = tmp_path / "driver.mjs"
    module = json.dumps((EXAMPLES / "upload.mjs").as_uri())
    driver.write_text(_DRIVER % {"module": module})
    done = subprocess.run(
        ["node", driver, server.url, path, mode],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_page_uploads_with_fetch(
    server: ServerProcess, big: Path, tmp_path: Path
) -> None:
    """The page's module goes on with a session after it was closed in the middle."""
    big.write_bytes(os.urandom(20_000_000))
    told = drive(server, big, "twice", tmp_path)
    assert 0 < told["first"] < 20_000_000
    # The second run begins with what the first one had sent.
    assert told["told"].count(told["first"]) == 2
    assert told["done"]["state"] == "complete"
    assert stored(server, "from-a-page.bin") == big.read_bytes()


def test_browser_would_let_the_page_upload(server: ServerProcess) -> None:
    """What the page sends is allowed to its origin, and to no other."""
    for method, headers in (("PUT", "content-digest"), ("POST", "content-type")):
        answer = ask(server, PAGE, method, f"{headers},authorization")
        assert answer["Access-Control-Allow-Origin"] == PAGE
        allowed = answer["Access-Control-Allow-Headers"].lower()
        assert allowed == "*" or headers in allowed
        assert method in answer["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Origin" not in ask(
        server, "http://evil.example", "PUT", "content-digest"
    )


def ask(server: ServerProcess, origin: str, method: str, headers: str) -> Any:
    """Return what the server answers to a browser that asks first."""
    request = urllib.request.Request(
        f"{server.url}upload/resumable/{'0' * 32}/chunks/0",
        method="OPTIONS",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.headers


def test_page_uses_the_module_that_was_tested() -> None:
    """The page has no upload code of its own, and names every field it reads."""
    page = (EXAMPLES / "browser.html").read_text()
    assert 'import { upload } from "./upload.mjs"' in page
    assert "fetch(" not in page


def test_every_example_is_listed_and_tested() -> None:
    """A reader finds each example on the page, and each of them has a test here."""
    page = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).read_text()
    names = [p.name for p in EXAMPLES.iterdir() if p.is_file() and p.suffix != ".md"]
    assert len(names) >= 8
    for name in names:
        assert f"]({name})" in page
        assert f'"{name}"' in tests
