"""The stand-in for TEI as a process, for tests of the load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.peers import Peer
from benchmarks.peers.direct import direct


@pytest.fixture(scope="session")
def backend() -> Iterator[Peer]:
    with direct() as peer:
        yield peer
