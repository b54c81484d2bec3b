"""Run what is too long for `make test`: the soaks, the properties, the machines and the fuzzer.

    python tools/long.py                        # everything, at full length: about ten hours
    python tools/long.py soak kills --seconds 60
    python tools/long.py fuzz --target Z5 --runs 100000
    python tools/long.py properties --examples 2000

This is what `make long` runs (LONG="soak --seconds 60" chooses). Each part prints one line with its
figures and ``pass`` or ``FAIL``; the exit code is 1 if one failed. The fuzzer keeps what
reached something new under .fuzz, and goes on from there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("tests/fuzz", "tests/fakes")]

if TYPE_CHECKING:
    from soak import Figures, Soak

SOAK_SECONDS = 300.0  # G30
KILLS_SECONDS = 3600.0  # G31
SOAK_SLOPE, KILLS_SLOPE = 0.5, 2.0 / 60
"""MiB a minute by which the process may grow (G30, G31)."""

CONNECTIONS, CONNECTIONS_MIB = 100_000, 2.0  # G32
CHURN, CHURN_SECONDS = (20, 200), 3600.0  # G27: stubs that come and go, external instances
API_MS, LAG_MS, CHURN_MIB = 50.0, 10.0, 8.0
"""At the 99th percentile, requests to the API (DELETE and ``?wait`` apart) and a call that the
worker answers itself; and by how much the manager may grow."""
LARGE = ((1000, 1), (5000, 50))  # G33: calls, channels
EXAMPLES = 10_000  # G34
RUNS = {"Z1": 10_000_000, "Z5": 10_000_000, "Z6": 10_000_000}  # G35
OTHER_RUNS = 1_000_000

TARGETS = ("Z1", "Z2", "Z3", "Z4", "Z5", "Z6", "Z7", "Z8", "Z10", "Z11", "Z12")


@dataclass(frozen=True)
class Result:
    """What a part found: whether it passed, and its figures in words."""

    passed: bool
    figures: str


def soak(flags: argparse.Namespace) -> Result:
    """Mixed calls, ten per cent cancelled (G30)."""
    return _soaked(flags.seconds or SOAK_SECONDS, SOAK_SLOPE, kills=False)


def kills(flags: argparse.Namespace) -> Result:
    """The same while instances go away and come back (G31)."""
    return _soaked(flags.seconds or KILLS_SECONDS, KILLS_SLOPE, kills=True)


def _soaked(seconds: float, most: float, kills: bool) -> Result:
    async def run(load: Soak) -> Figures:
        return await load.run(seconds, kills=kills)

    figures = _with_load(run)
    complaints = figures.complaints(seconds, most)
    words = (
        f"{figures.total} calls in {seconds:g} s, {figures.calls['away']} to an instance away, "
        f"{figures.settled_slope(seconds):+.3f} MiB a minute (most {most:.3f}), "
        f"descriptors {figures.fds[1] - figures.fds[0]:+d}; {'; '.join(complaints) or 'all well'}"
    )
    return Result(not complaints, words)


def churn(flags: argparse.Namespace) -> Result:
    """Instances that come and go, beside 200 that stay (G27)."""
    from churn import judged

    seconds = flags.minutes * 60 if flags.minutes else flags.seconds or CHURN_SECONDS
    found = asyncio.run(judged(*CHURN, seconds))
    passed = not found.left and not found.churn.wrong
    passed &= found.api[0.99] < API_MS and found.lag[0.99] < LAG_MS and found.grown < CHURN_MIB
    return Result(passed, f"{found}; most at p99: API {API_MS:g} ms, worker {LAG_MS:g} ms")


def connections(flags: argparse.Namespace) -> Result:
    """Connect, call and go, many times (G32)."""
    from crowds import connections

    count = flags.count or CONNECTIONS

    async def run(load: Soak) -> tuple[dict[str, int], float]:
        await connections(load, count // 20)  # so that memory is what it will be
        before = load.rss()
        return dict(await connections(load, count)), load.rss() - before

    ends, grown = _with_load(run)
    passed = ends == {"ok": count} and grown <= CONNECTIONS_MIB
    words = f"{ends} of {count} connections, {grown:+.2f} MiB (most {CONNECTIONS_MIB:g})"
    return Result(passed, words)


def large(flags: argparse.Namespace) -> Result:
    """Large unary calls at once on one channel and on fifty (G33)."""
    from crowds import large

    words, passed = [], True
    for calls, channels in LARGE:
        count = min(calls, flags.count or calls)

        async def run(load: Soak, count: int = count, channels: int = channels) -> dict[str, int]:
            return dict(await large(load, count, channels))

        ends = _with_load(run)
        passed &= ends == {"ok": count}
        words.append(f"{count} on {channels}: {ends}")
    return Result(passed, "; ".join(words))


def _with_load(run: Callable[[Soak], Awaitable[T]]) -> T:
    """Run a coroutine against a fresh multiplexer."""
    from soak import soak

    async def main() -> T:
        async with soak() as load:
            return await run(load)

    return asyncio.run(main())


def growth(_flags: argparse.Namespace) -> Result:
    """How the cost of a call grows (docs/performance.md)."""
    command = [sys.executable, "-m", "benchmarks.growth"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
    return Result(done.returncode == 0, done.stdout.strip().replace("\n", "; "))


def properties(flags: argparse.Namespace) -> Result:
    """All properties, with many examples (G34)."""
    return _pytest(flags, "tests", "-m", "hypothesis")


def machines(flags: argparse.Namespace) -> Result:
    """All state machines, with many runs (G34)."""
    return _pytest(flags, "tests/machines")


def _pytest(flags: argparse.Namespace, *which: str) -> Result:
    examples = flags.examples or EXAMPLES
    environment = {
        **os.environ,
        "HYPOTHESIS_PROFILE": "long",
        "HYPOTHESIS_EXAMPLES": str(examples),
    }
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", *which]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        sys.stderr.write(done.stdout)
    return Result(done.returncode == 0, f"{examples} examples each: {lines[-1] if lines else '?'}")


def fuzz(flags: argparse.Namespace) -> Result:
    """All fuzz targets, or one (G35)."""
    words, passed = [], True
    for target in [flags.target] if flags.target else TARGETS:
        runs = flags.runs or RUNS.get(target, OTHER_RUNS)
        command = [sys.executable, "tests/fuzz/fuzz_one.py", target, f"--runs={runs}"]
        command += [f"--corpus=.fuzz/{target}", f"--seconds={int(flags.seconds or 0)}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            told = (done.stdout + done.stderr).splitlines(keepends=True)
            sys.stderr.writelines(line for line in told if not line.startswith(("#", "INFO")))
        made = re.search(r"executed_units:\s*(\d+)", done.stderr)
        words.append(
            f"{target} {made[1] if made else '?'}{'' if done.returncode == 0 else ' BROKE'}"
        )
        passed &= done.returncode == 0
    return Result(passed, "runs: " + ", ".join(words))


PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    part.__name__: part
    for part in (soak, kills, churn, connections, large, growth, properties, machines, fuzz)
}


def main() -> None:
    """Run the parts that are named, or all of them."""
    parser = argparse.ArgumentParser(
        prog="make long", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none means all")
    parser.add_argument("--seconds", type=float, help="length of a soak, limit of a fuzz target")
    parser.add_argument("--minutes", type=float, help="length of churn")
    parser.add_argument("--count", type=int, help="how many connections, calls of large")
    parser.add_argument("--examples", type=int, help="of each property; a tenth for machines")
    parser.add_argument("--target", choices=TARGETS, help="the one target to fuzz")
    parser.add_argument("--runs", type=int, help="of each fuzz target")
    flags = parser.parse_args()
    if unknown := set(flags.parts) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}; use {', '.join(PARTS)}")
    failed = 0
    for name in flags.parts or PARTS:
        begun = time.monotonic()
        result = PARTS[name](flags)
        failed += not result.passed
        verdict = "pass" if result.passed else "FAIL"
        print(
            f"{name}: {verdict} in {time.monotonic() - begun:.0f} s: {result.figures}", flush=True
        )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
