"""A client that makes one call, which is not answered, and waits to be killed.

    python -m benchmarks.faults.holder PORT

It also ends with its standard input, so that it never outlives who started it.
"""

from __future__ import annotations

import socket
import sys

from benchmarks.faults.requests import HELLO, call

if __name__ == "__main__":
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(HELLO + call(1, "do:hold"))
        sys.stdin.read()
