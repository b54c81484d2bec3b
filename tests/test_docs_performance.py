"""The figures in docs/performance.md are those of the committed run, not typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "unary.json"


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table that a run makes."""
    lines = ["| proxy | calls in flight | CPU µs a call | x Envoy | calls a second |"]
    lines.append("|---|--:|--:|--:|--:|")
    for streams, rows in results.items():
        for name, row in sorted(rows.items(), key=lambda item: item[1]["cpu_us"]):
            shown = f"**{name}**" if name == "tei-manager" else name
            figures = f"{row['cpu_us']:.1f} | {row['cpu_to_envoy']:.2f} | {row['per_second']:,}"
            lines.append(f"| {shown} | {streams} | {figures} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_that_of_the_committed_run() -> None:
    document = json.loads(RESULTS.read_text("utf-8"))
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert table(document["results"]) in text
    assert document["about"]["command"] in text


def test_a_call_costs_no_more_cpu_than_envoys_in_the_committed_run() -> None:
    for rows in json.loads(RESULTS.read_text("utf-8"))["results"].values():
        assert rows["tei-manager"]["cpu_to_envoy"] <= 1.0
