"""Ratios are made round by round, and a goal is met by what was measured."""

from __future__ import annotations

from dataclasses import fields
from math import inf
from pathlib import Path

import pytest

from benchmarks.load import Sample
from benchmarks.points import MEMORY, ROWS, Goal, Row, points
from benchmarks.results import Results
from tei_manager.bench.results import DIRECT, OURS

NO_GOALS = (Goal(0), Goal(0))
CPU = Row("CPU", "closed", "cpu_us", NO_GOALS)
ADDED = Row("added", "closed", "cpu_us", NO_GOALS, added=True)


def measured(**values: list[float]) -> Results:
    """Return results of one point, in which ``ours`` stands for our name."""
    results = Results({"command": "none"})
    for proxy, rounds in values.items():
        for value in rounds:
            name = OURS if proxy == "ours" else proxy
            results.add("closed", name, {"cpu_us": value})
    return results


def test_a_ratio_is_the_median_of_the_rounds_own_ratios_not_that_of_medians() -> None:
    results = measured(ours=[1, 10, 100], envoy=[2, 5, 100])
    assert results.ratio(CPU, "envoy").median == 1.0
    assert (results.ratio(CPU, "envoy").low, results.ratio(CPU, "envoy").high) == (0.5, 2.0)
    assert results.figure(CPU, OURS) / results.figure(CPU, "envoy") == 2.0


def test_what_is_added_is_what_the_direct_connection_of_that_round_did_not_take() -> None:
    results = measured(ours=[30, 50], envoy=[50, 60], direct=[10, 40])
    assert results.values(ADDED, OURS) == [20, 10]
    assert results.ratio(ADDED, "envoy").median == 0.5


def test_a_round_in_which_a_peer_added_nothing_counts_against_us() -> None:
    results = measured(ours=[30, 30, 30], envoy=[50, 10, 50], direct=[10, 10, 10])
    assert results.ratio(ADDED, "envoy").high == inf
    assert results.ratio(ADDED, "envoy").median == 0.5


@pytest.mark.parametrize(
    ("ours", "more", "met"),
    [(8, False, True), (9, False, False), (9, True, True), (7, True, False)],
)
def test_a_goal_is_a_limit_from_above_or_from_below(ours: float, more: bool, met: bool) -> None:
    results = measured(ours=[ours], envoy=[10])
    row = Row("", "closed", "cpu_us", NO_GOALS, more=more)
    assert results.meets(row, Goal(0.8, "envoy")) is met
    assert results.meets(row, Goal(8)) is met


@pytest.mark.parametrize(
    ("limit", "certain"), [(0.4, True), (0.5, False), (1.0, False), (2.1, True)]
)
def test_a_verdict_is_certain_if_its_limit_is_outside_the_interval(
    limit: float, certain: bool
) -> None:
    results = measured(ours=[1, 10, 100], envoy=[2, 5, 100])
    assert results.certain(CPU, Goal(limit, "envoy")) is certain


def test_the_direct_connection_is_no_proxy_and_ours_comes_first() -> None:
    assert measured(envoy=[1], ours=[1], direct=[1], nginx=[1]).proxies() == [
        OURS,
        "envoy",
        "nginx",
    ]


def test_a_file_has_every_value_of_every_round(tmp_path: Path) -> None:
    results = measured(ours=[1.5, 2.25], envoy=[3.0, 4.0])
    results.write(tmp_path / "run.json")
    assert Results.read(tmp_path / "run.json") == results
    assert '"cpu_us": [ 1.5, 2.25 ]' in (tmp_path / "run.json").read_text()


def test_every_row_takes_a_value_that_its_point_gives() -> None:
    values = {point.key: {field.name for field in fields(Sample)} for point in points(1)}
    values[MEMORY] = {"idle_mb", "streams_mb"}
    assert all(row.field in values[row.point] for row in ROWS)


def test_a_rate_is_known_when_it_is_needed_and_what_is_added_has_a_direct_connection() -> None:
    keys: list[str] = []
    for point in points(1):
        assert not point.half_of or point.half_of in keys
        assert not any(row.added for row in ROWS if row.point == point.key) or point.half_of
        keys.append(point.key)
    assert DIRECT not in keys
