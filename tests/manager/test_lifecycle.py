"""The life of an instance, row by row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.errors import AlreadyRunning, InvalidInstanceState, NotRunning
from tei_manager.manager.lifecycle import (
    ENDING,
    RESTING,
    TABLE,
    Action,
    Backoff,
    Crashes,
    Event,
    Phase,
    decide,
    probe_verdict,
)
from tei_manager.routes import RouteState

P, E, A = Phase, Event, Action

ROWS = [
    (P.STOPPED, E.START, P.STARTING, A.LAUNCH),
    (P.STOPPED, E.RESTART, P.STARTING, A.LAUNCH),
    (P.STOPPED, E.DELETE, P.DELETED, A.FORGET),
    (P.FAILED, E.START, P.STARTING, A.LAUNCH),
    (P.FAILED, E.RESTART, P.STARTING, A.LAUNCH),
    (P.FAILED, E.STOP, P.STOPPED),
    (P.FAILED, E.DELETE, P.DELETED, A.FORGET),
    (P.STARTING, E.READY, P.RUNNING),
    (P.STARTING, E.UNUSABLE, P.FAILING, A.END),
    (P.STARTING, E.LAUNCH_FAILED, P.FAILED),
    (P.STARTING, E.EXITED, P.RECOVERING, A.END),
    (P.STARTING, E.CRASH_LOOP, P.FAILING, A.END),
    (P.STARTING, E.STOP, P.STOPPING, A.END),
    (P.STARTING, E.RESTART, P.RESTARTING, A.END),
    (P.STARTING, E.DELETE, P.DELETING, A.END),
    (P.RUNNING, E.SICK, P.UNHEALTHY),
    (P.RUNNING, E.HOPELESS, P.RECOVERING, A.END),
    (P.RUNNING, E.EXITED, P.RECOVERING, A.END),
    (P.RUNNING, E.CRASH_LOOP, P.FAILING, A.END),
    (P.RUNNING, E.STOP, P.STOPPING, A.END),
    (P.RUNNING, E.RESTART, P.RESTARTING, A.END),
    (P.RUNNING, E.DELETE, P.DELETING, A.END),
    (P.UNHEALTHY, E.READY, P.RUNNING),
    (P.UNHEALTHY, E.HOPELESS, P.RECOVERING, A.END),
    (P.UNHEALTHY, E.EXITED, P.RECOVERING, A.END),
    (P.UNHEALTHY, E.CRASH_LOOP, P.FAILING, A.END),
    (P.UNHEALTHY, E.STOP, P.STOPPING, A.END),
    (P.UNHEALTHY, E.RESTART, P.RESTARTING, A.END),
    (P.UNHEALTHY, E.DELETE, P.DELETING, A.END),
    (P.RECOVERING, E.GONE, P.BACKOFF, A.AWAIT_RETRY),
    (P.RECOVERING, E.STOP, P.STOPPING),
    (P.RECOVERING, E.RESTART, P.RESTARTING),
    (P.RECOVERING, E.DELETE, P.DELETING),
    (P.BACKOFF, E.RETRY, P.STARTING, A.LAUNCH),
    (P.BACKOFF, E.STOP, P.STOPPED, A.CANCEL_RETRY),
    (P.BACKOFF, E.RESTART, P.STARTING, A.CANCEL_RETRY, A.LAUNCH),
    (P.BACKOFF, E.DELETE, P.DELETED, A.CANCEL_RETRY, A.FORGET),
    (P.STOPPING, E.GONE, P.STOPPED),
    (P.STOPPING, E.STOP, P.STOPPING),
    (P.STOPPING, E.DELETE, P.DELETING),
    (P.RESTARTING, E.GONE, P.STARTING, A.LAUNCH),
    (P.RESTARTING, E.STOP, P.STOPPING),
    (P.RESTARTING, E.DELETE, P.DELETING),
    (P.FAILING, E.GONE, P.FAILED),
    (P.FAILING, E.STOP, P.STOPPING),
    (P.FAILING, E.DELETE, P.DELETING),
    (P.DELETING, E.GONE, P.DELETED, A.FORGET),
    (P.DELETING, E.DELETE, P.DELETING),
]

REFUSED = [
    *[(phase, E.START, AlreadyRunning) for phase in Phase
      if phase not in (P.STOPPED, P.FAILED, P.DELETING, P.DELETED)],
    (P.STOPPED, E.STOP, NotRunning),
    *[(phase, E.RESTART, InvalidInstanceState)
      for phase in (P.STOPPING, P.RESTARTING, P.FAILING, P.DELETING)],
    *[(P.DELETING, event, InvalidInstanceState) for event in (E.START, E.STOP)],
    *[(P.DELETED, event, InvalidInstanceState) for event in (E.START, E.STOP, E.RESTART, E.DELETE)],
]  # fmt: skip


def _words(value: object) -> str:
    return value.name if isinstance(value, Phase | Event) else ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].name}-{row[1].name}")
def test_event_leads_to_phase_and_actions(row: tuple[Any, ...]) -> None:
    phase, event, following, *actions = row
    decision = decide(phase, event)
    assert (decision.phase, list(decision.actions)) == (following, actions)
    assert decision.refusal is None


@pytest.mark.parametrize(("phase", "event", "error"), REFUSED, ids=_words)
def test_request_that_has_no_meaning_is_refused_with_a_sentence(
    phase: Phase, event: Event, error: type[Exception]
) -> None:
    decision = decide(phase, event)
    assert decision.phase is phase
    assert decision.actions == ()
    assert decision.refusal is not None
    answer = decision.refusal("bge")
    assert type(answer) is error
    assert "'bge'" in str(answer)


def test_the_rows_above_are_the_whole_table() -> None:
    listed = {(row[0], row[1]) for row in ROWS} | {(row[0], row[1]) for row in REFUSED}
    assert listed == set(TABLE)


def test_every_request_has_a_row_in_every_phase() -> None:
    requests = (E.START, E.STOP, E.RESTART, E.DELETE)
    assert [(p, e) for p in Phase for e in requests if (p, e) not in TABLE] == []


def test_late_news_about_a_process_that_is_being_ended_changes_nothing() -> None:
    news = (E.READY, E.SICK, E.HOPELESS, E.EXITED, E.CRASH_LOOP, E.UNUSABLE, E.RETRY)
    for phase in ENDING | {P.STOPPED, P.FAILED, P.DELETED}:
        for event in news:
            assert decide(phase, event) == decide(phase, E.READY)
            assert decide(phase, event).phase is phase


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_no_history_launches_a_second_process_or_ends_one_that_is_not_there(
    events: list[Event],
) -> None:
    """The world beside the table: a process exists from LAUNCH until GONE answers its END."""
    phase, exists, ending = P.STOPPED, False, False
    for event in events:
        if event is E.GONE:
            if not ending:
                continue
            exists = ending = False
        if event in (E.READY, E.EXITED, E.SICK) and not exists:
            continue
        decision = decide(phase, event)
        phase = decision.phase
        for action in decision.actions:
            if action is A.LAUNCH:
                assert not exists
                exists = True
            if action is A.END:
                assert exists
                assert not ending
                ending = True
        if event is E.LAUNCH_FAILED and phase is P.FAILED:
            exists = ending
        assert ending == (phase in ENDING)
        if phase in (P.STOPPED, P.FAILED, P.BACKOFF, P.DELETED):
            assert not exists


def test_only_phases_that_take_calls_are_shown_as_running() -> None:
    assert [phase for phase in Phase if phase.shown is RouteState.RUNNING] == [P.RUNNING]
    assert len(set(Phase)) == 12, "two phases of equal value would be one"


def test_waiting_ends_in_every_phase_in_which_nothing_goes_on_by_itself() -> None:
    assert {P.STOPPED, P.RUNNING, P.UNHEALTHY, P.FAILED, P.DELETED} == RESTING


@pytest.mark.parametrize(
    ("failures", "before_restart", "event"),
    [(1, 3, None), (2, 3, E.SICK), (3, 3, E.HOPELESS), (1, 1, E.HOPELESS), (99, 0, E.SICK)],
)
def test_second_lost_probe_makes_sick_and_the_configured_one_hopeless(
    failures: int, before_restart: int, event: Event | None
) -> None:
    assert probe_verdict(failures, before_restart) is event


def test_zero_failures_before_restart_means_never() -> None:
    assert all(probe_verdict(count, 0) is not E.HOPELESS for count in range(1000))


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_delay_never_exceeds_its_bounds(crashes: int, chance: float) -> None:
    backoff = Backoff()
    plain = min(backoff.longest, 2.0 ** min(crashes - 1, 60))
    assert plain * (1 - backoff.jitter) <= backoff.delay(crashes, chance) <= plain


@given(
    st.builds(
        Backoff,
        first=st.floats(0.01, 10),
        longest=st.floats(10, 100),
        jitter=st.floats(0, 1),
        crashes=st.integers(1, 8),
        stable=st.floats(0.1, 100),
    ),
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1, exclude_max=True)), max_size=40),
)
def test_any_crashes_in_any_order_keep_the_bounds_of_pauses(
    rules: Backoff, history: list[tuple[float, float]]
) -> None:
    crashes, in_a_row = Crashes(rules), 0
    for uptime, chance in history:
        in_a_row = 1 if uptime >= rules.stable else in_a_row + 1
        verdict = crashes.happened(uptime)
        assert (verdict is E.CRASH_LOOP) == (in_a_row >= rules.crashes)
        pause, longest = crashes.delay(chance), crashes.delay(0)
        assert longest * (1 - rules.jitter) <= pause <= longest <= rules.longest
        if in_a_row == 1:
            assert longest == rules.first
        if verdict is E.CRASH_LOOP:
            crashes.forgive()
            in_a_row = 0


def test_crash_loop_is_called_at_the_fifth_crash_in_a_row() -> None:
    verdicts = [Backoff().verdict(crashes) for crashes in range(1, 6)]
    assert verdicts == [E.EXITED] * 4 + [E.CRASH_LOOP]


def test_a_crash_after_a_long_time_up_is_the_first_again() -> None:
    crashes = Crashes(Backoff(crashes=2, stable=60))
    assert crashes.happened(0) is E.EXITED
    assert crashes.happened(61) is E.EXITED
    assert crashes.happened(59) is E.CRASH_LOOP
    crashes.forgive()
    assert crashes.happened(0) is E.EXITED
