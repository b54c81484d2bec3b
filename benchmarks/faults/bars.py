"""What is asked of the switch, each bar with what a server reached and whether that is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.outages import DEADLINE_SECONDS, FROZEN_SECONDS
from benchmarks.faults.stalls import DEAF_CLIENTS, READERS, slowest_ratio
from benchmarks.faults.trials import SINGLE, TWENTY

Results = dict[str, Any]
Judgement = tuple[str, bool]
"""What is shown, and whether the bar is met."""

MOST_FRAMES = 2000
MOST_SECONDS = 1.1
"""By when a flood should have ended its connection: after so many frames, or so long. It is a
second, and what it takes to see that: Envoy closes a second after it gave up a connection."""


@dataclass(frozen=True)
class Bar:
    """One bar.

    Args:
        what: What is asked.
        limit: How much of it, as shown.
        section: The part of a server's results that it reads.
        judge: Reads that part; it is only called if the part was run.
    """

    what: str
    limit: str
    section: str
    judge: Callable[[Any], Judgement]


def _conformance(score: Results) -> Judgement:
    return f"{score['passed']} of {score['cases']}", score["passed"] == score["cases"]


def in_time(row: Results) -> bool:
    """Return whether a flood of one connection was ended soon enough."""
    soon = row["frames"] <= MOST_FRAMES or row["seconds"] <= MOST_SECONDS
    return bool(row["ended"]) and soon


def _ended(rows: Results) -> Judgement:
    ended = sum(in_time(row) for row in rows.values())
    return f"{ended} of {len(rows)}", ended == len(rows)


def _most(key: str, limit: float, unit: str) -> Callable[[Results], Judgement]:
    """Judge the largest figure of all floods; one that is None is above every limit."""

    def judge(rows: Results) -> Judgement:
        values = [row[key] for row in rows.values()]
        if None in values:
            return "no call succeeded", False
        return f"{max(values)}{unit}", max(values) <= limit

    return judge


def _status(fault: str, status: str, limit: float) -> Callable[[Results], Judgement]:
    def judge(rows: Results) -> Judgement:
        row = rows[fault]
        shown = f"{row['status']}, {row['median_ms']} ms"
        return shown, row["status"] == status and row["median_ms"] <= limit

    return judge


def _time(fault: str, limit: float) -> Callable[[Results], Judgement]:
    return lambda rows: (f"{rows[fault]['median_ms']} ms", rows[fault]["median_ms"] <= limit)


def _near(fault: str, seconds: float) -> Callable[[Results], Judgement]:
    def judge(rows: Results) -> Judgement:
        found = rows[fault]["median_ms"]
        return f"{found} ms", abs(found - seconds * 1e3) <= 10

    return judge


def memory_limit(clients: int) -> float:
    """Return the MiB that clients which do not read may cost: 64 KiB each, and 8 MiB."""
    return clients * 64 / 1024 + 8


def _memory(fault: str, clients: int) -> Callable[[Results], Judgement]:
    def judge(rows: Results) -> Judgement:
        found = rows[fault]["rss_mib"]
        return f"+{found} MiB", found <= memory_limit(clients)

    return judge


def _neighbours(rows: Results) -> Judgement:
    ratio = slowest_ratio(rows["F6b"]["steps"])
    return ("calls failed", False) if ratio is None else (f"{ratio} x", ratio <= 3)


def _lost(rows: Results) -> Judgement:
    return str(rows["F7"]["lost"]), rows["F7"]["lost"] == 0


BARS = (
    Bar("h2spec, strict", "all", "conformance", _conformance),
    Bar("floods ended within 2,000 frames or 1.1 s", "all", SINGLE, _ended),
    Bar("honest client's worst call beside a flood", "50 ms", SINGLE, _most("worst_ms", 50, " ms")),
    Bar("its failures", "0", SINGLE, _most("failures", 0, "")),
    Bar("memory in a flood", "+4 MiB", SINGLE, _most("rss_mib", 4, " MiB")),
    Bar("p99 beside 20 floods at once", "50 ms", TWENTY, _most("p99_ms", 50, " ms")),
    Bar("failures beside them", "0", TWENTY, _most("failures", 0, "")),
    Bar("F1, backend killed", "UNAVAILABLE, 20 ms", "faults", _status("F1", "UNAVAILABLE", 20)),
    Bar("F2, backend away", "UNAVAILABLE, 5 ms", "faults", _status("F2", "UNAVAILABLE", 5)),
    Bar("F2b, first success after its return", "50 ms", "faults", _time("F2b", 50)),
    Bar("F3, cancel seen by the backend", "5 ms", "faults", _time("F3", 5)),
    Bar("F4, client's death seen by the backend", "10 ms", "faults", _time("F4", 10)),
    Bar("F5, a deadline of 300 ms", "± 10 ms", "faults", _near("F5", DEADLINE_SECONDS)),
    Bar(
        "F5, told to the backend", "± 10 ms", "faults", _near("F5, backend told", DEADLINE_SECONDS)
    ),
    Bar(
        f"F6, memory of {DEAF_CLIENTS} clients that do not read",
        f"+{memory_limit(DEAF_CLIENTS):.1f} MiB",
        "faults",
        _memory("F6", DEAF_CLIENTS),
    ),
    Bar("F6b, p99 beside them, over idle", "3 x", "faults", _neighbours),
    Bar(
        f"F6b, memory of {READERS[-1]} of them",
        f"+{memory_limit(READERS[-1]):.1f} MiB",
        "faults",
        _memory("F6b", READERS[-1]),
    ),
    Bar("F7, calls lost by a soft stop", "0", "faults", _lost),
    Bar("F8, a deadline at a frozen backend", "± 10 ms", "faults", _near("F8", FROZEN_SECONDS)),
)
