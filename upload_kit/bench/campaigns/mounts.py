"""
A small disk of one process's own: a tmpfs that nobody else sees, and that ends with it.

`/proc/PID/root` leads into it from outside. It needs root, or a system where users may
have namespaces of their own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

# Of <sched.h> and <sys/mount.h>.
_NEW_MOUNTS: Final = 0x00020000
_NEW_USER: Final = 0x10000000
_RECURSIVE_PRIVATE: Final = 0x4000 | 0x40000

_TRY_SECONDS: Final = 20.0


def mount_small_disk(folder: Path, size: int) -> None:
    """
    Put an empty disk over a folder, for this process and its children only.

    Only in a process with one thread.

    Args:
        folder: Made already.

        size: Bytes it holds.

    Raises:
        OSError: The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    _require(libc.unshare(_NEW_MOUNTS if uid == 0 else _NEW_MOUNTS | _NEW_USER))
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    # Otherwise the mount would be seen by everybody.
    _require(libc.mount(b"none", b"/", None, _RECURSIVE_PRIVATE, None))
    options = f"size={size},mode=700".encode()
    _require(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options))


def _require(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def disk_obstacle() -> str | None:
    """Return why a process can have no disk of its own here, or None."""
    if sys.platform != "linux":
        return "disks of one's own are mounted on Linux"
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=_TRY_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return None
    reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"no disk of one's own can be mounted here ({reason})"


if __name__ == "__main__":
    # Where it is mounted for that moment makes no difference.
    mount_small_disk(Path(tempfile.gettempdir()), 1 << 20)
