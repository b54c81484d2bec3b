"""A bar is missed by what should miss it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.faults.bars import BARS, in_time, memory_limit
from benchmarks.faults.canary import Latencies
from benchmarks.faults.stalls import READERS, slowest_ratio

ENDED = {"ended": 1, "frames": 300, "seconds": 0.1, "rss_mib": 0.5}
GOOD_FLOOD = {**ENDED, "worst_ms": 9.0, "p99_ms": 3.0, "failures": 0}
TIME = {"median_ms": 2.0, "worst_ms": 3.0}
GOOD: dict[str, Any] = {
    "conformance": {"cases": 147, "passed": 147},
    "floods": {"a": GOOD_FLOOD, "b": GOOD_FLOOD},
    "floods_20": {"a": GOOD_FLOOD, "b": GOOD_FLOOD},
    "faults": {
        "F1": {"status": "UNAVAILABLE", **TIME},
        "F2": {"status": "UNAVAILABLE", **TIME},
        **dict.fromkeys(("F2b", "F3", "F4"), TIME),
        "F5": {"median_ms": 302.0},
        "F5, backend told": {"median_ms": 303.0},
        "F6": {"rss_mib": 9.0},
        "F6b": {
            "rss_mib": 11.0,
            "steps": [{"readers": n, "p99_ms": 1.0 + n / 64, "failures": 0} for n in READERS],
        },
        "F7": {"lost": 0},
        "F8": {"median_ms": 1003.0},
    },
}

MISSES: list[tuple[str, str, dict[str, Any]]] = [
    ("h2spec", "conformance", {"cases": 147, "passed": 146}),
    ("floods ended", "floods", {"a": {**GOOD_FLOOD, "ended": 0}}),
    ("worst call", "floods", {"a": {**GOOD_FLOOD, "worst_ms": 51.0}}),
    ("worst call", "floods", {"a": {**GOOD_FLOOD, "worst_ms": None}}),
    ("its failures", "floods", {"a": {**GOOD_FLOOD, "failures": 1}}),
    ("memory in a flood", "floods", {"a": {**GOOD_FLOOD, "rss_mib": 4.1}}),
    ("p99 beside 20", "floods_20", {"a": {**GOOD_FLOOD, "p99_ms": 50.1}}),
    ("failures beside", "floods_20", {"a": {**GOOD_FLOOD, "failures": 2}}),
    ("F1,", "faults", {"F1": {"status": "INTERNAL", **TIME}}),
    ("F2,", "faults", {"F2": {"status": "UNAVAILABLE", "median_ms": 5.1}}),
    ("F2b,", "faults", {"F2b": {"median_ms": 51.0}}),
    ("F3,", "faults", {"F3": {"median_ms": 5.1}}),
    ("F4,", "faults", {"F4": {"median_ms": 10.1}}),
    ("F5, a deadline", "faults", {"F5": {"median_ms": 289.0}}),
    ("F5, told", "faults", {"F5, backend told": {"median_ms": 311.0}}),
    ("F6, memory", "faults", {"F6": {"rss_mib": 9.3}}),
    ("F6b, memory", "faults", {"F6b": {"rss_mib": 12.1}}),
    ("F7,", "faults", {"F7": {"lost": 1}}),
    ("F8,", "faults", {"F8": {"median_ms": 1011.0}}),
]


@pytest.mark.parametrize("bar", BARS, ids=[bar.what for bar in BARS])
def test_good_results_meet_every_bar(bar: Any) -> None:
    shown, met = bar.judge(GOOD[bar.section])
    assert met, shown


@pytest.mark.parametrize(("what", "section", "change"), MISSES)
def test_one_bad_figure_misses_its_bar(what: str, section: str, change: dict[str, Any]) -> None:
    (bar,) = (bar for bar in BARS if what in bar.what)
    assert not bar.judge({**GOOD[section], **change})[1]


def test_every_bar_but_that_of_neighbours_has_a_figure_that_misses_it() -> None:
    missed = [bar for bar in BARS if any(what in bar.what for what, _, _ in MISSES)]
    assert {bar.what for bar in BARS} - {bar.what for bar in missed} == {
        "F6b, p99 beside them, over idle"
    }


@pytest.mark.parametrize(
    ("frames", "seconds", "soon"),
    [(2000, 4.0, True), (2001, 1.1, True), (2001, 1.2, False)],
)
def test_a_flood_is_ended_soon_by_frames_or_by_seconds(
    frames: int, seconds: float, soon: bool
) -> None:
    assert in_time({"ended": 1, "frames": frames, "seconds": seconds}) is soon
    assert not in_time({"ended": 0, "frames": frames, "seconds": seconds})


def test_neighbours_are_compared_with_the_idle_server() -> None:
    steps = [{"readers": n, "p99_ms": 3.5 if n == 8 else 1.0, "failures": 0} for n in READERS]
    assert slowest_ratio(steps) == 3.5
    assert slowest_ratio(steps[:-1]) is None, "a series that was given up has no ratio"
    assert slowest_ratio([*steps[:-1], {**steps[-1], "failures": 1}]) is None


def test_memory_may_grow_by_a_window_for_each_client_and_eight_mib() -> None:
    assert memory_limit(64) == 12


def test_quantiles_are_those_of_the_calls_that_succeeded() -> None:
    latencies = Latencies.of([None, 3.0, 1.0, 2.0, None])
    assert latencies.failures == 2
    assert (latencies.quantile(0.0), latencies.quantile(0.5), latencies.quantile(1.0)) == (1, 2, 3)
    assert Latencies.of([None]).quantile(0.99) is None
