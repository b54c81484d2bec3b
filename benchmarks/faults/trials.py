"""A flood, an honest client beside it, and what both and the server have to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Any

from benchmarks.faults.attack import Ending, attack
from benchmarks.faults.canary import Canary, singing
from benchmarks.faults.floods import Flood
from benchmarks.faults.instance import backend
from benchmarks.faults.servers import Cost, Server, serving

MIB = 1 << 20
MANY = 20
"""Connections in the trial of many attackers."""

WATCH_SECONDS = 1.2
"""How long the honest client is watched at least, from the first unit on: some 100 calls."""

SETTLE_SECONDS = 4.0
LOOK_SECONDS = 0.05
"""How long the honest client is looked at before a flood, at most; and each look if no call fails.
A server that has stopped answering lets every call wait for its deadline."""

SINGLE, TWENTY = "floods", f"floods_{MANY}"
"""The names of the two trials' results."""


def run(name: str, floods: Sequence[Flood], trial: str, step: Callable[[], None]) -> dict[str, Any]:
    """Play floods against one server, one after the other; returns a row for each, by name."""
    connections = MANY if trial == TWENTY else 1
    rows = {}
    with ExitStack() as stack:
        instance = stack.enter_context(backend())
        server = stack.enter_context(serving(name, instance.port))
        canary = stack.enter_context(singing(server.port))
        for flood in floods:
            rows[flood.name] = _try(server, canary, flood, connections)
            step()
    return rows


def _try(server: Server, canary: Canary, flood: Flood, connections: int) -> dict[str, Any]:
    _settle(canary)
    begun = monotonic()
    with Cost(server.worker) as cost:
        endings = attack(server.port, flood, connections)
        honest = canary.collect(begun + WATCH_SECONDS)
    return {
        **_summary(endings),
        "cpu_s": round(cost.cpu_seconds, 2),
        "rss_mib": round(cost.rss_bytes / MIB, 1),
        "worst_ms": honest.quantile(1.0),
        "p99_ms": honest.quantile(0.99),
        "calls": len(honest.milliseconds),
        "failures": honest.failures,
    }


def _settle(canary: Canary) -> None:
    """Let the server and its backend work off the flood before."""
    until = monotonic() + SETTLE_SECONDS
    while monotonic() < until:
        seen = canary.collect(monotonic() + LOOK_SECONDS)
        if seen.milliseconds and not seen.failures:
            return


def _summary(endings: list[Ending]) -> dict[str, Any]:
    """Return how connections ended: the worst of each figure, and the ends with their numbers."""
    ends = Counter(ending.how for ending in endings)
    several = len(endings) > 1
    return {
        "how": ", ".join(f"{n} x {how}" if several else how for how, n in ends.most_common()),
        "ended": sum(ending.ended for ending in endings),
        "frames": max(ending.frames for ending in endings),
        "seconds": max(ending.seconds for ending in endings),
        "resets": max(ending.resets for ending in endings),
    }
