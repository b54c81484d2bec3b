"""Budgets: what they never allow, and which honest habits they never hurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.wire.frames import ErrorCode, ProtocolError
from tei_manager.wire.limits import AbuseBudget, TokenBucket

times = st.lists(st.floats(0, 1000, allow_nan=False), max_size=60)


@given(st.integers(1, 20), st.floats(0.1, 50), times.map(sorted))
def test_a_bucket_never_gives_more_than_burst_and_rate_in_any_interval(
    burst: int, rate: float, schedule: list[float]
) -> None:
    bucket = TokenBucket(burst, rate)
    taken = [now for now in schedule if bucket.take(now)]
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            allowed = burst + rate * (taken[last] - start)
            assert last - first + 1 <= allowed + 1e-6


@given(st.integers(1, 20), times.map(sorted))
def test_a_bucket_refuses_nobody_who_stays_below_its_rate(
    burst: int, schedule: list[float]
) -> None:
    bucket = TokenBucket(burst, 1.0)
    assert all(bucket.take(number * 1.001) for number in range(len(schedule)))


@given(st.integers(1, 20), times)
def test_a_clock_that_jumps_back_refills_nothing(burst: int, schedule: list[float]) -> None:
    bucket = TokenBucket(burst, 1.0)
    taken = sum(bucket.take(now) for now in schedule)
    elapsed = max(schedule) - schedule[0] if schedule else 0
    assert taken <= burst + elapsed + 1e-6


def test_an_empty_bucket_gives_again_when_time_has_passed() -> None:
    bucket = TokenBucket(2, 1)
    assert [bucket.take(0), bucket.take(0), bucket.take(0.9), bucket.take(1)] == [1, 1, 0, 1]


def test_an_overdrawn_budget_says_which_and_asks_for_calm() -> None:
    budget = AbuseBudget()
    for _ in range(100):
        budget.ping(0.0, 0)
    with pytest.raises(ProtocolError, match="too_many_pings") as raised:
        budget.ping(0.0, 0)
    assert raised.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_keep_alive_without_calls_may_go_on_for_ever() -> None:
    budget = AbuseBudget()
    for number in range(10_000):
        budget.ping(number * 10.0, 0)


def test_a_client_may_ping_for_every_data_frame_that_it_gets() -> None:
    """As those do that estimate their bandwidth."""
    budget = AbuseBudget()
    for number in range(10_000):
        budget.ping(0.0, number)


def test_a_client_may_give_credit_twice_for_every_data_frame_and_widen_every_stream() -> None:
    budget = AbuseBudget()
    for number in range(1000):
        budget.window_update(number + 1, number)
        for _ in range(2):
            budget.window_update(number + 1, number + 1)


def test_an_empty_frame_now_and_then_is_no_attack() -> None:
    budget = AbuseBudget()
    for _ in range(1000):
        for _ in range(10):
            budget.empty_frame()
        budget.empty_frames = 0
    for _ in range(10):
        budget.empty_frame()
    with pytest.raises(ProtocolError, match="empty"):
        budget.empty_frame()


def test_a_client_may_cancel_fifty_young_calls_a_second_for_an_hour() -> None:
    budget = AbuseBudget()
    for number in range(180_000):
        budget.reset(number / 50)


def test_small_pieces_are_paid_by_the_payload_around_them() -> None:
    """As where a sender cuts its messages at the end of each window: an octet is left over."""
    budget = AbuseBudget()
    for number in range(100_000):
        budget.overhead(0, number * 16_384)


def test_padding_may_be_four_fifths_of_all_that_a_peer_sends() -> None:
    budget = AbuseBudget()
    for number in range(1, 10_000):
        budget.overhead(201, number * 255)


def test_payload_buys_no_more_overhead_than_eight_times_itself() -> None:
    budget = AbuseBudget()
    for _ in range((8 * 1000 + (64 << 10)) // 48):
        budget.overhead(0, 1000)
    with pytest.raises(ProtocolError, match="without content"):
        budget.overhead(0, 1000)
