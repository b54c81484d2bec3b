"""What a manager's instances and calls look like at one moment, and what happened between two.

Rates and percentiles are those of the time between two looks, from the counters of ``/metrics``.
A percentile is interpolated within its bucket of the histogram, as Prometheus does it. Memory is
read from this machine's processes, so it is known only of a manager on this machine.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tei_manager.cli.control import Control

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

_DURATIONS = "tei_grpc_multiplexer_request_duration_seconds_bucket"
_OF_INSTANCES = "tei_grpc_pool_request_duration_seconds_bucket"

Buckets = Mapping[float, float]
"""For each bound of a histogram in seconds, the calls that took at most so long."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the manager says at one moment.

    Args:
        at: When, of `time.monotonic`.
        rows: The instances.
        sums: Counters and gauges by name, summed over their labels.
        calls: Calls sent to each instance since the worker started.
        in_flight: Calls that each instance has.
        buckets: How long calls took.
        instances: How long calls to each instance took.
        memory: Resident octets of each process group; empty for a manager elsewhere.
    """

    at: float
    rows: list[dict[str, Any]]
    sums: dict[str, float] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)
    in_flight: dict[str, float] = field(default_factory=dict)
    buckets: Buckets = field(default_factory=dict)
    instances: Mapping[str, Buckets] = field(default_factory=dict)
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
    families = text_string_to_metric_families(control.text("/metrics"))
    samples = [sample for family in families for sample in family.samples]
    return read(time.monotonic(), rows, samples, _memory() if local else {})


def read(
    at: float, rows: list[dict[str, Any]], samples: Iterable[Sample], memory: dict[int, int]
) -> Look:
    """Return what the instances and the samples of ``/metrics`` say."""
    sums: defaultdict[str, float] = defaultdict(float)
    calls: defaultdict[str, float] = defaultdict(float)
    in_flight: dict[str, float] = {}
    buckets: defaultdict[float, float] = defaultdict(float)
    instances: defaultdict[str, dict[float, float]] = defaultdict(dict)
    for sample in samples:
        sums[sample.name] += sample.value
        instance = sample.labels.get("instance", "")
        match sample.name:
            case "tei_grpc_pool_requests_total":
                calls[instance] += sample.value
            case "tei_grpc_pool_requests_in_flight":
                in_flight[instance] = sample.value
            case name if name == _DURATIONS:
                buckets[float(sample.labels["le"])] += sample.value
            case name if name == _OF_INSTANCES:
                instances[instance][float(sample.labels["le"])] = sample.value
    return Look(at, rows, sums, calls, in_flight, buckets, instances, memory)


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
    counts = _between(before.buckets, after.buckets)
    return View(
        [_instance(row, before, after, seconds) for row in after.rows],
        int(after.sums.get("tei_grpc_multiplexer_requests_in_flight", 0)),
        counts.get(float("inf"), 0) / seconds,
        percentile(counts, 0.5),
        percentile(counts, 0.99),
        int(after.sums.get("tei_grpc_multiplexer_client_connections", 0)),
        int(after.sums.get("tei_manager_workers", 0)),
    )


def _instance(row: dict[str, Any], before: Look, after: Look, seconds: float) -> dict[str, Any]:
    name = row["name"]
    counts = _between(before.instances.get(name, {}), after.instances.get(name, {}))
    return {
        "name": name,
        "status": row["status"],
        "in_flight": int(after.in_flight.get(name, 0)),
        "rate": _grown(before.calls, after.calls, name) / seconds,
        "p50": percentile(counts, 0.5),
        "p99": percentile(counts, 0.99),
        "memory": after.memory.get(row["pid"]),
        "uptime_secs": row["uptime_secs"],
        "restarts": row["restarts"],
        "model_id": row["model_id"],
    }


def _between(before: Buckets, after: Buckets) -> dict[float, float]:
    """Return the histogram of what happened between two looks."""
    return {bound: _grown(before, after, bound) for bound in after}


def _grown(before: Mapping[Any, float], after: Mapping[Any, float], key: Any) -> float:
    """Return by how much a counter has grown; one that began anew has grown by what it is."""
    was, now = before.get(key, 0.0), after.get(key, 0.0)
    return now - was if now >= was else now


def percentile(counts: Buckets, part: float) -> float | None:
    """Return the time within which a part of all calls ended; ``None`` if there were none.

    Args:
        counts: The histogram.
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
