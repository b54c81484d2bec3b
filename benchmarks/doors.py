"""The ways into one worker of ours, interleaved in one run: what each costs beside plain TCP.

    python -m benchmarks.doors [--quick] [--json FILE]

Calls come by TCP, by a Unix socket, and by TCP as those of a service that is not ours, which
``--passthrough any`` hands on without a look into their messages: all at one worker. By TLS they
come at another one, since a port speaks either. Every call has the same messages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from benchmarks.client import LoadError
from benchmarks.peers.direct import direct
from benchmarks.peers.ours import INSTANCE, single
from benchmarks.peers.peer import Peer
from benchmarks.peers.tls import certificates
from benchmarks.points import FULL, QUICK, Row, points
from benchmarks.processes import OTHER_CORE, Others, pin, wake_exactly
from benchmarks.report import multiple, number, on_terminal
from benchmarks.results import Results
from tei_manager.bench.about import about
from tei_manager.bench.measure import rotated
from tei_manager.bench.report import Cells

TCP, UNIX, TLS, OPAQUE = "TCP", "Unix", "TLS", "opaque"
DOORS = (TCP, UNIX, TLS, OPAQUE)
"""The ways in, in the order in which they are shown; the others are multiples of the first."""

OTHER_SERVICE = "some.package.Service"
"""A service that is not ours; the stand-in for TEI serves every one."""

ROWS = [
    Row("CPU, 1 at a time, µs", "closed-1", "cpu_us"),
    Row("CPU, 20 at a time, µs", "closed-20", "cpu_us"),
    Row("CPU, message, µs", "messages", "cpu_us"),
    Row("p50, 1 at a time, µs", "closed-1", "p50_us"),
]


def main() -> int:
    """Measure, show, and write JSON if asked; returns the exit code."""
    flags = _flags()
    if not Path("/proc/self/schedstat").exists():
        return _refuse("this measures CPU by /proc/PID/schedstat, which only Linux has")
    pin(OTHER_CORE)
    wake_exactly()
    try:
        results = measure(*QUICK if flags.quick else FULL)
    except LoadError as error:
        return _refuse(f"no figures, since a call failed: {error}")
    Console().print(on_terminal("doors", table(results)))
    if flags.json:
        results.write(flags.json)
    return 0


def _refuse(why: str) -> int:
    print(f"python -m benchmarks.doors: {why}", file=sys.stderr)
    return 1


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doors", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a look, in seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    return parser.parse_args()


def measure(rounds: int, size: float) -> Results:
    """Return what calls through every door gave.

    Args:
        rounds: How often each door is measured.
        size: Of each round (`benchmarks.points.points`).

    Raises:
        LoadError: A call failed: there are no figures.
    """
    command = "python -m benchmarks.doors" + (" --quick" if (rounds, size) == QUICK else "")
    results, others = Results(about(f"{command} --json FILE")), Others()
    wanted = [point for point in points(size) if point.key in {row.point for row in ROWS}]
    with direct() as backend, doors(backend.address) as opened:
        for point in wanted:
            for turn in range(rounds):
                for door in rotated(opened, turn):
                    sample = point.way(door, calls=point.calls)
                    results.add(point.key, door.name, asdict(sample))
    results.about["disturbed"] = others.told()
    return results


@contextmanager
def doors(backend: str) -> Iterator[Sequence[Peer]]:
    """Run two workers, one plain and one with TLS, and give the ways into them."""
    with ExitStack() as stack:
        unix = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "mux.sock"
        flags = ("--uds", str(unix), "--passthrough", "any")
        plain = stack.enter_context(single(backend, INSTANCE, None, *flags))
        tls = stack.enter_context(certificates())
        metadata = (("x-tei-instance", INSTANCE),)
        yield [
            replace(plain, name=TCP),
            replace(plain, name=UNIX, unix=unix),
            replace(stack.enter_context(single(backend, INSTANCE, tls)), name=TLS),
            replace(plain, name=OPAQUE, service=OTHER_SERVICE, metadata=metadata),
        ]


def table(results: Results) -> Cells:
    """Return the medians of every row, and what they are of those by TCP, with intervals."""
    cells = [["", *DOORS, *(f"{door} / {TCP}" for door in DOORS[1:])]]
    for row in ROWS:
        medians = [number(results.figure(row, door)) for door in DOORS]
        ratios = [multiple(results.multiple(row, door, TCP)) for door in DOORS[1:]]
        cells.append([row.title, *medians, *ratios])
    return cells


if __name__ == "__main__":
    sys.exit(main())
