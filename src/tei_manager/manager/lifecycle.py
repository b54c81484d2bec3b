"""The life of an instance as a table: (phase, event) → (phase, actions). Pure.

    STOPPED ──start──▶ STARTING ──ready──▶ RUNNING ◀──ready── UNHEALTHY
       ▲                 ▲   │                │ └────sick──────▶ │
       │                 │   └───exited───────┴─exited, hopeless─┘
       │               retry                  ▼
       │                 │     gone       RECOVERING       (crash loop, unusable)
       │              BACKOFF ◀───────────────┘    FAILING ──gone──▶ FAILED
       └──gone── STOPPING    RESTARTING ──gone──▶ STARTING    DELETING ──gone──▶ DELETED

Rules of this file
    1. It decides; `supervisor.Supervisor` acts. No clock, no I/O, no await.
    2. A pair that is not in the table has no effect: late news about a process that is already
       being ended. A *request* (start, stop, restart, delete) always has a row: where it cannot be
       granted, the row names the error.
    3. `Action.END` is asynchronous. While it runs the phase is one of `ENDING`, and its end
       comes back as `Event.GONE`; asking for something else meanwhile changes only what follows.

Facts that need counting (is it the second failed probe, the fifth crash) become events outside of
the table, by `probe_verdict` and `Backoff`, which are pure as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tei_manager.errors import (
    AlreadyRunning,
    InvalidInstanceState,
    NotRunning,
    TeiManagerError,
)
from tei_manager.routes import RouteState


class Phase(Enum):
    """Where an instance is; finer than `RouteState`, which is what callers see."""

    STOPPED = RouteState.STOPPED, 0
    STARTING = RouteState.STARTING, 0
    BACKOFF = RouteState.STARTING, 1
    RECOVERING = RouteState.STARTING, 2
    RUNNING = RouteState.RUNNING, 0
    UNHEALTHY = RouteState.UNHEALTHY, 0
    STOPPING = RouteState.STOPPING, 0
    RESTARTING = RouteState.STOPPING, 1
    FAILING = RouteState.STOPPING, 2
    DELETING = RouteState.STOPPING, 3
    FAILED = RouteState.FAILED, 0
    DELETED = RouteState.STOPPED, 1

    @property
    def shown(self) -> RouteState:
        """The state that callers see."""
        return self.value[0]


class Event(Enum):
    """What can happen to an instance."""

    START = "start requested"
    STOP = "stop requested"
    RESTART = "restart requested"
    DELETE = "delete requested"
    READY = "ready"
    SICK = "unhealthy"
    HOPELESS = "no longer alive"
    EXITED = "process ended"
    CRASH_LOOP = "crash loop"
    UNUSABLE = "unusable"
    LAUNCH_FAILED = "could not be launched"
    GONE = "ended"
    RETRY = "next attempt"


FAILURES = frozenset({Event.CRASH_LOOP, Event.UNUSABLE, Event.LAUNCH_FAILED})
"""Events after which an instance stays down until somebody does something about it."""


class Action(Enum):
    """What the supervisor has to do, in the order given."""

    LAUNCH = "launch the process and begin to probe"
    END = "withdraw the route, then end the whole process group"
    AWAIT_RETRY = "begin the back-off"
    CANCEL_RETRY = "stop the back-off"
    FORGET = "remove every trace"


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from an event.

    Args:
        phase: The next phase.
        actions: What to do.
        refusal: Makes the error for whoever asked, where a request cannot be granted.
    """

    phase: Phase
    actions: tuple[Action, ...] = ()
    refusal: Callable[[str], TeiManagerError] | None = None


ENDING = frozenset({Phase.STOPPING, Phase.RESTARTING, Phase.FAILING, Phase.DELETING,
                    Phase.RECOVERING})  # fmt: skip
"""Phases in which `Action.END` is under way."""

ASKED = frozenset({Phase.STOPPING, Phase.RESTARTING, Phase.DELETING})
"""Those of them that somebody asked for, of a process that may well be answering calls."""

RESTING = frozenset({Phase.STOPPED, Phase.RUNNING, Phase.UNHEALTHY, Phase.FAILED, Phase.DELETED})
"""Phases that last until something happens; what ``?wait=`` waits for. They are shown only after
every worker knows of them, so that a caller never finds 9001 behind 9000."""

ALIVE = (Phase.STARTING, Phase.RUNNING, Phase.UNHEALTHY)
"""Phases in which a process is there, and nobody is ending it."""


def _table() -> dict[tuple[Phase, Event], Decision]:
    rows: dict[tuple[Phase, Event], Decision] = {}
    p, e, a = Phase, Event, Action

    def row(phase: Phase, event: Event, to: Phase, *actions: Action) -> None:
        rows[phase, event] = Decision(to, actions)

    def refuse(phase: Phase, event: Event, error: Callable[[str], TeiManagerError]) -> None:
        rows[phase, event] = Decision(phase, (), error)

    for phase in ALIVE:
        row(phase, e.STOP, p.STOPPING, a.END)
        row(phase, e.RESTART, p.RESTARTING, a.END)
        row(phase, e.DELETE, p.DELETING, a.END)
        row(phase, e.EXITED, p.RECOVERING, a.END)
        row(phase, e.CRASH_LOOP, p.FAILING, a.END)
    for phase in ENDING:
        row(phase, e.STOP, p.STOPPING)
        row(phase, e.DELETE, p.DELETING)
        refuse(phase, e.RESTART, _is_stopping)
    for phase in (p.STOPPED, p.FAILED):
        row(phase, e.START, p.STARTING, a.LAUNCH)
        row(phase, e.RESTART, p.STARTING, a.LAUNCH)
        row(phase, e.DELETE, p.DELETED, a.FORGET)
    for phase in set(Phase) - {p.STOPPED, p.FAILED, p.DELETED}:
        refuse(phase, e.START, _is_not_at_rest)
    for event in (e.START, e.STOP, e.RESTART, e.DELETE):
        refuse(p.DELETED, event, _is_deleted)
    for event in (e.STOP, e.START, e.RESTART):
        refuse(p.DELETING, event, _is_stopping)
    row(p.RECOVERING, e.RESTART, p.RESTARTING)
    refuse(p.STOPPED, e.STOP, _is_stopped)
    row(p.FAILED, e.STOP, p.STOPPED)

    row(p.BACKOFF, e.STOP, p.STOPPED, a.CANCEL_RETRY)
    row(p.BACKOFF, e.RESTART, p.STARTING, a.CANCEL_RETRY, a.LAUNCH)
    row(p.BACKOFF, e.DELETE, p.DELETED, a.CANCEL_RETRY, a.FORGET)
    row(p.BACKOFF, e.RETRY, p.STARTING, a.LAUNCH)

    row(p.STARTING, e.READY, p.RUNNING)
    row(p.STARTING, e.UNUSABLE, p.FAILING, a.END)
    row(p.STARTING, e.LAUNCH_FAILED, p.FAILED)
    row(p.UNHEALTHY, e.READY, p.RUNNING)
    row(p.RUNNING, e.SICK, p.UNHEALTHY)
    for phase in (p.RUNNING, p.UNHEALTHY):
        row(phase, e.HOPELESS, p.RECOVERING, a.END)

    row(p.STOPPING, e.GONE, p.STOPPED)
    row(p.RESTARTING, e.GONE, p.STARTING, a.LAUNCH)
    row(p.RECOVERING, e.GONE, p.BACKOFF, a.AWAIT_RETRY)
    row(p.FAILING, e.GONE, p.FAILED)
    row(p.DELETING, e.GONE, p.DELETED, a.FORGET)
    return rows


def _is_not_at_rest(name: str) -> TeiManagerError:
    return AlreadyRunning(f"Instance '{name}' is not stopped; use restart, or stop it first")


def _is_stopped(name: str) -> TeiManagerError:
    return NotRunning(f"Instance '{name}' is stopped already")


def _is_stopping(name: str) -> TeiManagerError:
    return InvalidInstanceState(f"Instance '{name}' is being stopped; wait until it has ended")


def _is_deleted(name: str) -> TeiManagerError:
    return InvalidInstanceState(f"Instance '{name}' has just been deleted; create it again")


TABLE: dict[tuple[Phase, Event], Decision] = _table()
"""Every pair that has an effect."""


def decide(phase: Phase, event: Event) -> Decision:
    """Return what follows; for a pair without a row, nothing."""
    return TABLE.get((phase, event), Decision(phase))


# One lost probe is noise: a batch of long texts can hold a CPU instance for seconds.
SICK_AFTER = 2


def probe_verdict(failures: int, before_restart: int) -> Event | None:
    """Return the event that a number of failed probes in a row amounts to, if any.

    Args:
        failures: Probes in a row without an answer.
        before_restart: ``[health] failures_before_restart``; 0 means never.
    """
    if before_restart and failures >= before_restart:
        return Event.HOPELESS
    return Event.SICK if failures >= SICK_AFTER else None


@dataclass(frozen=True, slots=True)
class Backoff:
    """When to try again after a crash, and when to give up. All times in seconds.

    The defaults start an instance that dies at once five times within half a minute and then
    give up: a model that cannot be loaded is reported soon, one that was killed for memory gets
    some air.

    Args:
        first: Before the second attempt; doubled each time.
        longest: No delay is longer.
        jitter: Part of a delay that is random, so that instances that fell together rise apart.
        crashes: So many in a row are a crash loop.
        stable: Up for so long, and the next crash counts as the first one.
    """

    first: float = 1.0
    longest: float = 60.0
    jitter: float = 0.2
    crashes: int = 5
    stable: float = 60.0

    def verdict(self, crashes: int) -> Event:
        """Return what the crash is that made it ``crashes`` in a row."""
        return Event.CRASH_LOOP if crashes >= self.crashes else Event.EXITED

    def delay(self, crashes: int, chance: float) -> float:
        """Return how long to wait after a number of crashes; ``chance`` is random in [0, 1)."""
        plain = min(self.longest, self.first * 2.0 ** min(max(crashes - 1, 0), 32))
        return plain * (1 - self.jitter * chance)


class Crashes:
    """Counts crashes in a row; one after a long time up is the first again.

    Args:
        backoff: What follows from the count.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self.count = 0

    def forgive(self) -> None:
        """Begin anew, because somebody asked for another attempt."""
        self.count = 0

    def happened(self, uptime: float) -> Event:
        """Count a crash after ``uptime`` seconds of service, and return what it is."""
        self.count = 1 if uptime >= self._backoff.stable else self.count + 1
        return self._backoff.verdict(self.count)

    def delay(self, chance: float) -> float:
        """Return the seconds until the next attempt; ``chance`` is random in [0, 1)."""
        return self._backoff.delay(self.count, chance)
