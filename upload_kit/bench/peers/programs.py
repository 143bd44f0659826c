"""
The programs among the peers: where each is found, and how it is told to upload.

Those from PyPI stand beside this interpreter; what is from npm is looked for in the
folder that `UPLOAD_KIT_NPM` names, or in `npm` beside this interpreter's `bin`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.bench.peers.client import (
    CLIENTS,
    STORED_NAME,
    PeerFigures,
    PeerOrder,
)
from upload_kit.errors import UploadKitError
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

_BIN: Final = Path(sys.executable).parent
SCRIPTS: Final = Path(__file__).parent
"""What Node runs."""
_SECONDS: Final = 300.0
_EXTRA: Final = "pip install 'upload_kit[peers]'"
# What each needs: a package of Python, a program, or a package from npm.
_PACKAGES: Final = {
    "tuspy": "tusclient",
    "boto3": "boto3",
    "obstore": "obstore",
    "google-genai": "google.genai",
    "tuspyserver": "tuspyserver",
}
_PROGRAMS: Final = {
    "s5cmd": "s5cmd",
    "rclone": "rclone",
    "rclone-s3": "rclone",
    "seaweedfs": "weed",
}
_NPM: Final = {"tus-js-client": "tus-js-client", "tus-node": "@tus/server"}

# A process of which nothing else is known than what one program takes: what is counted
# of the program's memory begins with a copy of whoever starts it.
_LAUNCHER: Final = """
import json, os, sys, time
started = time.perf_counter()
words = sys.argv[1:]
to_errors = [(os.POSIX_SPAWN_DUP2, 2, 1)]
pid = os.posix_spawn(words[0], words, os.environ, file_actions=to_errors)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - started
code = os.waitstatus_to_exitcode(status)
if code:
    sys.exit(f"exit code {code}")
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({
    "seconds": seconds,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_rss": usage.ru_maxrss * unit,
}))
"""


def npm_folder() -> Path:
    """Return where the packages from npm are installed."""
    named = os.environ.get("UPLOAD_KIT_NPM")
    return Path(named) if named else Path(sys.prefix) / "npm"


def node_command(script: str) -> list[str]:
    """Return how a script of this folder is run; in `npm_folder()`, for its imports."""
    return ["node", "--input-type=module", "-e", (SCRIPTS / script).read_text()]


def missing(name: str) -> str | None:
    """Return why a client or a server cannot run here; None if it can."""
    if name in _PACKAGES:
        return None if _is_installed(_PACKAGES[name]) else f"not installed: {_EXTRA}"
    if name in _PROGRAMS:
        return None if program(_PROGRAMS[name]) else f"not installed: {_EXTRA}"
    if name in _NPM:
        return _missing_npm(_NPM[name])
    return None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _missing_npm(package: str) -> str | None:
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (npm_folder() / "node_modules" / package).is_dir():
        return f"not installed: npm install --prefix {npm_folder()} {package}"
    return None


def program(name: str) -> str | None:
    """Return the path of a program; those of this environment come first."""
    return shutil.which(name, path=f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}")


def run_client(order: PeerOrder, environment: Mapping[str, str]) -> PeerFigures:
    """
    Have a client upload, in a process of its own, and return what it took.

    A client that is a library measures itself, without its start; of one that is a
    program the whole run counts.

    Raises:
        UploadKitError: It did not upload.
    """
    if order.client in CLIENTS:
        words = [sys.executable, "-m", "upload_kit.bench.peers.client"]
        return _run_child(order, words, environment, order.to_json())
    if order.client == "tus-js-client":
        words = [*node_command("tus_client.mjs"), order.to_json()]
        return _run_child(order, words, environment, "")
    words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *_words(order)]
    return _run_child(order, words, environment, "")


def _run_child(
    order: PeerOrder, words: list[str], environment: Mapping[str, str], said: str
) -> PeerFigures:
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        cwd=npm_folder() if order.client == "tus-js-client" else None,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(said.encode(), timeout=_SECONDS)
    finally:
        if process.poll() is None:
            # With the program that it may have started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    # obstore may abort when its process ends, after it has uploaded.
    if not output:
        raise UploadKitError(f"{order.client} did not upload; see above.")
    # Libraries may have said something before.
    return PeerFigures.from_json(output.splitlines()[-1])


def _words(order: PeerOrder) -> list[str]:
    """Return the command line of a program that uploads."""
    found = program(order.client)
    assert found is not None
    if order.client == "s5cmd":
        words = ["--endpoint-url", order.url, "--log", "error", "cp"]
        words += ["--part-size", str(max(1, order.chunk_size // MIB))]
        words += ["--concurrency", str(order.parallel), order.path]
        return [found, *words, f"s3://{order.bucket}/{STORED_NAME}"]
    words = ["copyto", order.path, f":s3:{order.bucket}/{STORED_NAME}"]
    words += ["--config", os.devnull, "--s3-env-auth", "--s3-provider", "Other"]
    words += ["--s3-endpoint", order.url, "--s3-no-check-bucket"]
    words += ["--s3-chunk-size", f"{order.chunk_size}B", "--s3-upload-cutoff", "5Mi"]
    return [found, *words, "--s3-upload-concurrency", str(order.parallel)]
