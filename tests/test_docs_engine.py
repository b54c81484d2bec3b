"""The figures in docs/engine.md are those of the committed run, not typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = (
    "short text, engine to torch",
    "256 tokens, engine to torch",
    "1,000 texts, torch to engine",
    "1,000 texts, engine to bare session",
    *("unary_layer_ms", "grpc_alone_ms", "start_s", "peak_mb"),
)


def test_the_table_is_that_of_the_committed_run() -> None:
    results = json.loads((ROOT / "benchmarks/results/engine.json").read_text("utf-8"))["results"]
    text = (ROOT / "docs/engine.md").read_text("utf-8").partition("## Speed")[2]
    shown = re.findall(r"^\|[^|]+\| ([\d.]+) \|", text, re.M)
    assert shown == [f"{results[name]:g}" for name in NAMES]
