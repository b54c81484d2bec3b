"""The figures that pages quote are those of committed runs, not typed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.overhead import BACKENDS, committed
from benchmarks.pages import ROOT, pages
from benchmarks.peers import PEERS
from benchmarks.points import ROWS
from benchmarks.results import FILE, Results
from tei_manager.bench.cases import cases
from tei_manager.bench.measure import ROUNDS
from tei_manager.bench.results import DIRECT, OURS, Overheads


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_shows_the_committed_runs(path: Path) -> None:
    assert path.read_text("utf-8") == pages()[path], "run python -m benchmarks.pages"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_committed_run_of_overheads_is_a_full_one_and_names_its_command(backend: str) -> None:
    results = Overheads.read(committed(backend))
    assert set(results.rounds) == {case.name for case in cases()}
    for ways in results.rounds.values():
        assert set(ways) == {DIRECT, OURS, "envoy"}
        assert {len(values) for way in ways.values() for values in way.values()} == {ROUNDS}
    assert results.about["command"].startswith(f"./bench-multiplexer.sh --backends {backend}")


def test_the_committed_run_is_a_full_one_beside_every_peer() -> None:
    results = Results.read(FILE)
    assert set(results.proxies()) == set(PEERS)
    judged = [row for row in ROWS if row.goals]
    assert all(len(results.values(row, OURS)) == 10 for row in judged)


def test_a_unary_call_costs_no_more_cpu_than_envoys_as_the_readme_says() -> None:
    results, calls = (
        Results.read(FILE),
        [row for row in ROWS if row.point.startswith("closed")],
    )
    assert len(calls) == 3
    assert all(results.ratio(row, "envoy").median <= 1.0 for row in calls)
