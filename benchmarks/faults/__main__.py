"""One report on conformance, floods, slow peers and faults, with the peers' columns.

    python -m benchmarks.faults [--quick] [--servers ...] [--parts ...] [--wait 35] [--save]
    python -m benchmarks.faults --render

`make report` runs it with --save, which writes docs/faults.md and benchmarks/results/faults.json;
without it the page is printed. With --render nothing is measured: the page is made anew from the
figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks.faults import conformance, outages, slow, stalls, trials
from benchmarks.faults.floods import FLOODS
from benchmarks.faults.instance import backend
from benchmarks.faults.report import render
from benchmarks.faults.servers import SERVERS, Server, serving, version_of
from benchmarks.processes import OTHER_CORE, free_port, pin
from tei_manager.bench.results import OURS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"

WAIT_SECONDS = 35.0
QUICK_WAIT_SECONDS = 7.0
"""How long slow peers are waited for: a little more than our 30 s, or than our 5 s."""

FAULTS = (
    outages.deaths,
    outages.goodbyes,
    outages.freezes,
    stalls.memory,
    stalls.neighbours,
    stalls.soft_stop,
)
PARTS = ("conformance", "slow", trials.SINGLE, trials.TWENTY, "faults")

Results = dict[str, dict[str, Any]]


def main() -> int:
    """Measure, and write or print the page; returns the exit code."""
    arguments = _arguments()
    if arguments.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text("utf-8"))), "utf-8")
        return 0
    begun, load = monotonic(), round(os.getloadavg()[0], 2)
    pin(OTHER_CORE)
    names, missing = _installed(arguments.servers)
    if "conformance" in arguments.parts and conformance.find() is None:
        missing.append(conformance.MISSING)
    with Progress(console=Console(stderr=True)) as progress:
        results = _measure(names, arguments, progress)
    about = _about(arguments, load, round((monotonic() - begun) / 60, 1))
    _deliver({"about": about, "missing": missing, "servers": results}, arguments.save)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="our switch alone, short waits")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--wait", type=float, default=WAIT_SECONDS, help="seconds for slow peers")
    parser.add_argument("--save", action="store_true", help="write the page and the figures")
    parser.add_argument("--render", action="store_true", help="write the page from the figures")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.servers, arguments.wait = [OURS], QUICK_WAIT_SECONDS
    return arguments


def _installed(names: list[str]) -> tuple[list[str], list[str]]:
    """Start each server once; returns those that can be, and what is missing for the others."""
    found, missing = [], []
    for name in names:
        try:
            with serving(name, free_port()):
                found.append(name)
        except FileNotFoundError as error:
            missing.append(str(error))
    return found, missing


def _about(arguments: argparse.Namespace, load: float, minutes: float) -> dict[str, Any]:
    """Return what a reader needs to repeat the run, and to judge it."""
    return {
        "command": " ".join(["python -m benchmarks.faults", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load": load,
        "wait": arguments.wait,
        "minutes": minutes,
        "when": datetime.now(UTC).date().isoformat(),
    }


def _measure(names: list[str], arguments: argparse.Namespace, progress: Progress) -> Results:
    results: Results = {name: {"version": version_of(name)} for name in names}
    parts = arguments.parts
    task = progress.add_task("waiting for slow peers")
    _measure_together(names, parts, arguments.wait, results)
    chosen = [part for part in (trials.SINGLE, trials.TWENTY) if part in parts]
    steps = len(names) * (len(chosen) * len(FLOODS) + ("faults" in parts) * len(FAULTS))
    progress.update(task, total=steps)
    for name in names:
        progress.update(task, description=name)
        for part in chosen:
            floods = trials.run(name, FLOODS, part, lambda: progress.advance(task))
            results[name][part] = floods
        if "faults" in parts:
            results[name]["faults"] = _faults(name, progress, task)
    return results


def _measure_together(names: list[str], parts: list[str], wait: float, results: Results) -> None:
    """Do what needs no quiet, for all servers at a time: conformance and slow peers."""
    work = {"conformance": conformance.run, "slow": lambda servers: slow.run(servers, wait)}
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor())
        found = {
            section: threads.submit(run, [stack.enter_context(_alone(name)) for name in names])
            for section, run in work.items()
            if section in parts
        }
        for section, rows in found.items():
            for name, row in rows.result().items():
                results[name][section] = row


@contextmanager
def _alone(name: str) -> Iterator[Server]:
    """Run a server with a backend of its own."""
    with backend() as instance, serving(name, instance.port) as server:
        yield server


def _faults(name: str, progress: Progress, task: TaskID) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for fault in FAULTS:
        rows.update(fault(name))
        progress.advance(task)
    return rows


def _deliver(document: dict[str, Any], save: bool) -> None:
    page = render(document)
    if not save:
        print(page)
        return
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    PAGE.write_text(page, "utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}, {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
