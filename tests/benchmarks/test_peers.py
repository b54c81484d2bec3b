"""Every proxy that is installed carries every call, with one worker and with two."""

from __future__ import annotations

import sys

import psutil
import pytest

from benchmarks import load
from benchmarks.peers import PEERS, Peer
from tei_manager.bench.results import OURS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from Linux's /proc")


@pytest.mark.parametrize("name", [name for name in PEERS if name != OURS])
def test_a_peer_carries_calls_and_streams(backend: Peer, name: str) -> None:
    try:
        running = PEERS[name](backend.address)
        with running as peer:
            assert load.closed(peer.port, peer.pids, 20, 4).cpu_us > 0
            assert load.messages(peer.port, peer.pids, 1, 100).cpu_us > 0
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error}")


@pytest.mark.parametrize("name", PEERS)
def test_two_workers_are_all_measured_and_end_with_the_proxy(backend: Peer, name: str) -> None:
    try:
        with PEERS[name](backend.address, 2) as peer:
            load.closed(peer.port, peer.pids, 20, 4)
            workers = [psutil.Process(pid) for pid in peer.pids]
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error}")
    threaded = name in ("envoy", "haproxy")
    assert len(workers) == (1 if threaded else 2)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
