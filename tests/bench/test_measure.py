"""Ways are called in turn, and what one adds is a difference within a turn."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from tei_manager.bench import measure as module
from tei_manager.bench.cases import Case, Group, cases
from tei_manager.bench.measure import ROUNDS, WARM_UP, measure, rotated
from tei_manager.bench.results import ADDED, DIRECT, OURS, TOOK, Overheads

CALLS = 5


class Drifting:
    """A way that takes a fixed time more than a machine that gets slower with every turn."""

    def __init__(self, name: str, more: float, log: list[str]) -> None:
        self.name, self._more, self._log, self._turn = name, more, log, 0

    def prepare(self, _case: Case) -> Callable[[], float]:
        def run() -> float:
            self._turn += 1
            self._log.append(self.name)
            return 100.0 * self._turn + self._more

        return run


def measured(*more: float) -> tuple[Overheads, list[str]]:
    log: list[str] = []
    names = (DIRECT, OURS, "envoy")
    ways = [Drifting(name, by, log) for name, by in zip(names, more, strict=False)]
    results = Overheads({})
    measure(results, cases()[:1], ways, CALLS, lambda _: None)  # type: ignore[arg-type]
    return results, log


def test_drift_of_the_machine_cancels_in_what_a_way_adds() -> None:
    results, _ = measured(0.0, 30.0, 50.0)
    added = results.overhead("short", OURS)
    assert (added.low, added.median, added.high) == (30.0, 30.0, 30.0)
    assert results.ratio("short", "envoy").median == 0.6
    assert results.took("short", DIRECT).low < results.took("short", DIRECT).high


def test_every_way_is_called_once_a_turn_and_first_in_its_turn() -> None:
    _, log = measured(0.0, 0.0, 0.0)
    counted = log[3 * WARM_UP :]
    turns = [counted[n : n + 3] for n in range(0, len(counted), 3)]
    assert len(turns) == ROUNDS * CALLS
    assert all(sorted(turn) == sorted((DIRECT, OURS, "envoy")) for turn in turns)
    firsts = [turn[0] for turn in turns]
    assert {firsts.count(name) for name in set(firsts)} <= {ROUNDS * CALLS // 3, 17}


def test_a_round_gives_one_value_of_each_name() -> None:
    results, _ = measured(0.0, 1.0)
    values = results.rounds["short"][OURS]
    assert {name: len(of) for name, of in values.items()} == {TOOK: ROUNDS, ADDED: ROUNDS}


def test_a_peer_that_added_nothing_counts_against_us() -> None:
    results, _ = measured(0.0, 5.0, 0.0)
    assert results.ratio("short", "envoy").median == float("inf")


def test_collections_are_off_while_calls_are_timed_and_on_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[str] = []
    monkeypatch.setattr(gc, "disable", lambda: states.append("off"))
    monkeypatch.setattr(gc, "enable", lambda: states.append("on"))

    def fail() -> float:
        states.append("call")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        module._round([fail], 1, 0)
    assert states == ["off", "call", "on"]


def test_every_item_is_first_in_some_turn() -> None:
    assert [rotated("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]


def test_the_texts_of_a_case_differ_and_are_equally_long() -> None:
    for case in cases():
        assert len(set(case.texts)) == len(case.texts)
        assert len({len(text) for text in case.texts}) == 1
    assert [len(case.texts) for case in cases(Group.STREAMING_REQUESTS)] == [5, 10, 20]
    lengths = [len(case.texts[0]) for case in cases(Group.EMBEDDING_OVERHEAD)]
    assert lengths == sorted(set(lengths))


def test_the_published_overheads_are_those_of_the_originals_page() -> None:
    found = [round(case.published.overhead, 1) for case in cases()]
    assert found == [168.3, 249.4, 184.4, 157.6, 137.1, 190.7, 363.4, 286.3, 282.6, 36.8]
