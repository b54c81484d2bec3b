"""How the cost of a call grows with instances, connections, streams and the size of messages.

    python -m benchmarks.growth [--rounds 5] [--save]

Ours, and Envoy where it is installed; Envoy is given one instance only. Every round of an axis
measures all of its steps once. What is shown is CPU for one call, as in `benchmarks`. Exit code 1
says that the cost of ours grows by more than `MOST` along an axis of `FLAT`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.calls import SIZES, SMALL_ANSWER, TEXT, embed_message
from benchmarks.crowd import crowd
from benchmarks.load import Sample, closed, requests_of
from benchmarks.peers import PEERS, Peer, versions
from benchmarks.peers.direct import direct
from benchmarks.peers.ours import managed
from benchmarks.processes import OTHER_CORE, pin
from tei_manager.bench.about import about
from tei_manager.bench.results import OURS, Results
from tei_manager.bench.svg import lines

FILE = Path(__file__).parent / "results" / "growth.json"
"""The committed run, by axis, proxy and step."""

ENVOY = "envoy"
STEPS = (1, 10, 100, 1_000)
STREAMS = (*STEPS, 10_000)
MANY = 1_000
"""Streams of one connection at most: ours takes 1,024 (`Options.max_parallel_streams`)."""

CALLS = 4_000
"""Calls of a step, warm-up not counted; fewer of large messages."""

Way = Callable[[Peer], Sample]

AXES: dict[str, dict[int, Way]] = {
    "connections": {n: partial(crowd, calls=CALLS, connections=n) for n in STEPS},
    "streams": {
        n: partial(crowd, calls=max(CALLS, 2 * n), connections=-(-n // MANY), streams=min(n, MANY))
        for n in STREAMS
    },
    "octets": {
        n: partial(requests_of, calls=min(1_000, 150_000_000 // n), octets=n)
        for n in SIZES.values()
    },
}
"""What one running proxy is measured with, by axis and step."""

INSTANCES = "instances"
TITLES = {
    INSTANCES: "instances, calls to all of them in turn",
    "connections": "connections of one call each",
    "streams": "calls at a time, 1,000 to a connection at most",
    "octets": "octets of a request",
}
FLAT, MOST = ("instances", "connections", "streams"), 3.0
"""Axes along which our last step may cost so many times the first."""

LOGARITHMIC_COST = ("octets",)
"""Axes along which the cost grows by powers of ten."""


def main() -> int:
    """Measure, show, and make it the committed run if asked; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="make it the committed run")
    flags = parser.parse_args()
    pin(OTHER_CORE)
    results = measure(flags.rounds)
    for axis, of_axis in results.rounds.items():
        for proxy, steps in of_axis.items():
            figures = ", ".join(f"{step}: {median(values):.1f}" for step, values in steps.items())
            print(f"{TITLES[axis]}, {proxy}, µs of CPU: {figures}")
    if flags.save:
        results.write(FILE)
    over = {axis: found for axis in FLAT if (found := grown(results, axis)) > MOST}
    for axis, found in over.items():
        print(f"{TITLES[axis]}: the last step costs {found:.1f} times the first", file=sys.stderr)
    return 1 if over else 0


def grown(results: Results, axis: str) -> float:
    """Return what our last step of an axis costs as a multiple of the first."""
    first, *_, last = results.rounds[axis][OURS].values()
    return median(last) / median(first)


def measure(rounds: int) -> Results:
    """Return the CPU of a call, in µs, by axis, proxy and step."""
    results = Results(about(f"python -m benchmarks.growth --rounds {rounds}", versions()))
    with direct() as backend:
        for step in STEPS:
            _instances(results, backend.address, step, rounds)
        with ExitStack() as stack:
            proxies = _proxies(stack, backend.address)
            for axis, steps in AXES.items():
                for _ in range(rounds):
                    for step, way in steps.items():
                        for proxy in proxies:
                            cost = way(proxy).cpu_us
                            results.add(axis, proxy.name, {str(step): cost})
    return results


def _proxies(stack: ExitStack, backend: str) -> list[Peer]:
    proxies = [stack.enter_context(PEERS[OURS](backend))]
    try:
        proxies.append(stack.enter_context(PEERS[ENVOY](backend)))
    except FileNotFoundError as error:
        print(f"not installed, left out: {error}", file=sys.stderr)
    return proxies


def _instances(results: Results, backend: str, count: int, rounds: int) -> None:
    """Measure a worker with so many instances, 20 calls at a time, to each of them in turn."""
    names = [f"bench{number:04}" for number in range(count)]
    messages = [embed_message(TEXT + SMALL_ANSWER, name) for name in names]
    with managed(backend, 1, *names) as peer:
        for _ in range(rounds):
            sample = closed(peer, CALLS, 20, messages)
            results.add(INSTANCES, OURS, {str(count): sample.cpu_us})


def chart(results: Results, axis: str) -> str:
    """Return an axis as a chart."""
    series = {
        proxy: [(float(step), median(values)) for step, values in steps.items()]
        for proxy, steps in results.rounds[axis].items()
    }
    title = f"CPU of a call by {TITLES[axis]}"
    return lines(title, (TITLES[axis], "µs"), series, (True, axis in LOGARITHMIC_COST))


if __name__ == "__main__":
    sys.exit(main())
