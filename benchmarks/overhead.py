"""The ten cases directly, through our multiplexer and through Envoy, interleaved in one run.

    ./bench-multiplexer.sh [GROUP]
    ./bench-multiplexer.sh [GROUP] --direct HOST:PORT --instance NAME
    ./bench-multiplexer.sh --save

Backends: a stub that answers each message after the direct time that the Rust original published
for the case, so that its percentages and ours are of like times; and the engine with a small model,
whose direct times are this machine's. With --direct it is that server, and no other. The proxies
run on one core; clients, stub and engine on the other. --save makes the run the committed one,
which `python -m benchmarks.pages` puts into the pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers import PEERS, versions
from benchmarks.processes import OTHER_CORE, Others, free_port, pin, running, wake_exactly
from tei_manager.bench.about import about
from tei_manager.bench.cases import Case, Group, cases
from tei_manager.bench.paths import BenchmarkFailed
from tei_manager.bench.paths import Path as Way
from tei_manager.bench.results import DIRECT, OURS, Overheads
from tei_manager.bench.terminal import deliver, watched

ENVOY = "envoy"
MODEL = "all-MiniLM-L6-v2"
BACKENDS = {
    "stub": "a stub that answers after the direct time published for the case",
    "engine": f"the engine with {MODEL}",
}

CALLS = 30
"""Times that each of ten rounds makes each case over each way."""


def committed(backend: str) -> Path:
    """Return the file of a backend's committed run."""
    return Path(__file__).parent / "results" / f"overhead-{backend}.json"


def main() -> int:
    """Measure, show, and write the reports; returns the exit code."""
    flags = _flags()
    pin(OTHER_CORE)
    wake_exactly()
    try:
        for backend in ["direct"] if flags.direct else flags.backends:
            _deliver(_run(flags, backend), backend, flags)
    except BenchmarkFailed as error:
        print(f"./bench-multiplexer.sh: {error}", file=sys.stderr)
        return 1
    return 0


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./bench-multiplexer.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("group", nargs="?", type=Group, metavar="GROUP", help=", ".join(Group))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--direct", metavar="HOST:PORT", help="a server that runs already")
    parser.add_argument("--instance", metavar="NAME", default="bench", help="its name")
    parser.add_argument("--calls", type=int, default=CALLS, help="in each of ten rounds")
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="folder of the reports")
    parser.add_argument("--save", action="store_true", help="make it the committed run")
    return parser.parse_args()


def _run(flags: argparse.Namespace, backend: str) -> Overheads:
    """Measure all cases at one backend."""
    results, others = Overheads(about(_command(flags, backend), versions())), Others()
    results.about["backend"] = BACKENDS.get(backend, "a server that ran already")
    if backend == "stub":
        for case in cases(flags.group):
            with _stub(case) as address:
                _measure(results, [case], address, flags)
    else:
        with ExitStack() as stack:
            address = flags.direct or stack.enter_context(_engine())
            _measure(results, cases(flags.group), address, flags)
    results.about["disturbed"] = others.told()
    return results


def _command(flags: argparse.Namespace, backend: str) -> str:
    """Return what repeats the run, without addresses of this machine."""
    where = "--direct HOST:PORT --instance NAME" if flags.direct else f"--backends {backend}"
    group = f"{flags.group} " if flags.group else ""
    return f"./bench-multiplexer.sh {group}{where} --calls {flags.calls}"


@contextmanager
def _stub(case: Case) -> Iterator[str]:
    """Run the stub with a case's published direct time, and give its address."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.backend", str(port), str(case.published.direct)]
    with running(argv, port):
        yield f"127.0.0.1:{port}"


@contextmanager
def _engine() -> Iterator[str]:
    """Run the engine, and give its address."""
    port = free_port()
    argv = [sys.executable, "-m", "tei_manager.engine", "--model-id", MODEL]
    argv += ["--hostname", "127.0.0.1", "--port", str(port)]
    with running(argv, port):
        yield f"127.0.0.1:{port}"


def _measure(
    results: Overheads, wanted: Sequence[Case], address: str, flags: argparse.Namespace
) -> None:
    """Measure cases at one address: directly, through ours, and through Envoy if it is there."""
    with ExitStack() as stack:
        own = stack.enter_context(PEERS[OURS](address, instance=flags.instance))
        ways = [Way(DIRECT, address), Way(OURS, own.address, flags.instance)]
        try:
            ways.append(Way(ENVOY, stack.enter_context(PEERS[ENVOY](address)).address))
        except FileNotFoundError as error:
            print(f"not installed, left out: {error}", file=sys.stderr)
        for way in ways:
            stack.callback(way.close)
        watched(results, wanted, ways, flags.calls, f"{results.about['backend'].split()[1]}, ")


def _deliver(results: Overheads, backend: str, flags: argparse.Namespace) -> None:
    flags.out.mkdir(parents=True, exist_ok=True)
    paths = [flags.out / f"overhead-{backend}.{kind}" for kind in ("json", "md", "html")]
    deliver(results, *paths)
    print(f"written: {', '.join(map(str, paths))}")
    if flags.save:
        results.write(committed(backend))


if __name__ == "__main__":
    sys.exit(main())
