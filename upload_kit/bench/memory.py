"""How much memory a process has had at most."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_PEAK: Final = re.compile(r"^VmHWM:\s+([0-9]+) kB$", re.MULTILINE)


def peak_memory() -> int:
    """
    Return the bytes of memory that this process has had at most.

    `getrusage` is asked only where there is no better: on Linux it counts what the
    process was before it became this program, a copy of whoever started it.
    """
    if _STATUS.exists() and (found := _PEAK.search(_STATUS.read_text())):
        return 1024 * int(found[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return most if sys.platform == "darwin" else 1024 * most
