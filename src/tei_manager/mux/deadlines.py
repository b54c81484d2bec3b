"""One timer for all deadlines of a worker: a wheel of ticks, armed only while something is due.

A timer of the event loop for each call would cost more than the call's own bookkeeping, and nearly
all deadlines never fire. So a deadline is an entry in the set of its tick, and the loop has one
timer, for the earliest tick that has ever had an entry. A tick that became empty stays, since the
next call mostly falls into it, until its time comes or there are many of them.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from time import monotonic
from typing import Protocol

TICK_SECONDS = 0.004
"""How exactly deadlines fire; half of the 10 ms that is promised, less the loop's own delay."""


MIN_TICKS = 256
"""Ticks that may be held beyond twice those in use before the empty ones are dropped: calls with
far deadlines leave one each, and nothing would come to the end of them for hours. A second's."""


class Expiring(Protocol):
    """What can run out of time."""

    def expire(self) -> None:
        """The deadline has passed. The entry is gone from the wheel already."""


class Deadlines:
    """Deadlines on the monotonic clock.

    Args:
        loop: The loop whose timer is used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: dict[int, set[Expiring]] = {}
        self._order: list[int] = []
        self._sweep_at = MIN_TICKS
        self._armed: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Deadlines {sum(map(len, self._ticks.values()))} due>"

    def add(self, entry: Expiring, when: float) -> int:
        """Have ``entry.expire`` called soon after ``when``; returns the tick, for `remove`."""
        tick = int(when / TICK_SECONDS) + 1
        entries = self._ticks.get(tick)
        if entries is None:
            self._begin(tick, entry)
        else:
            entries.add(entry)
        return tick

    def remove(self, entry: Expiring, tick: int) -> None:
        """Forget a deadline; no harm if it has fired."""
        entries = self._ticks.get(tick)
        if entries is not None:
            entries.discard(entry)

    def close(self) -> None:
        """Disarm the timer; nothing fires any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, tick: int, entry: Expiring) -> None:
        if len(self._ticks) >= self._sweep_at:
            self._ticks = {tick: entries for tick, entries in self._ticks.items() if entries}
            self._order = sorted(self._ticks)
            self._sweep_at = 2 * len(self._ticks) + MIN_TICKS
        self._ticks[tick] = {entry}
        heappush(self._order, tick)
        if self._armed is None or tick < self._armed:
            self._arm(tick)

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = tick
        delay = max(0.0, tick * TICK_SECONDS - monotonic())
        self._timer = self._loop.call_later(delay, self._fire)

    def _fire(self) -> None:
        self._armed = self._timer = None
        now = int(monotonic() / TICK_SECONDS)
        while self._order and (self._order[0] <= now or not self._ticks[self._order[0]]):
            for entry in self._ticks.pop(heappop(self._order)):
                entry.expire()
        if self._order:
            self._arm(self._order[0])
