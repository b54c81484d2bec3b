"""Which build of Python runs: a plain build makes every call dearer than an optimised one."""

from __future__ import annotations

import platform
import sysconfig
from time import perf_counter_ns

STEPS, TIMES = 10_000, 20
"""Steps of the loop, and how often it is timed: some ten milliseconds in all."""

_OPTIMISED = "--enable-optimizations"


def interpreter() -> str:
    """Return how this Python was built, as far as it tells, and how fast it is.

    Distributions optimise by means of their own, which no Python tells of; so a step of a fixed
    loop is timed besides, and two runs can be compared by that.
    """
    build = " ".join(platform.python_build())
    how = _OPTIMISED if _OPTIMISED in (sysconfig.get_config_var("CONFIG_ARGS") or "") else "none"
    return (
        f"{platform.python_implementation()}, {platform.python_compiler()}, build {build}, "
        f"optimisations told of: {how}, {step_ns():.1f} ns for a step of a fixed loop"
    )


def step_ns() -> float:
    """Return the time of a step of a fixed loop in plain Python, in ns: the best of `TIMES`."""
    return min(_timed() for _ in range(TIMES)) / STEPS


def _timed() -> int:
    begun = perf_counter_ns()
    _loop(STEPS)
    return perf_counter_ns() - begun


def _loop(steps: int) -> int:
    """Do what our code does most: look up, compare, call, slice, add."""
    lengths, octets, total = {number: number for number in range(16)}, bytes(range(16)), 0
    for step in range(steps):
        place = step & 15
        if lengths[place] != total:
            total += len(octets[place:])
    return total
