"""What a manager's instances and calls look like at one moment, and what happened between two.

Rates and percentiles are those of the time between two looks, from the counters of ``/metrics``.
A percentile is interpolated within its bucket of the histogram, as Prometheus does it. Memory is
read from this machine's processes, so it is known only of a manager on this machine.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tei_manager.cli.control import Control

_HISTOGRAM = "tei_grpc_multiplexer_request_duration_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Look:
    """What the manager says at one moment.

    Args:
        at: When, of `time.monotonic`.
        rows: The instances.
        sums: Counters and gauges by name, summed over their labels.
        calls: Calls sent to each instance since the worker started.
        buckets: How many calls took at most so many seconds.
        memory: Resident octets of each process group; empty for a manager elsewhere.
    """

    at: float
    rows: list[dict[str, Any]]
    sums: dict[str, float] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)
    buckets: dict[float, float] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """What is shown; times in seconds, sizes in octets, rates in calls a second."""

    instances: list[dict[str, Any]]
    in_flight: int
    rate: float
    p50: float | None
    p99: float | None
    clients: int
    workers: int


def look(control: Control, local: bool) -> Look:
    """Ask a manager for everything at once.

    Args:
        control: The way to it.
        local: Its processes are this machine's.
    """
    from prometheus_client.parser import text_string_to_metric_families

    rows = control.call("GET", "/instances")
    sums: defaultdict[str, float] = defaultdict(float)
    calls: defaultdict[str, float] = defaultdict(float)
    buckets: defaultdict[float, float] = defaultdict(float)
    for family in text_string_to_metric_families(control.text("/metrics")):
        for sample in family.samples:
            sums[sample.name] += sample.value
            if sample.name == "tei_grpc_pool_requests_total":
                calls[sample.labels["instance"]] += sample.value
            elif sample.name == _HISTOGRAM:
                buckets[float(sample.labels["le"])] += sample.value
    memory = _memory() if local else {}
    return Look(time.monotonic(), rows, dict(sums), dict(calls), dict(buckets), memory)


def _memory() -> dict[int, int]:
    """Return the resident octets of every process group of this machine; each instance is one."""
    command = ["ps", "-A", "-o", "pgid=,rss="]
    try:
        told = subprocess.run(  # noqa: S603 - a constant list
            command, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    groups: defaultdict[int, int] = defaultdict(int)
    for line in told.stdout.splitlines():
        pgid, kibibytes = line.split()
        groups[int(pgid)] += int(kibibytes) * 1024
    return dict(groups)


def compare(before: Look, after: Look) -> View:
    """Return what happened between two looks, and what is now."""
    seconds = max(after.at - before.at, 1e-9)
    instances = [
        {
            "name": row["name"],
            "status": row["status"],
            "rate": _grown(before.calls, after.calls, row["name"]) / seconds,
            "memory": after.memory.get(row["pid"]),
            "uptime_secs": row["uptime_secs"],
            "restarts": row["restarts"],
            "model_id": row["model_id"],
        }
        for row in after.rows
    ]
    counts = {bound: _grown(before.buckets, after.buckets, bound) for bound in after.buckets}
    return View(
        instances,
        int(after.sums.get("tei_grpc_multiplexer_requests_in_flight", 0)),
        counts.get(float("inf"), 0) / seconds,
        percentile(counts, 0.5),
        percentile(counts, 0.99),
        int(after.sums.get("tei_grpc_multiplexer_client_connections", 0)),
        int(after.sums.get("tei_manager_workers", 0)),
    )


def _grown(before: dict[Any, float], after: dict[Any, float], key: Any) -> float:
    """Return by how much a counter has grown; one that began anew has grown by what it is."""
    was, now = before.get(key, 0.0), after.get(key, 0.0)
    return now - was if now >= was else now


def percentile(counts: dict[float, float], part: float) -> float | None:
    """Return the time within which a part of all calls ended; ``None`` if there were none.

    Args:
        counts: For each bound of the histogram in seconds, the calls that took at most so long.
        part: 0.99 for the 99th percentile.
    """
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    rank = part * counts[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            if bound == float("inf"):
                return lower
            inside = counts[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, counts[bound]
    return lower
