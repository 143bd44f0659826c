"""
What a bare socket makes on this machine: the measure for everything on loopback.

A blocking `sendall` of 1 MiB pieces from one process to another that reads and forgets.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Final

from upload_kit.units import MIB

_TIMEOUT: Final = 120.0
_SINK: Final = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
listener.settimeout(60)
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
buffer = bytearray(1 << 20)
while connection.recv_into(buffer):
    pass
connection.sendall(b".")
"""


def raw_socket_rate(size: int) -> float:
    """
    Return the bytes a second that one connection takes, measured now.

    Args:
        size: Bytes to send.
    """
    piece = memoryview(bytearray(MIB))
    sink = subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE)
    try:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection:
            started = time.perf_counter()
            for _ in range(size // MIB):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
            return size // MIB * MIB / (time.perf_counter() - started)
    finally:
        sink.kill()
        sink.communicate()
