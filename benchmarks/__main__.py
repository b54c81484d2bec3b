"""Our multiplexer beside its peers, interleaved in one run.

    python -m benchmarks [--quick] [--json FILE]
    python -m benchmarks --points closed --peers envoy nginx
    python -m benchmarks --workers 2 --points clients --json FILE
    python -m benchmarks --tls --points closed messages large --json FILE

Every round of a point measures every proxy once, in an order that rotates, so that a machine that
drifts does so for all. Points, figures and goals are in `benchmarks.points`. A call that fails ends
the run: there is no figure of failed calls, and no file.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress

from benchmarks.client import LoadError
from benchmarks.memory import memory
from benchmarks.peers import PEERS, SLOW, Peer, versions
from benchmarks.peers.direct import direct
from benchmarks.peers.tls import certificates
from benchmarks.points import FULL, MEMORY, QUICK, Point, chosen, points
from benchmarks.processes import OTHER_CORE, Others, pin, wake_exactly
from benchmarks.report import show
from benchmarks.results import Results
from tei_manager.bench.about import about
from tei_manager.bench.measure import rotated
from tei_manager.bench.results import OURS

Start = Callable[[], AbstractContextManager[Peer]]


def main() -> int:
    """Measure, show, and write JSON if asked; returns the exit code."""
    arguments = _arguments()
    if not Path("/proc/self/schedstat").exists():
        return _refuse("this measures CPU by /proc/PID/schedstat, which only Linux has")
    pin(OTHER_CORE)
    wake_exactly()
    console, results, others = Console(), Results(about(_command(), versions())), Others()
    try:
        missing = _run(results, arguments, console)
    except LoadError as error:
        return _refuse(f"no figures, since a call failed: {error}")
    results.about["disturbed"] = others.told()
    show(results, console)
    for name in missing:
        console.print(f"not available, left out: {name}")
    if arguments.json:
        results.write(arguments.json)
    return 0


def _refuse(why: str) -> int:
    print(f"python -m benchmarks: {why}", file=sys.stderr)
    return 1


def _arguments() -> argparse.Namespace:
    peers = [name for name in PEERS if name != OURS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a look, in a minute")
    parser.add_argument("--rounds", type=int, help="how often each proxy is measured")
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers)
    parser.add_argument("--points", nargs="+", metavar="KEY", default=[""], help="how keys begin")
    parser.add_argument("--workers", type=int, default=1, help="of each proxy")
    parser.add_argument("--tls", action="store_true", help="between clients and proxies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    return parser.parse_args()


def _command() -> str:
    """Return what was typed, with no path of this machine in it."""
    typed = re.sub(r"--json[ =]\S+", "--json FILE", shlex.join(sys.argv[1:]))
    return f"python -m benchmarks {typed}".strip()


def _run(results: Results, arguments: argparse.Namespace, console: Console) -> list[str]:
    """Start everything, measure all points, and return which peers are not installed."""
    rounds, size = QUICK if arguments.quick else FULL
    rounds, wanted = arguments.rounds or rounds, chosen(points(size), arguments.points)
    with ExitStack() as stack:
        backend = stack.enter_context(direct())
        tls = stack.enter_context(certificates()) if arguments.tls else None
        start: dict[str, Start] = {
            name: partial(make, backend.address, arguments.workers, tls)
            for name, make in PEERS.items()
        }
        peers, missing = _start(stack, start, [OURS, *arguments.peers])
        progress = stack.enter_context(Progress(console=console, auto_refresh=False))
        task = progress.add_task("", total=rounds * (len(wanted) + 1))

        def tick(what: str) -> None:
            progress.update(task, advance=1, description=what, refresh=True)

        for point in wanted:
            _measure(results, point, [*peers, backend] if point.half_of else peers, rounds, tick)
        if "" in arguments.points:
            _measure_memory(results, {peer.name: start[peer.name] for peer in peers}, rounds, tick)
    return missing


def _start(
    stack: ExitStack, start: dict[str, Start], names: list[str]
) -> tuple[list[Peer], list[str]]:
    peers, missing = [], []
    for name in names:
        try:
            peers.append(stack.enter_context(start[name]()))
        except FileNotFoundError as error:
            missing.append(str(error))
    return peers, missing


def _measure(
    results: Results, point: Point, peers: list[Peer], rounds: int, tick: Callable[[str], None]
) -> None:
    rate = _half(results, point.half_of) if point.half_of else 0.0
    for turn in range(rounds):
        for peer in rotated(peers, turn):
            if rate and peer.name in SLOW:
                continue
            load = {"rate": rate} if rate else {"calls": _calls(point, peer)}
            results.add(point.key, peer.name, asdict(point.way(peer, **load)))
        tick(point.key)


def _calls(point: Point, peer: Peer) -> int:
    return max(1, point.calls // 10) if peer.name in SLOW else point.calls


def _half(results: Results, point: str) -> float:
    """Return half of the calls a second that the slowest proxy made, of those that are not slow."""
    of_point = results.rounds[point].items()
    return min(median(of["per_second"]) for name, of in of_point if name not in SLOW) / 2


def _measure_memory(
    results: Results, start: dict[str, Start], rounds: int, tick: Callable[[str], None]
) -> None:
    for turn in range(rounds):
        for name in rotated(list(start), turn):
            with start[name]() as peer:
                results.add(MEMORY, name, memory(peer))
        tick(MEMORY)


if __name__ == "__main__":
    sys.exit(main())
