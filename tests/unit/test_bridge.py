"""The one thread that uploads run in, and the ways to it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from upload_kit.bridge import THREAD_NAME, Bridge
from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.close()


def run_python(code: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_coroutines_run_in_the_named_daemon_thread(bridge: Bridge) -> None:
    """Everything runs in one thread, which never keeps a program from ending."""
    assert bridge.run(thread_name()) == THREAD_NAME
    assert bridge.call(threading.current_thread).daemon
    assert bridge.call(threading.get_ident) == bridge.call(threading.get_ident)


def test_the_thread_starts_when_it_is_first_needed() -> None:
    """Importing and making a bridge starts nothing."""
    code = """
import threading, upload_kit.bridge
assert threading.active_count() == 1
upload_kit.bridge.bridge.call(int)
assert threading.active_count() == 2
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_many_threads_get_the_same_loop(bridge: Bridge) -> None:
    """Two threads that are first at the same time start one thread, not two."""
    loops = []
    threads = [
        threading.Thread(target=lambda: loops.append(bridge.loop)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, loops))) == 1


def test_it_works_inside_a_running_loop(bridge: Bridge) -> None:
    """A notebook's cell runs in a loop already; waiting there must work."""

    async def cell() -> str:
        return bridge.run(thread_name())

    assert asyncio.run(cell()) == THREAD_NAME


def test_an_error_comes_back_to_the_caller(bridge: Bridge) -> None:
    """What is raised there is raised here."""

    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bridge.run(fails())
    with pytest.raises(ValueError, match="base 10"):
        bridge.call(int, "no number")


def test_waiting_in_the_thread_itself_is_refused(bridge: Bridge) -> None:
    """A wait that would never end is an error that says what to do."""

    async def waits() -> None:
        bridge.run(thread_name())

    with pytest.raises(ConfigurationError, match="Await the job there"):
        bridge.run(waits())


def test_a_function_may_be_called_in_the_thread_itself(bridge: Bridge) -> None:
    """What does not wait may be called from anywhere."""
    assert bridge.call(bridge.call, int, "7") == 7


def test_a_wait_that_takes_too_long_cancels(bridge: Bridge) -> None:
    """After a timeout nothing goes on unseen."""
    ended = threading.Event()

    async def sleeps() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        bridge.run(sleeps(), timeout=0.05)
    assert ended.wait(10)


def test_the_callers_context_is_seen(bridge: Bridge) -> None:
    """Output goes to the cell that asked, because its context comes along."""
    cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell")
    cell.set("the third")

    async def read() -> str:
        return cell.get()

    assert bridge.run(read()) == "the third"


def test_an_interrupt_ends_a_wait_at_once() -> None:
    """Whoever waits for a minute can be interrupted now."""
    code = """
import asyncio, signal, threading, time, os
from upload_kit.bridge import bridge
bridge.loop
# Whoever runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    bridge.run(asyncio.sleep(60))
except KeyboardInterrupt:
    print(time.monotonic() - began)
"""
    done = run_python(code)
    assert 0.3 < float(done.stdout) < 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_gets_a_thread_of_its_own() -> None:
    """After a fork the thread is missing; the child makes a new one."""
    code = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from upload_kit.bridge import bridge
parent = bridge.call(os.getpid)
child = os.fork()
if child == 0:
    os._exit(0 if bridge.call(os.getpid) == os.getpid() != parent else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_what_runs_is_cancelled_when_the_program_ends() -> None:
    """A program that ends lets its uploads give back what they hold, and is quiet."""
    code = """
import asyncio
from upload_kit.bridge import bridge
async def holds():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        # Threads can still be used: what arrived must be written down.
        await asyncio.to_thread(print, "given back")
        raise
async def ends():
    await asyncio.to_thread(print, "ends well")
bridge.at_close(ends)
bridge.submit(holds())
bridge.call(int)
"""
    began = time.monotonic()
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "ends well\ngiven back\n",
        "",
    )
    assert time.monotonic() - began < 20


def test_what_does_not_end_does_not_keep_the_program() -> None:
    """The end of the program has a time limit."""
    code = """
import asyncio
from upload_kit.bridge import bridge
async def stays():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
bridge.submit(stays())
bridge.call(int)
"""
    done = run_python(code)
    assert done.returncode == 0
    assert "did not end" in done.stderr


def test_after_the_end_nothing_starts(bridge: Bridge) -> None:
    """A bridge that was closed says so instead of waiting for ever."""
    bridge.call(int)
    bridge.close()
    with pytest.raises(ConfigurationError, match="ends"):
        bridge.run(thread_name())


def test_it_works_where_asyncio_is_patched() -> None:
    """A user may have patched asyncio for nested loops; nothing changes for us."""
    code = """
import asyncio, nest_asyncio
nest_asyncio.apply(asyncio.new_event_loop())
from upload_kit.bridge import bridge
async def nested():
    await asyncio.sleep(0.01)
    return 7
print(bridge.run(nested()), asyncio.run(nested()))
"""
    done = run_python(code)
    assert done.stdout == "7 7\n", done.stderr
