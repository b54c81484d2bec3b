"""Results of a run: the medians of every round, and what follows from them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tei_manager.bench.intervals import Interval, interval

TOOK, ADDED = "took_us", "added_us"
"""What a round gives of a way: the median of its times, and of what it took beyond the first."""

DIRECT, OURS = "direct", "tei-manager"
"""The way to the instance itself, and the one through our multiplexer."""


@dataclass
class Results:
    """Values of a run.

    Args:
        about: What a reader needs to repeat the run, and to judge it.
        rounds: Values by case, way and name, one for each round.
    """

    about: dict[str, str]
    rounds: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, case: str, way: str, values: dict[str, float]) -> None:
        """Add what one way gave in the next round of a case."""
        of_way = self.rounds.setdefault(case, {}).setdefault(way, {})
        for name, value in values.items():
            of_way.setdefault(name, []).append(round(value, 2))

    def proxies(self) -> list[str]:
        """Return who was measured beside the direct way, ours first."""
        names = {name for case in self.rounds.values() for name in case if name != DIRECT}
        return sorted(names, key=lambda name: (name != OURS, name))

    def write(self, path: Path) -> None:
        """Write all of it as JSON, the rounds of a value on one line."""
        text = json.dumps({"about": self.about, "rounds": self.rounds}, indent=2)
        text = re.sub(r"\[[^\]]*\]", lambda found: " ".join(found[0].split()), text)
        path.write_text(text + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file has that `write` wrote."""
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return cls(document["about"], document["rounds"])


@dataclass
class Overheads(Results):
    """Results of `tei_manager.bench.measure`: each way has `TOOK` and `ADDED`."""

    def took(self, case: str, way: str) -> Interval:
        """Return how long a case took over a way, in µs."""
        return interval(self.rounds[case][way][TOOK])

    def overhead(self, case: str, way: str) -> Interval:
        """Return what a way took beyond the direct one, in µs: medians of differences."""
        return interval(self.rounds[case][way][ADDED])

    def ratio(self, case: str, peer: str) -> Interval:
        """Return our overhead as a multiple of a peer's: the median of the rounds' own ratios.

        A round in which the peer added nothing counts against us with an infinite ratio.
        """
        ways = self.rounds[case]
        pairs = zip(ways[OURS][ADDED], ways[peer][ADDED], strict=True)
        return interval([own / other if other > 0 else float("inf") for own, other in pairs])
