"""The texts that wait for the model, call by call in turn.

A stream may have hundreds of texts waiting where a unary call has one. In the order of arrival the
one would wait for all of the hundreds; here each call has a line of its own and the calls take
turns, so a call waits for one text of each other call before its first. Within a call the order is
kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from itertools import chain, zip_longest
from typing import Generic, TypeVar

_T = TypeVar("_T")


class FairQueue(Generic[_T]):
    """Items by the call that they belong to; whose turn it is comes first."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[_T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def append(self, call: Hashable, item: _T) -> None:
        """Put an item at the end of its call's line; a call without one comes last."""
        self._lines.setdefault(call, deque()).append(item)

    def in_turn(self) -> Iterator[_T]:
        """Return the items in the order of turns: the first of each call, the second of each."""
        turns = zip_longest(*self._lines.values())
        return (item for item in chain.from_iterable(turns) if item is not None)

    def take(self, items: Collection[_T]) -> None:
        """Remove items; the call whose turn it was goes to the end, behind all others."""
        first = next(iter(self._lines))
        taken = set(map(id, items))
        self.drop(lambda item: id(item) in taken)
        if first in self._lines:
            self._lines[first] = self._lines.pop(first)

    def drop(self, unwanted: Callable[[_T], bool]) -> int:
        """Remove the items that a function says yes to; return how many there were."""
        before = len(self)
        lines = {
            call: deque(item for item in line if not unwanted(item))
            for call, line in self._lines.items()
        }
        self._lines = {call: line for call, line in lines.items() if line}
        return before - len(self)
