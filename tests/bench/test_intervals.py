"""Medians, intervals and percentiles by hand and by counting."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.bench.intervals import COVERAGE, coverage, interval, percentile

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def test_ten_rounds_give_the_second_and_the_ninth_value() -> None:
    found = interval([10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert (found.low, found.median, found.high) == (2, 5.5, 9)
    assert found.coverage == pytest.approx(1 - 22 / 1024)


def test_three_rounds_give_their_range_and_say_how_little_that_is() -> None:
    found = interval([3.0, 1.0, 2.0])
    assert (found.low, found.median, found.high, found.coverage) == (1.0, 2.0, 3.0, 0.75)


def test_one_round_covers_nothing() -> None:
    found = interval([1.0])
    assert (found.low, found.median, found.high, found.coverage) == (1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(("count", "rank"), [(5, 1), (6, 1), (8, 2), (9, 2), (10, 2), (10, 3)])
def test_the_coverage_is_that_of_all_ways_to_fall_below_or_above(count: int, rank: int) -> None:
    below = [sum(sides) for sides in product((0, 1), repeat=count)]
    inside = sum(rank <= number <= count - rank for number in below)
    assert coverage(count, rank) == inside / 2**count


@given(VALUES)
def test_an_interval_holds_the_median_and_is_as_narrow_as_the_coverage_allows(
    values: list[float],
) -> None:
    found, ordered = interval(values), sorted(values)
    assert found.low <= found.median <= found.high
    if len(values) >= 6:
        assert found.coverage >= COVERAGE
        assert coverage(len(values), ordered.index(found.low) + 2) < COVERAGE or (
            ordered.count(found.low) > 1
        )


@given(st.lists(st.integers(0, 50), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_percentile_is_the_smallest_value_that_its_share_does_not_pass(
    values: list[int], share: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert sum(value < found for value in ordered) < share * len(ordered)
