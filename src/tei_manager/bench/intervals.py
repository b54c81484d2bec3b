"""What a few rounds tell of a figure: its median, and the interval that the true median is in.

The interval is bounded by two of the values themselves, by their ranks: of ``n`` independent values
at least ``k`` are below the true median, and at least ``k`` above, with a probability that only the
binomial distribution knows of. So nothing is supposed about how the values are distributed. Ten
rounds give the second and the ninth value, and 97.9 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb
from statistics import median

COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A median and its interval.

    Args:
        median: Of the values.
        low: The interval's lower end.
        high: Its upper end.
        coverage: The probability that the true median is in it: at least `COVERAGE`, unless there
            are fewer than six values; then the interval is from the smallest to the largest.
    """

    median: float
    low: float
    high: float
    coverage: float


def interval(values: Sequence[float]) -> Interval:
    """Return the narrowest interval by ranks that covers the median with `COVERAGE`."""
    ordered = sorted(values)
    rank = max([k for k in range(1, len(ordered) // 2 + 1) if _covers(len(ordered), k)], default=1)
    low, high = ordered[rank - 1], ordered[-rank]
    return Interval(median(ordered), low, high, coverage(len(ordered), rank))


def _covers(count: int, rank: int) -> bool:
    return coverage(count, rank) >= COVERAGE


def coverage(count: int, rank: int) -> float:
    """Return how likely the median is between the ``rank``-th lowest and highest of the values."""
    outside = sum(comb(count, below) for below in range(rank))
    return max(0.0, 1 - 2 * outside / (1 << count))


def percentile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest of the values that at least this share of them does not pass."""
    return ordered[max(1, ceil(share * len(ordered))) - 1]
