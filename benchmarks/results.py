"""Results of a run: every value of every round, and what follows from them.

Ratios are made within a round, where both proxies had the same machine, and their median is taken:
the other way round, a machine that was slow for a minute would count for one of them only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.intervals import Interval, interval
from benchmarks.points import DIRECT, OURS, Goal, Row

FILE = Path(__file__).parent / "results" / "switch.json"
"""The committed run, which docs/performance.md shows."""


@dataclass
class Results:
    """Values of a run.

    Args:
        about: What a reader needs to repeat the run, and to judge it.
        rounds: Values by point, proxy and name, one for each round.
    """

    about: dict[str, str]
    rounds: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, point: str, proxy: str, values: dict[str, float]) -> None:
        """Add what one proxy gave in the next round of a point."""
        of_proxy = self.rounds.setdefault(point, {}).setdefault(proxy, {})
        for name, value in values.items():
            of_proxy.setdefault(name, []).append(round(value, 2))

    def proxies(self) -> list[str]:
        """Return who was measured, ours first."""
        names = {name for point in self.rounds.values() for name in point if name != DIRECT}
        return sorted(names, key=lambda name: (name != OURS, name))

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
        pairs = zip(self.values(row, OURS), self.values(row, peer), strict=True)
        return interval([own / other if other > 0 else inf for own, other in pairs])

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

    def write(self, path: Path) -> None:
        """Write all of it as JSON, the rounds of a value on one line."""
        text = json.dumps({"about": self.about, "rounds": self.rounds}, indent=2)
        text = re.sub(r"\[[^\]]*\]", lambda found: " ".join(found[0].split()), text)
        path.write_text(text + "\n", "utf-8")


def read(path: Path = FILE) -> Results:
    """Return what `Results.write` wrote."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return Results(document["about"], document["rounds"])
