"""What is measured, which figures come out of it, and which goals they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.load import Sample, closed, fixed_rate, large_answers, large_requests, messages

MESSAGES = 1_000
"""Messages of each stream."""


@dataclass(frozen=True)
class Point:
    """A load, the same for all proxies.

    Args:
        key: Its name in the results.
        way: Takes port and process ids of a proxy, and the rate if there is one.
        half_of: The point whose slowest proxy's calls per second give the rate, which is half of
            them; "" for a load that has no rate.
    """

    key: str
    way: Callable[..., Sample]
    half_of: str = ""


def points(size: float) -> list[Point]:
    """Return all points, in an order in which rates are known when they are needed.

    Args:
        size: Calls, as a multiple of those that take some tenths of a second to a second.
    """

    def calls(count: int) -> int:
        return max(1, round(count * size))

    return [
        Point("closed-1", partial(closed, calls=calls(2_500), streams=1)),
        Point("closed-20", partial(closed, calls=calls(15_000), streams=20)),
        Point("closed-100", partial(closed, calls=calls(20_000), streams=100)),
        Point("rate-1", partial(fixed_rate, seconds=size, streams=1), "closed-1"),
        Point("rate-20", partial(fixed_rate, seconds=size, streams=20), "closed-20"),
        Point("messages", partial(messages, streams=calls(60), each=MESSAGES)),
        Point("large-requests", partial(large_requests, calls=calls(30))),
        Point("large-answers", partial(large_answers, calls=calls(30))),
    ]


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
        goals: The first goal, and the one that comes then.
        added: The same value of a direct connection is taken away from it.
        more: More is better.
    """

    title: str
    point: str
    field: str
    goals: tuple[Goal, Goal]
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
]
