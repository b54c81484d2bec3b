"""Every way of putting on load, against the stand-in and through our multiplexer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from benchmarks import load
from benchmarks.calls import LARGE_ANSWER
from benchmarks.crowd import crowd
from benchmarks.load import Sample, arrivals
from benchmarks.memory import memory, open_streams
from benchmarks.peers import PEERS, Peer
from tei_manager.bench.results import OURS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from Linux's /proc")

WAYS: dict[str, Callable[[Peer], Sample]] = {
    "closed": lambda peer: load.closed(peer, 300, 20),
    "fixed_rate": lambda peer: load.fixed_rate(peer, 0.3, 20, 1000),
    "messages": lambda peer: load.messages(peer, 2, 1000),
    "requests of 10 MB": lambda peer: load.requests_of(peer, 1, 10_000_000),
    "answers of 10 MB": lambda peer: load.answers_of(peer, 1, LARGE_ANSWER),
    "crowd": lambda peer: crowd(peer, 300, 6, 5),
}


@pytest.fixture(scope="module")
def proxy(backend: Peer) -> Iterator[Peer]:
    with PEERS[OURS](backend.address) as peer:
        yield peer


@pytest.mark.parametrize("way", WAYS)
def test_all_calls_to_the_backend_itself_are_answered(backend: Peer, way: str) -> None:
    sample = WAYS[way](backend)
    assert 0 < sample.fastest_us <= sample.p50_us <= sample.p99_us <= sample.p999_us
    assert min(sample.cpu_us, sample.load_us, sample.per_second) > 0


@pytest.mark.parametrize("way", WAYS)
def test_all_calls_through_the_multiplexer_are_answered(proxy: Peer, way: str) -> None:
    assert WAYS[way](proxy).cpu_us > 0


def test_open_streams_are_answered_once_and_stay_open(proxy: Peer) -> None:
    with open_streams(proxy, 20, 10):
        assert load.closed(proxy, 20, 1).per_second > 0


def test_memory_is_that_of_an_idle_worker_and_what_streams_add(proxy: Peer) -> None:
    found = memory(proxy)
    assert found["idle_mb"] > 1
    assert found["streams_mb"] >= 0


def test_even_arrivals_come_at_the_rate() -> None:
    assert arrivals(4, 1000, random=False) == pytest.approx([0, 1e6, 2e6, 3e6], abs=1)


def test_random_arrivals_come_at_the_rate_and_are_the_same_for_every_proxy() -> None:
    times = arrivals(20_000, 1000, random=True)
    assert times == arrivals(20_000, 1000, random=True)
    assert times == sorted(times)
    assert times[-1] / 1e9 == pytest.approx(20, rel=0.05)
