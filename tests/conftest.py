"""
What holds for every test.

No setting of the user's is seen, no event loop is blocked, logs are as they were,
properties search as hard as asked, and in CI no skip goes unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_OTHERS: Final = "upload_kit.bench.peers"
_ALLOWED_SKIPS: Final = Path(__file__).parent.parent / ".ci" / "allowed-skips.txt"

# A busy machine is no reason for a property to fail, and every test has a time limit.
settings.register_profile("usual", deadline=None)
settings.register_profile("prove", deadline=None, max_examples=2000)
settings.load_profile("usual")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let whoever wants to look at what the browser shows say where pictures go."""
    parser.addoption("--screenshots", metavar="FOLDER", help="keep pictures of pages")


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail what reads files or sleeps in upload_kit's own code on an event loop."""
    # Tests look through the clients of others at what others' servers hold.
    with blockbuster_ctx("upload_kit", excluded_modules=[_OTHERS]) as guard:
        # Locks that are held for microseconds are shared between threads on purpose.
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            guard.functions[name].deactivate()
        yield


@pytest.fixture(autouse=True)
def sessions_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep sessions and history out of the folder of whoever runs the tests."""
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command that runs in this process sets up for a program's logs."""
    loggers = [
        logging.getLogger(name) for name in ("upload_kit", "upload_kit.transfer")
    ]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task, a file or a connection behind."""
    before = _descriptors()
    yield
    left: set[str] = set()
    # A connection that was closed is gone a turn of the loop later.
    for _ in range(100):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        left = {repr(task) for task in tasks} | (_descriptors() - before)
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"left behind: {left}")


def _descriptors() -> set[str]:
    """Return what this process has open, each with its number."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        if path.name in {"0", "1", "2"}:
            continue  # pytest moves these about.
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{path.name} -> {path.readlink()}")
    return found


class SkipGuard:
    """
    Fails a run in which a test was skipped that nobody allowed to be.

    Args:
        allowed: Test IDs that may be skipped.
    """

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped; an expected failure is none."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that was skipped whole."""
        if report.skipped:
            self._note(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a good ending into a bad one."""
        if self._skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """List them."""
        if self._skipped:
            terminalreporter.section("skipped, which CI does not allow", red=True)
            for test, reason in self._skipped.items():
                terminalreporter.line(f"{test}: {reason}")

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.nodeid not in self._allowed:
            where = report.longrepr
            self._skipped[report.nodeid] = (
                str(where[2]) if isinstance(where, tuple) else str(where)
            )


def _allowed_skips() -> Iterator[str]:
    for line in _ALLOWED_SKIPS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def pytest_configure(config: pytest.Config) -> None:
    """Forget how the user likes upload-kit; guard against skips where this is CI."""
    for name in [name for name in os.environ if name.startswith("UPLOAD_KIT_")]:
        del os.environ[name]
    # Nor is a file of settings read, by whichever process a test starts.
    os.environ["UPLOAD_KIT_CONFIG"] = os.devnull
    if os.environ.get("CI"):
        guard = SkipGuard(frozenset(_allowed_skips()))
        config.pluginmanager.register(guard, "skip-guard")
