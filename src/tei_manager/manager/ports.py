"""Choose free ports for instances: the range says which, a bind says whether.

A port may be taken between this check and the start of the instance; the start then fails with
a sentence, and an instance whose port was not asked for gets another one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable

from tei_manager.errors import PortAllocationFailed


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection in TIME_WAIT does not make a port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def choose(candidates: Iterable[int], taken: Collection[int]) -> int:
    """Return the first free port of the range that nobody has a claim on.

    Args:
        candidates: The range.
        taken: Ports of other instances, running or not, and those of the manager itself.

    Raises:
        PortAllocationFailed: There is none.
    """
    for port in candidates:
        if port not in taken and is_free(port):
            return port
    raise PortAllocationFailed(
        "No port of the range is free; delete an instance or widen [instances] port_start, port_end"
    )
