from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tei_manager.engine.fair_queue import FairQueue

Item = tuple[str, int]


def _queue(**lines: int) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for call, count in lines.items():
        for number in range(count):
            queue.append(call, (call, number))
    return queue


def test_calls_take_turns_and_keep_the_order_of_their_own() -> None:
    turns = list(_queue(a=3, b=1, c=2).in_turn())
    assert turns == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]


def test_a_call_that_comes_last_waits_for_one_item_of_each_other() -> None:
    queue = _queue(stream=300, other=200)
    queue.append("late", ("late", 0))
    for _ in range(2):
        queue.take([next(queue.in_turn())])
    assert next(queue.in_turn()) == ("late", 0)


def test_what_is_unwanted_is_counted_and_gone() -> None:
    queue = _queue(a=3, b=1)
    assert queue.drop(lambda item: item[1] == 0) == 2
    assert list(queue.in_turn()) == [("a", 1), ("a", 2)]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=40),
)
def test_every_item_comes_out_once_and_no_call_twice_while_another_waits(
    steps: list[tuple[str, int]],
) -> None:
    queue: FairQueue[Item] = FairQueue()
    put: list[Item] = []
    out: list[Item] = []
    for number, (call, batch) in enumerate(steps):
        queue.append(call, (call, number))
        put.append((call, number))
        if batch:
            out += _take(queue, batch)
    while len(queue):
        out += _take(queue, 1)
    assert sorted(out) == sorted(put)
    for call in "abcd":
        own = [number for name, number in out if name == call]
        assert own == sorted(own)


def _take(queue: FairQueue[Item], count: int) -> list[Item]:
    """Take the first in turn and those behind it."""
    batch = list(queue.in_turn())[:count]
    queue.take(batch)
    return batch
