r"""Protobuf's wire format, read without messages: tags, varints and slices.

Rules of this file
    1. It knows field numbers and wire types, never names.
    2. Bytes end in fields or in `MalformedMessage`; any other exception is a bug here.

Faithfulness
    A varint may have more octets than it needs, up to ten; bits above the 64th are dropped, as
    protobuf's own parsers do. A tag has at most five octets and 32 bits. Groups (wire types 3 and
    4) do not exist in proto3, and no encoder of the messages that pass here can write them: they
    are refused, because skipping them takes a stack that a peer would control.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

VARINT = 0
FIXED64 = 1
LENGTH = 2
GROUP_START = 3
GROUP_END = 4
FIXED32 = 5

_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT = 10  # octets of a 64-bit varint
_MAX_TAG = 5  # octets of a tag, whose field number has 29 bits

FREE_FIELDS = 128
MAX_FIELDS = 32_768
"""To walk over a field takes half a microsecond, and 4 KiB of gzip can have two million of them. So
a message that is held whole may have as many as it has octets on the wire, the first number more
(four of TEI's default batches, were all texts equal), and never more than the second."""


class MalformedMessage(Exception):
    """The bytes are no protobuf message; ``offset`` says where, ``what`` says why."""

    def __init__(self, offset: int, what: str) -> None:
        self.offset = offset
        self.what = what
        super().__init__(f"at byte {offset}: {what}")


class CutShort(MalformedMessage):
    """The bytes end inside a field: malformed if the message is over, else a reason to wait."""


def read_varint(
    data: bytes | bytearray, pos: int, max_octets: int = _MAX_VARINT
) -> tuple[int, int]:
    """Return the 64-bit value at ``pos`` and the position behind it.

    Raises:
        CutShort: The bytes end inside it.
        MalformedMessage: It has more than ``max_octets`` octets.
    """
    if pos < len(data) and data[pos] < 0x80:
        return data[pos], pos + 1
    value, shift = 0, 0
    for octet in data[pos : pos + max_octets]:
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, pos + shift // 7
    if shift < 7 * max_octets:
        raise CutShort(pos, "the message ends inside a number")
    raise MalformedMessage(pos, f"a number has more than {max_octets} octets")


def read_head(data: bytes | bytearray, pos: int) -> tuple[int, int, int, int]:
    """Return the head of the field at ``pos``: (number, wire type, value, position behind it).

    The value is the number itself for `VARINT`, and for all others the length of what follows.

    Raises:
        CutShort: The bytes end inside it.
        MalformedMessage: There is no field with such a head.
    """
    tag, after = read_varint(data, pos, _MAX_TAG)
    number, kind = tag >> 3, tag & 7
    if number == 0 or tag > 0xFFFF_FFFF:
        raise MalformedMessage(pos, f"field number {number} does not exist")
    if kind in (VARINT, LENGTH):
        value, after = read_varint(data, after)
        return number, kind, value, after
    if kind in _FIXED_SIZES:
        return number, kind, _FIXED_SIZES[kind], after
    what = "groups are not supported" if kind in (GROUP_START, GROUP_END) else "no such wire type"
    raise MalformedMessage(pos, f"field {number} has wire type {kind}: {what}")


def read_fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield the top-level fields as (number, wire type, value), in order.

    The value is an ``int`` for `VARINT`, and a copy of the field's bytes for all others.

    Raises:
        MalformedMessage: The rest is no message.
    """
    pos, end = 0, len(data)
    while pos < end:
        number, kind, value, after = read_head(data, pos)
        if kind == VARINT:
            yield number, kind, value
        elif after + value > end:
            raise CutShort(pos, f"field {number} is longer than the rest of its message")
        else:
            yield number, kind, data[after : after + value]
            after += value
        pos = after


def most_fields(octets: int) -> int:
    """Return how many fields a message that took so many octets on the wire may have."""
    return min(FREE_FIELDS + octets, MAX_FIELDS)


def has_more_fields(data: bytes, most: int) -> bool:
    """Say whether a message has more top-level fields than ``most``; those behind are not read.

    Raises:
        MalformedMessage: It is no message, as far as that.
    """
    if len(data) <= 2 * most:
        return False  # a field has two octets
    return next(islice(read_fields(data), most, None), None) is not None


class VarintScan:
    """Walks the top-level fields of a message that comes in pieces, and watches one number.

    Nothing of the message is held but the head of a field that a piece cut through, 15 octets at
    most.

    Args:
        number: The field to watch.
        allowed: The values that its occurrences may have, each of them, in their low 32 bits.
    """

    __slots__ = ("_allowed", "_head", "_number", "_offset", "_skip")

    def __init__(self, number: int, allowed: range) -> None:
        self._number = number
        self._allowed = allowed
        self._head = b""
        self._skip = 0
        self._offset = 0  # of the first octet of `_head`, in the message

    def feed(self, piece: bytes) -> int | None:
        """Scan the next piece; return the first value that is not allowed, None if there is none.

        Raises:
            MalformedMessage: There is no such field; offsets count from the message's start.
        """
        if self.passes(len(piece)):
            return None
        data = self._head + piece[self._skip :]
        self._offset += self._skip
        pos = 0
        try:
            while pos < len(data):
                number, kind, value, after = read_head(data, pos)
                if kind != VARINT:
                    after += value
                elif number == self._number and value & 0xFFFF_FFFF not in self._allowed:
                    return value & 0xFFFF_FFFF
                pos = after
        except CutShort:
            pass  # the next piece has the rest, or `finish` finds it missing
        except MalformedMessage as error:
            raise MalformedMessage(self._offset + error.offset, error.what) from None
        self._skip = max(0, pos - len(data))
        self._head = data[pos:]
        self._offset += min(pos, len(data))
        return None

    def passes(self, octets: int) -> bool:
        """Pass so many octets over if they lie inside a field, whatever they are."""
        if self._skip <= octets:
            return False
        self._skip -= octets
        self._offset += octets
        return True

    def finish(self) -> None:
        """Hold the message to ending here.

        Raises:
            MalformedMessage: It ended inside a field.
        """
        if self._skip or self._head:
            raise MalformedMessage(self._offset, "the message ends inside a field")
