"""The stand-in for TEI as a process, for tests of the load."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from benchmarks.peers import Peer
from benchmarks.processes import free_port, running


@pytest.fixture(scope="session")
def backend() -> Iterator[Peer]:
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.backend", str(port)]
    with running(argv, port) as pid:
        yield Peer("direct", port, (pid,))
