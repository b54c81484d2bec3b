"""The figures in docs/performance.md are those of the committed run, not typed by hand."""

from __future__ import annotations

from benchmarks.points import OURS, ROWS
from benchmarks.report import PAGE, updated
from benchmarks.results import read


def test_the_page_shows_the_committed_run() -> None:
    page = PAGE.read_text("utf-8")
    assert updated(page, read()) == page, "run python -m benchmarks.report"


def test_the_committed_run_is_a_full_one_beside_every_peer() -> None:
    results = read()
    assert results.proxies() == [OURS, "envoy", "haproxy", "nginx"]
    assert all(len(results.values(row, OURS)) == 10 for row in ROWS)


def test_a_unary_call_costs_no_more_cpu_than_envoys_as_the_readme_says() -> None:
    results, calls = read(), [row for row in ROWS if row.title.startswith("CPU of a call")]
    assert len(calls) == 3
    assert all(results.ratio(row, "envoy").median <= 1.0 for row in calls)
