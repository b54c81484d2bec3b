"""How the header blocks of one client begin, and where those values lie that are new in each call.

Theory
    A client's calls differ in a trace, a deadline, a number: fields that stand behind those which
    all of its calls have. A head is remembered by such a *beginning*, as long as the dynamic table
    stands still. A rest that is as long as an earlier one mostly has its names too, so it is held
    against what stood before its values then, and only the values are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tei_manager.grpc.status import StatusError
from tei_manager.wire import hpack, metadata

if TYPE_CHECKING:
    from tei_manager.wire.headers import RequestHead

MAX_RESTS = 16
"""Lengths of what follows a beginning that are remembered with where its values lie."""


class Beginning(NamedTuple):
    """How blocks of a connection begin, and what that much of them says."""

    block: bytes
    head: RequestHead
    listed: int
    fields: int
    rests: dict[int, tuple[Slot, ...]]


class Slot(NamedTuple):
    """A field behind a beginning whose value is new in each call: where it is in the rest."""

    start: int
    middle: int  # where the value begins
    stop: int
    lead: bytes  # what stands before the value, its length included
    wire: bytes  # what stands before it in the field's wire form
    is_timeout: bool


def find_slots(
    rest: bytes, fields: list[hpack.Field], special: frozenset[bytes]
) -> tuple[Slot, ...] | None:
    """Return where the values of a rest are, if all are plain and nothing but new.

    Args:
        rest: What stands behind a beginning.
        fields: What it decodes to.
        special: Names that do not simply travel; of these, only grpc-timeout may be there.
    """
    slots: list[Slot] = []
    start = 0
    for (name, value, wire), stop in zip(fields, hpack.field_ends(rest), strict=True):
        middle = stop - len(value)
        is_special = name in special or name[-4:] == b"-bin"
        if rest[start] > 0x0F or len(value) > 0x7E or rest[middle:stop] != value:
            return None  # it enters the table, or is long, or Huffman-coded
        if is_special and name != b"grpc-timeout":
            return None
        lead, form = rest[start:middle], wire[: len(wire) - len(value)]
        slots.append(Slot(start, middle, stop, lead, form, is_special))
        start = stop
    return tuple(slots)


def fill(head: RequestHead, rest: bytes, slots: tuple[Slot, ...]) -> RequestHead | None:
    """Return what a beginning and a rest say, if that is as `find_slots` found an earlier one."""
    travels, timeout = [head.forward], head.timeout
    for start, middle, stop, lead, wire, is_timeout in slots:
        value = rest[middle:stop]
        if rest[start:middle] != lead:
            return None
        if not is_timeout:
            if not metadata.valid_value(value):
                return None
            travels.append(wire + value)
        else:
            try:
                timeout = metadata.parse_timeout(value)
            except StatusError:
                return None
    found = head.copy()
    found.timeout = timeout
    found.forward = b"".join(travels)
    return found
