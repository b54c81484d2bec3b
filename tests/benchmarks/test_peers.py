"""Every proxy that is installed carries every call, with one worker and with two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from benchmarks import load
from benchmarks.calls import LARGE_ANSWER
from benchmarks.client import LoadError
from benchmarks.crowd import crowd
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.tls import Tls, certificates
from tei_manager.bench.results import OURS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from Linux's /proc")


@pytest.mark.parametrize("name", [name for name in PEERS if name != OURS])
def test_a_peer_carries_calls_and_streams(backend: Peer, name: str) -> None:
    try:
        running = PEERS[name](backend.address)
        with running as peer:
            assert load.closed(peer, 20, 4).cpu_us > 0
            assert load.messages(peer, 1, 100).cpu_us > 0
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error}")


@pytest.mark.parametrize("name", PEERS)
def test_two_workers_are_all_measured_and_end_with_the_proxy(backend: Peer, name: str) -> None:
    try:
        with PEERS[name](backend.address, 2) as peer:
            load.closed(peer, 20, 4)
            workers = [psutil.Process(pid) for pid in peer.pids]
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error}")
    threaded = name in ("envoy", "haproxy")
    assert len(workers) == (1 if threaded else 2)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


SPEAKS_TLS = (OURS, "envoy", "nginx", "haproxy")


@pytest.fixture(scope="module")
def tls() -> Iterator[Tls]:
    with certificates() as made:
        yield made


@pytest.mark.parametrize("name", SPEAKS_TLS)
def test_calls_and_large_answers_go_through_tls(backend: Peer, tls: Tls, name: str) -> None:
    try:
        with PEERS[name](backend.address, tls=tls) as peer:
            load.closed(peer, 20, 4)
            load.answers_of(peer, 1, LARGE_ANSWER)
            crowd(peer, 40, 4, 5)
            with pytest.raises(LoadError):
                load.closed(replace(peer, tls=None), 1, 1)
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error}")


def test_a_proxy_that_speaks_no_tls_is_told_of(backend: Peer, tls: Tls) -> None:
    with pytest.raises(LoadError, match="no TLS with direct"):
        load.closed(replace(backend, tls=tls), 1, 1)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in SPEAKS_TLS])
def test_a_peer_without_tls_is_left_out_by_name(backend: Peer, tls: Tls, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} with TLS"):
        PEERS[name](backend.address, tls=tls).__enter__()
