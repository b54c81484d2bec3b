"""Results of a run: every value of every round, and what follows from them.

Ratios are made within a round, where both proxies had the same machine, and their median is taken:
the other way round, a machine that was slow for a minute would count for one of them only.
"""

from __future__ import annotations

from math import inf
from pathlib import Path
from statistics import median

from benchmarks.points import Goal, Row
from tei_manager.bench import results
from tei_manager.bench.intervals import Interval, interval
from tei_manager.bench.results import DIRECT, OURS

FILE = Path(__file__).parent / "results" / "switch.json"
"""The committed run, which docs/performance.md shows."""

ELSEWHERE = FILE.with_name("switch-epyc.json")
"""The same on another machine, with an earlier version and a plain build of Python."""

WHERE = FILE.with_name("where.json")
"""The one that tells the kernel's part of the cost."""

WITH_TLS = FILE.with_name("tls.json")
"""The one with TLS between the load and the proxies."""

OF_DOORS = FILE.with_name("doors.json")
"""The one of the ways in, by `benchmarks.doors`."""

TWO_WORKERS = FILE.with_name("workers-2.json")
"""The one with two workers of each proxy."""


class Results(results.Results):
    """Values of a run by point, proxy and name."""

    def values(self, row: Row, proxy: str) -> list[float]:
        """Return a row's figures of one proxy, one for each round."""
        point = self.rounds[row.point]
        values = point[proxy][row.field]
        if not row.added:
            return values
        direct = point[DIRECT][row.field]
        return [through - without for through, without in zip(values, direct, strict=True)]

    def figure(self, row: Row, proxy: str) -> float:
        """Return the median of a row's figures of one proxy."""
        return median(self.values(row, proxy))

    def ratio(self, row: Row, peer: str) -> Interval:
        """Return ours as a multiple of a peer's, the median of the rounds' own ratios.

        A round in which the peer added nothing, because the direct connection was disturbed, counts
        against us with an infinite ratio.
        """
        return self.multiple(row, OURS, peer)

    def multiple(self, row: Row, proxy: str, base: str) -> Interval:
        """Return a row's figure of a proxy as a multiple of that of another, as `ratio` does."""
        pairs = zip(self.values(row, proxy), self.values(row, base), strict=True)
        return interval([one / other if other > 0 else inf for one, other in pairs])

    def reached(self, row: Row, goal: Goal) -> Interval:
        """Return what a goal limits: our figures, or their ratios to a peer's."""
        return self.ratio(row, goal.peer) if goal.peer else interval(self.values(row, OURS))

    def meets(self, row: Row, goal: Goal) -> bool:
        """Say whether the median keeps the limit."""
        median = self.reached(row, goal).median
        return median >= goal.limit if row.more else median <= goal.limit

    def certain(self, row: Row, goal: Goal) -> bool:
        """Say whether the limit is outside the interval: another run would find the same."""
        reached = self.reached(row, goal)
        return not reached.low <= goal.limit <= reached.high
