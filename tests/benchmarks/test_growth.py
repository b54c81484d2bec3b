"""Growth is measured step by step, and what grows too much is told."""

from __future__ import annotations

import sys

import pytest

from benchmarks import growth
from benchmarks.calls import SMALL_ANSWER, TEXT, embed_message
from benchmarks.client import LoadError
from benchmarks.load import closed
from benchmarks.peers import Peer
from benchmarks.peers.ours import managed
from tei_manager.bench.results import OURS, Results


def measured(*costs: float) -> Results:
    results = Results({"command": "none"})
    for axis in growth.TITLES:
        for step, cost in zip((1, 10, 100), costs, strict=True):
            results.add(axis, OURS, {str(step): cost})
    return results


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Results]:
    """The run that a command finds, in place of one that takes minutes."""
    runs: list[Results] = []
    monkeypatch.setattr(sys, "argv", ["growth"])
    monkeypatch.setattr(growth, "pin", lambda core: None)
    monkeypatch.setattr(growth, "measure", lambda rounds: runs[0])
    return runs


def test_a_cost_that_stays_passes_and_is_told(
    saved: list[Results], capsys: pytest.CaptureFixture[str]
) -> None:
    saved.append(measured(10.0, 20.0, 29.0))
    assert growth.main() == 0
    assert "tei-manager, µs of CPU: 1: 10.0, 10: 20.0, 100: 29.0" in capsys.readouterr().out


def test_a_cost_that_trebles_fails_and_names_what_grew(
    saved: list[Results], capsys: pytest.CaptureFixture[str]
) -> None:
    saved.append(measured(10.0, 20.0, 31.0))
    assert growth.main() == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(growth.FLAT)
    assert "the last step costs 3.1 times the first" in told[0]


def test_every_axis_has_a_title_and_a_chart() -> None:
    assert set(growth.TITLES) == {growth.INSTANCES, *growth.AXES}
    assert all("<svg" in growth.chart(measured(1.0, 2.0, 3.0), axis) for axis in growth.TITLES)


@pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from Linux's /proc")
def test_calls_go_to_each_of_many_instances_and_to_no_other(
    backend: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "CALLS", 200)
    results = Results({})
    growth._instances(results, backend.address, 50, 1)
    assert results.rounds[growth.INSTANCES][OURS]["50"][0] > 0
    message = embed_message(TEXT + SMALL_ANSWER, "elsewhere")
    with (
        managed(backend.address, 1, "bench0000") as peer,
        pytest.raises(LoadError, match="answers have not"),
    ):
        closed(peer, 20, 1, [message])
