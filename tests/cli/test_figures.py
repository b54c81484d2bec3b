"""What ``top`` makes of two looks at a manager."""

from __future__ import annotations

import os
from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from tei_manager.cli.figures import Look, _memory, compare, percentile, read
from tei_manager.cli.top import render

INF = float("inf")


def _row(name: str, **fields: Any) -> dict[str, Any]:
    common = {"status": "running", "pid": 7, "uptime_secs": 1.0, "restarts": 0, "model_id": "m"}
    return {"name": name, **common, **fields}


def test_rate_is_what_was_counted_in_the_time_between() -> None:
    before = Look(10.0, [_row("a")], calls={"a": 100})
    after = Look(12.0, [_row("a"), _row("b", pid=None)], calls={"a": 150, "b": 4},
                 sums={"tei_grpc_multiplexer_requests_in_flight": 3}, memory={7: 1024})  # fmt: skip
    view = compare(before, after)
    assert [row["rate"] for row in view.instances] == [25, 2]
    assert [row["memory"] for row in view.instances] == [1024, None]
    assert view.in_flight == 3


def test_counter_that_began_anew_makes_no_negative_rate() -> None:
    before, after = (Look(at, [_row("a")], calls={"a": n}) for at, n in ((0.0, 90), (1.0, 5)))
    assert compare(before, after).instances[0]["rate"] == 5


def test_percentiles_are_of_the_time_between_only() -> None:
    before = Look(0.0, [], buckets={0.1: 1000.0, 1.0: 1000.0, INF: 1000.0})
    after = Look(2.0, [], buckets={0.1: 1000.0, 1.0: 1010.0, INF: 1010.0})
    view = compare(before, after)
    assert view.rate == 5
    assert view.p50 == pytest.approx(0.55)
    assert compare(after, after).p50 is None


SAMPLES = """
# TYPE tei_grpc_pool_requests counter
tei_grpc_pool_requests_total{{instance="a",method="embed"}} {embed}
tei_grpc_pool_requests_total{{instance="a",method="info"}} 7
# TYPE tei_grpc_pool_requests_in_flight gauge
tei_grpc_pool_requests_in_flight{{instance="a"}} 3
tei_grpc_pool_requests_in_flight{{instance="b"}} 0
# TYPE tei_grpc_pool_request_duration_seconds histogram
tei_grpc_pool_request_duration_seconds_bucket{{instance="a",le="0.01"}} {quick}
tei_grpc_pool_request_duration_seconds_bucket{{instance="a",le="0.1"}} {slow}
tei_grpc_pool_request_duration_seconds_bucket{{instance="a",le="+Inf"}} {slow}
# TYPE tei_grpc_multiplexer_requests_in_flight gauge
tei_grpc_multiplexer_requests_in_flight 4
"""


def _look(at: float, **counts: int) -> Look:
    families = text_string_to_metric_families(SAMPLES.format(**counts))
    samples = [sample for family in families for sample in family.samples]
    rows = [_row("a"), _row("b", pid=8, status="stopped")]
    return read(at, rows, samples, {7: 2048})


def test_each_instance_has_figures_of_its_own() -> None:
    view = compare(
        _look(0, embed=100, quick=90, slow=100), _look(2, embed=120, quick=100, slow=120)
    )
    a, b = view.instances
    assert {key: a[key] for key in ("status", "in_flight", "rate", "memory")} == {
        "status": "running",
        "in_flight": 3,
        "rate": 10,
        "memory": 2048,
    }
    assert (a["p50"], a["p99"]) == (pytest.approx(0.01), pytest.approx(0.0982))
    assert {key: b[key] for key in ("status", "in_flight", "rate", "p50", "p99", "memory")} == {
        "status": "stopped",
        "in_flight": 0,
        "rate": 0,
        "p50": None,
        "p99": None,
        "memory": None,
    }
    assert view.in_flight == 4


def test_table_shows_them_beside_each_other() -> None:
    view = compare(
        _look(0, embed=100, quick=90, slow=100), _look(2, embed=120, quick=100, slow=120)
    )
    drawn = Console(width=120, file=StringIO(), record=True)
    drawn.print(render(view))
    lines = drawn.export_text().splitlines()
    words = next(line for line in lines if line.startswith("a ")).split()
    assert words[1:8] == ["running", "3", "10.0", "10", "ms", "98.2", "ms"]


def test_call_above_the_last_bound_is_said_to_take_that() -> None:
    assert percentile({1.0: 0, INF: 3}, 0.99) == 1.0


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(0.01, 1))
def test_percentile_lies_in_the_bucket_that_holds_the_call(counts: list[int], part: float) -> None:
    bounds = [float(number) for number in range(1, len(counts) + 1)]
    cumulative = {bound: float(sum(counts[: i + 1])) for i, bound in enumerate(bounds)}
    found = percentile(cumulative, part)
    if sum(counts) == 0:
        assert found is None
        return
    assert found is not None
    rank = part * sum(counts)
    holder = next(bound for bound in bounds if cumulative[bound] >= rank)
    assert holder - 1 <= found <= holder


def test_memory_of_this_process_group_is_known() -> None:
    assert _memory()[os.getpgid(0)] > 1024 * 1024
