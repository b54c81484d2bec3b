"""Which calls of a client stand nearly still, while what they wait for fills the worker's memory.

Theory
    A client that takes an octet now and then is neither gone nor idle, and what waits for it may
    wait for ever (CVE-2019-9511); the same holds for one that sends a large message so. Most who
    do that are honest: a caller may think for a minute about each answer. So nobody is ended for
    it as long as there is memory, which is what it costs. When that is short, the calls go for
    which something waits and that moved less than `RATE` on the average of the last while.

    A call's mark is where it stood when it was last fast enough. One that has nothing waiting has
    no mark, so a client that takes its answers as they come never gets one that lasts.

Known flaws
    What a transport holds is not seen, 32 KiB and a frame for each client at most.
"""

from __future__ import annotations

from typing import NamedTuple

from tei_manager.mux.call import Call
from tei_manager.wire.stream import Stream

RATE = 240
"""Octets a second: Kestrel's and IIS's least rates for answers; a mobile link has a multiple."""


class _Mark(NamedTuple):
    since: float
    moved: int


class Pace:
    """The marks of one client's calls."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: dict[Stream, _Mark] = {}

    def look(self, streams: list[Stream], now: float) -> None:
        """Note which calls wait, and which of them went on; call this now and then."""
        before, self._marks = self._marks, {}
        for stream in streams:
            if _waits(stream):
                moved = _moved(stream)
                mark = before.get(stream)
                if mark is None or moved - mark.moved >= RATE * (now - mark.since):
                    mark = _Mark(now, moved)
                self._marks[stream] = mark

    def slow(self, overdue: float) -> list[Stream]:
        """Return the calls that have been too slow since ``overdue`` or longer."""
        return [stream for stream, mark in self._marks.items() if mark.since <= overdue]


def _waits(stream: Stream) -> bool:
    owner = stream.owner
    return stream.queued > 0 or (isinstance(owner, Call) and owner.held > 0)


def _moved(stream: Stream) -> int:
    """Return the octets that the client took out of a queue, and those that it sent, so far."""
    return stream.drained + stream.moved + stream.consumed
