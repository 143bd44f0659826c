"""Who works on a session: a process, named so that others can tell if it lives."""

from __future__ import annotations

import os
import secrets
import select
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upload_kit.errors import SessionConflict

if TYPE_CHECKING:
    from upload_kit.models import UploadSession


def _this_host() -> str:
    # Containers may share a host name, a folder and process numbers; the namespace
    # tells them apart.
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{namespace}"


# Asked once: it is a file system call, and leases are taken on event loops.
_HOST: Final = _this_host()


def new_owner() -> str:
    """Return a name for one lease of this process: `host:pid:random`."""
    return f"{_HOST}:{os.getpid()}:{secrets.token_hex(4)}"


def refuse_if_held(session: UploadSession, now: float) -> None:
    """
    Make sure that nobody works on the session.

    Raises:
        SessionConflict: Somebody does; the message says who, and until when.
    """
    if not is_held(session, now):
        return
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(session.lease_until))
    raise SessionConflict(
        f"Session {session.session_id} is in use by {holder(session)} "
        f"until {until} ({session.lease_until - now:.0f} s from now).",
        hint="Wait for that process, or end it.",
        session_id=session.session_id,
    )


def is_held(session: UploadSession, now: float) -> bool:
    """Return whether somebody works on the session now."""
    if session.lease_owner is None or session.lease_until <= now:
        return False
    host, pid = _host_and_pid(session.lease_owner)
    return host != _HOST or _is_alive(pid)


def is_expired(session: UploadSession, now: float) -> bool:
    """Return whether nobody may go on with the session any more."""
    over = session.expires_at is not None and session.expires_at <= now
    return over and not is_held(session, now)


def holder(session: UploadSession) -> str:
    """Return who has, or had, a session: `process 123 on host`."""
    host, pid = _host_and_pid(session.lease_owner)
    return f"process {pid} on {host.partition('/')[0]}"


def _host_and_pid(owner: str | None) -> tuple[str, str]:
    host, _, rest = (owner or "").partition(":")
    return host, rest.partition(":")[0]


def _is_alive(pid: str) -> bool:
    if sys.platform == "win32" or not pid.isdecimal():
        return True  # Signal 0 would interrupt it there; the lease runs out by itself.
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """
    Return whether a process ended, and its parent did not ask how yet.

    The kernel of a notebook that was killed may stay so for a while, and in a container
    without an init for ever. Where this cannot be told, the lease runs out by itself.
    """
    if sys.platform != "linux":
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(handle)
