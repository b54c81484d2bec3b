"""How many cores this process may use, by what the kernel says of it.

An affinity mask names cores; a container is more often bounded by a quota of time, which no mask
shows: with 64 cores in the mask and a quota of two, 64 threads use up a period's time in its first
part and all stand still for the rest of it. Every group around the process may have a quota, and
the smallest counts. A version 2 group says it in ``cpu.max``, a version 1 group in two files of the
controller ``cpu``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may keep busy, at least one.

    A quota of a core and a half counts as one: the half is left to the threads beside the model's.

    Args:
        proc: Where the kernel shows processes.
        groups: Where the control groups are mounted, as systemd and containers do it.
    """
    cores = _affinity()
    for group in _groups(proc / "self/cgroup", groups):
        cores = min(cores, _quota(group) or cores)
    return max(1, int(cores))


def _affinity() -> float:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(memberships: Path, root: Path) -> Iterator[Path]:
    """Yield every folder that may hold a quota: the groups of this process, innermost first.

    In a container the path may be that outside, of which only the root is there.
    """
    for line in _words(memberships, "\n"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = Path(path.lstrip("/"))
        for mount in (root / controllers, root / "cpu") if controllers else (root,):
            yield from (mount / group for group in (inner, *inner.parents))


def _quota(group: Path) -> float | None:
    """Return the cores of a group's quota, ``None`` if it has none."""
    allowed = _words(group / "cpu.max") or [
        *_words(group / "cpu.cfs_quota_us"),
        *_words(group / "cpu.cfs_period_us"),
    ]
    if len(allowed) != 2 or not all(word.isdecimal() and int(word) for word in allowed):
        return None  # "max", or -1
    return int(allowed[0]) / int(allowed[1])


def _words(file: Path, separator: str | None = None) -> list[str]:
    """Return what stands in a file of the kernel, nothing if it is not there."""
    try:
        return file.read_text("utf-8").strip().split(separator)
    except OSError:
        return []
