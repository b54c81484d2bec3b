"""Takes the times of all cases over all ways, interleaved call by call.

Every turn calls each way once, in an order that rotates, so that whatever the machine does happens
to all of them, and drift cancels in the difference between two calls of one turn. Turns form
rounds; a round gives the median of its times and of its differences, and the rounds of a case give
the interval.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import TypeVar

from tei_manager.bench.cases import Case
from tei_manager.bench.paths import Path
from tei_manager.bench.results import ADDED, TOOK, Overheads

T = TypeVar("T")

ROUNDS = 10
"""Rounds of a case: their second and ninth values bound the median with 97.9 %."""

WARM_UP = 20
"""Calls of each way before the first that counts."""


def measure(
    results: Overheads,
    cases: Iterable[Case],
    paths: Sequence[Path],
    calls: int,
    tick: Callable[[str], None],
) -> None:
    """Measure cases, and add what was found.

    Args:
        results: Where it is added.
        cases: What to send.
        paths: Over which ways; the first is the one that the others are compared with.
        calls: Times that each round makes each case over each way.
        tick: Is told the case's name after each of its `ROUNDS` rounds.

    Raises:
        BenchmarkFailed: A call failed: there are no figures.
    """
    for case in cases:
        runs = [path.prepare(case) for path in paths]
        for _ in range(WARM_UP):
            for run in runs:
                run()
        for turn in range(ROUNDS):
            took = _round(runs, calls, turn)
            for path, times in zip(paths, took, strict=True):
                results.add(case.name, path.name, _values(times, took[0]))
            tick(case.name)


def _round(runs: list[Callable[[], float]], calls: int, first: int) -> list[list[float]]:
    """Return the times of one round by way, in the order of the turns."""
    took: list[list[float]] = [[] for _ in runs]
    gc.collect()
    gc.disable()  # a collection would count for whichever call it hits
    try:
        for turn in range(calls):
            for number in rotated(range(len(runs)), first + turn):
                took[number].append(runs[number]())
    finally:
        gc.enable()
    return took


def _values(times: list[float], direct: list[float]) -> dict[str, float]:
    added = median(time - other for time, other in zip(times, direct, strict=True))
    return {TOOK: median(times), ADDED: added}


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """Return the items with another one first in every turn."""
    start = turn % len(items)
    return [*items[start:], *items[:start]]
