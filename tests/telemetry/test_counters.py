"""What a worker counts: sums that never fall, and a price that the hot path can pay."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.telemetry.counters import BUCKETS, GAUGES, Counters, add, settled, without

CALLS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["embed", "info"]),
        st.sampled_from([0, 14, 99]),
        st.floats(0, 100),
    ),
    max_size=30,
)


def _counted(calls: list[tuple[str, str, int, float]]) -> Counters:
    counters = Counters()
    for instance, label, code, seconds in calls:
        counters.opened(instance)
        counters.routed(instance, label)
        counters.finished(label, code, seconds, instance)
    return counters


@given(CALLS)
def test_every_call_is_in_one_bucket_and_under_one_status(
    calls: list[tuple[str, str, int, float]],
) -> None:
    report = _counted(calls).to_json()
    assert json.loads(json.dumps(report)) == report
    for label in ("embed", "info"):
        count = sum(call[1] == label for call in calls)
        assert sum(report["durations"].get(label, [])) == count
        assert sum(report["responses"].get(label, {}).values()) == count
    for instance in "ab":
        count = sum(call[0] == instance for call in calls)
        assert sum(report["instance_durations"].get(instance, [])) == count


@given(CALLS, CALLS)
def test_two_workers_report_what_one_would_have(
    left: list[tuple[str, str, int, float]], right: list[tuple[str, str, int, float]]
) -> None:
    both = add(_counted(left).to_json(), _counted(right).to_json())
    one = _counted(left + right).to_json()
    for key in one:
        if key.endswith("seconds"):
            assert both[key] == pytest.approx(one[key], abs=1e-6)
        else:
            assert both[key] == one[key]


@given(CALLS)
def test_sum_changes_neither_of_its_parts_and_nothing_is_its_zero(
    calls: list[tuple[str, str, int, float]],
) -> None:
    report = _counted(calls).to_json()
    before = json.dumps(report)
    assert add({}, report) == add(report, {}) == report
    add(report, report)
    assert json.dumps(report) == before


def test_bound_of_a_bucket_belongs_to_it() -> None:
    counters = Counters()
    for seconds in (0.0, BUCKETS[0], BUCKETS[-1], BUCKETS[-1] + 1):
        counters.finished("embed", 0, seconds)
    durations = counters.to_json()["durations"]["embed"]
    assert (durations[0], durations[-2], durations[-1]) == (2, 1, 1)
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert (BUCKETS[0], BUCKETS[-1]) == (0.00005, 60.0)


def test_report_is_a_copy() -> None:
    counters = _counted([("a", "embed", 0, 1.0)])
    report = counters.to_json()
    counters.finished("embed", 0, 1.0)
    counters.routed("a", "embed")
    assert report["responses"]["embed"]["0"] == 1
    assert report["requests"]["a"]["embed"] == 1


def test_gauges_die_with_their_worker() -> None:
    counters = _counted([("a", "embed", 0, 1.0)])
    counters.in_flight = counters.client_connections = counters.queued = 7
    counters.instance_in_flight = {"a": 7}
    left = settled(counters.to_json())
    assert set(left) & set(GAUGES) == set()
    assert left["connections"] == {"a": 1}


def test_closing_more_than_was_opened_does_not_go_below_zero() -> None:
    counters = Counters()
    counters.opened("a")
    for _ in range(2):
        counters.closed("a")
    counters.closed("unknown")
    assert counters.to_json()["connections_open"] == {"a": 0}


def test_series_of_a_deleted_instance_disappear() -> None:
    counters = _counted([("a", "embed", 0, 1.0), ("b", "embed", 0, 1.0)])
    counters.closed("a")
    counters.retain({"b"})
    report = counters.to_json()
    by_instance = ("connections", "requests", "instance_durations", "instance_seconds")
    assert all(set(report[key]) == {"b"} for key in by_instance)
    assert all(without(report, "b")[key] == {} for key in by_instance)
    counters.closed("a")  # its last connection ends after it is gone
    assert "a" not in counters.to_json()["connections_open"]


def test_counting_a_call_costs_no_more_than_six_counts_in_a_dictionary() -> None:
    """Best of several runs: the machine may be busy, the code is as fast as its best run."""
    counters = Counters()
    counts: dict[tuple[str, int], int] = {("embed", 0): 0}
    rounds = 5000

    def count_one() -> None:
        counts["embed", 0] += 1

    def best(count: object) -> float:
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            for _ in range(rounds):
                count()  # type: ignore[operator]
            times.append((time.perf_counter() - begin) / rounds)
        return min(times)

    finished, routed, most = counters.finished, counters.routed, 6 * best(count_one)
    assert best(lambda: finished("embed", 0, 0.0004, "bge-small")) < most
    assert best(lambda: routed("bge-small", "embed")) < most
