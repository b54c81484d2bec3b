"""The stand-in for TEI that all proxies of a measurement pass calls on to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers.peer import Peer
from benchmarks.processes import free_port, running
from tei_manager.bench.results import DIRECT


@contextmanager
def direct() -> Iterator[Peer]:
    """Run `benchmarks.backend` on the core of the load, until the block ends."""
    port = free_port()
    with running([sys.executable, "-m", "benchmarks.backend", str(port)], port) as pid:
        yield Peer(DIRECT, port, (pid,))
