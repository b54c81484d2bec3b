"""What is measured, which figures come out of it, and which goals they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.calls import SIZES
from benchmarks.crowd import crowd
from benchmarks.load import Sample, answers_of, closed, fixed_rate, messages, requests_of

FULL, QUICK = (10, 1.0), (3, 0.1)
"""Rounds of a run, and the size of each (`points`)."""

MESSAGES = 1_000
"""Messages of each stream."""


@dataclass(frozen=True)
class Point:
    """A load, the same for all proxies.

    Args:
        key: Its name in the results.
        way: Takes a proxy, and ``calls``, or the rate if there is one.
        calls: How many; 0 for a load that has a rate.
        half_of: The point whose slowest proxy's calls per second give the rate, which is half of
            them; "" for a load that has no rate.
    """

    key: str
    way: Callable[..., Sample]
    calls: int = 0
    half_of: str = ""


def points(size: float) -> list[Point]:
    """Return all points, in an order in which rates are known when they are needed.

    Args:
        size: Calls, as a multiple of those that take some tenths of a second to a second.
    """
    made = [
        Point("closed-1", partial(closed, streams=1), 2_500),
        Point("closed-20", partial(closed, streams=20), 15_000),
        Point("closed-100", partial(closed, streams=100), 20_000),
        Point("rate-1", partial(fixed_rate, seconds=size, streams=1), half_of="closed-1"),
        Point("rate-20", partial(fixed_rate, seconds=size, streams=20), half_of="closed-20"),
        Point("clients-16", partial(crowd, connections=16), 8_000),
        Point("clients-16x8", partial(crowd, connections=16, streams=8), 15_000),
        Point("messages", partial(messages, each=MESSAGES), 60),
    ]
    for ending, octets in SIZES.items():
        name, calls = _SIZED[octets]
        made.append(Point(f"{name}-requests", partial(requests_of, octets=octets), calls))
        made.append(Point(f"{name}-answers", partial(answers_of, ending=ending), calls))
    return [replace(point, calls=max(1, round(point.calls * size))) for point in made]


def chosen(points: list[Point], beginnings: list[str]) -> list[Point]:
    """Return the points whose keys begin so, less those whose rate none of them gives."""
    found = [point for point in points if point.key.startswith(tuple(beginnings))]
    keys = {point.key for point in found}
    return [point for point in found if not point.half_of or point.half_of in keys]


_SIZED = {
    1_000: ("1k", 2_500),
    10_000: ("10k", 2_000),
    100_000: ("100k", 800),
    1_000_000: ("1m", 150),
    10_000_000: ("large", 30),
}
"""What each size of message is called in the results, and how many calls are made with it."""


@dataclass(frozen=True)
class Goal:
    """A limit for one of our figures.

    Args:
        limit: The most that it may be, or the least if more is better.
        peer: The proxy whose figure it is a multiple of; "" if it is absolute.
    """

    limit: float
    peer: str = ""


@dataclass(frozen=True)
class Row:
    """A figure that is compared.

    Args:
        title: What it is, with its unit.
        point: Key of the point that gives it.
        field: Which of that point's values it is.
        goals: The first goal, and the one that comes then; none where there is no goal.
        added: The same value of a direct connection is taken away from it.
        more: More is better.
    """

    title: str
    point: str
    field: str
    goals: tuple[Goal, ...] = ()
    added: bool = False
    more: bool = False


MEMORY = "memory"
"""Key of the point that `benchmarks.memory` measures."""

_MANY = (Goal(0.85, "envoy"), Goal(1.0, "nginx"))
_LARGE = (Goal(0.8, "envoy"), Goal(1.0, "nginx"))

ROWS = [
    Row(
        "CPU of a call, 1 at a time, µs",
        "closed-1",
        "cpu_us",
        (Goal(0.7, "envoy"), Goal(1.1, "nginx")),
    ),
    Row("CPU of a call, 20 at a time, µs", "closed-20", "cpu_us", _MANY),
    Row("CPU of a call, 100 at a time, µs", "closed-100", "cpu_us", _MANY),
    Row(
        "latency added, 1 at a time, p50, µs",
        "rate-1",
        "p50_us",
        (Goal(0.75, "envoy"), Goal(1.0, "nginx")),
        added=True,
    ),
    Row(
        "latency added, up to 20 at a time, p99, µs",
        "rate-20",
        "p99_us",
        (Goal(1.0, "envoy"), Goal(1.0, "nginx")),
        added=True,
    ),
    Row(
        "CPU of a message of EmbedStream, µs",
        "messages",
        "cpu_us",
        (Goal(1.25, "envoy"), Goal(1.0, "envoy")),
    ),
    Row("requests of 10 MB a second", "large-requests", "per_second", _LARGE, more=True),
    Row("answers of 10 MB a second", "large-answers", "per_second", _LARGE, more=True),
    Row("memory of an idle worker, MB", MEMORY, "idle_mb", (Goal(32), Goal(28))),
    Row("memory of 1,000 open streams, MB", MEMORY, "streams_mb", (Goal(5), Goal(2))),
    Row("CPU of a call, 16 clients of 1 call, µs", "clients-16", "cpu_us"),
    Row("CPU of a call, 16 clients of 8 calls, µs", "clients-16x8", "cpu_us"),
    *(
        Row(f"CPU of a call with {what} of {size}, µs", f"{name}-{what.split()[1]}s", "cpu_us")
        for name, size in (("1k", "1 KB"), ("10k", "10 KB"), ("100k", "100 KB"), ("1m", "1 MB"))
        for what in ("a request", "an answer")
    ),
]
