"""Calls come through every door, and the committed run has figures of all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from benchmarks import doors, load
from benchmarks.client import LoadError
from benchmarks.peers import PEERS, Peer
from benchmarks.results import OF_DOORS, Results
from tei_manager.bench.results import OURS


@pytest.fixture(scope="module")
def opened(backend: Peer) -> Iterator[dict[str, Peer]]:
    if sys.platform != "linux":
        pytest.skip("CPU is read from Linux's /proc")
    with doors.doors(backend.address) as found:
        yield {door.name: door for door in found}


@pytest.mark.parametrize("door", doors.DOORS)
def test_calls_and_streams_come_through_a_door(opened: dict[str, Peer], door: str) -> None:
    assert load.closed(opened[door], 40, 20).cpu_us > 0
    assert load.messages(opened[door], 1, 300).cpu_us > 0


def test_what_comes_by_the_unix_socket_does_not_come_by_the_port(opened: dict[str, Peer]) -> None:
    assert load.closed(replace(opened[doors.UNIX], port=0), 20, 4).cpu_us > 0


def test_calls_of_another_service_need_a_worker_that_passes_them_on(
    backend: Peer, opened: dict[str, Peer]
) -> None:
    with PEERS[OURS](backend.address) as closed, pytest.raises(LoadError):
        load.closed(replace(opened[doors.OPAQUE], port=closed.port), 1, 1)


def rounds(values: Sequence[float]) -> Results:
    results = Results({"command": "none"})
    for value in values:
        for number, door in enumerate(doors.DOORS, 1):
            for key in ("closed-1", "closed-20", "messages"):
                results.add(key, door, {"cpu_us": value * number, "p50_us": value})
    return results


def test_doors_are_multiples_of_tcp_round_by_round() -> None:
    heading, first, *_, last = doors.table(rounds([1.0, 10.0, 100.0]))
    assert heading[5:] == ["Unix / TCP", "TLS / TCP", "opaque / TCP"]
    assert first[1:] == [
        *("10.0", "20.0", "30.0", "40.0"),
        *("2.00 (2.00-2.00)", "3.00 (3.00-3.00)", "4.00 (4.00-4.00)"),
    ]
    assert last[5:] == ["1.00 (1.00-1.00)"] * 3


def test_the_committed_run_has_as_many_rounds_of_every_door() -> None:
    results = Results.read(OF_DOORS)
    assert results.about["command"].startswith("python -m benchmarks.doors")
    assert "disturbed" in results.about
    for row in doors.ROWS:
        assert {len(results.values(row, door)) for door in doors.DOORS} in ({3}, {10})
