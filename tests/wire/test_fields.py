"""Reading the wire format, in one piece and in many."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.wire.fields import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    CutShort,
    MalformedMessage,
    VarintScan,
    read_fields,
    read_varint,
)


def varint(value: int, octets: int = 0) -> bytes:
    """``value``, in more octets than it needs if asked."""
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < octets:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 10))
def test_varints_come_back_however_long_they_are_written(value: int, octets: int) -> None:
    data = b"x" + varint(value, octets)
    assert read_varint(data + b"rest", 1) == (value, len(data))


def test_bits_above_the_64th_are_dropped() -> None:
    assert read_varint(b"\xff" * 9 + b"\x7f", 0) == ((1 << 64) - 1, 10)


def test_an_eleventh_octet_is_malformed_and_a_missing_one_is_cut_short() -> None:
    with pytest.raises(MalformedMessage, match="at byte 0: a number has more than 10 octets"):
        read_varint(b"\x80" * 10 + b"\x00", 0)
    with pytest.raises(CutShort):
        read_varint(b"\x80" * 9, 0)
    with pytest.raises(CutShort):
        read_varint(b"", 0)


def test_every_wire_type_gives_its_value() -> None:
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x25" + bytes(4)
    assert list(read_fields(message)) == [
        (1, VARINT, 150),
        (2, FIXED64, bytes(8)),
        (3, LENGTH, b"hi"),
        (4, FIXED32, bytes(4)),
    ]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x08\x00\x00\x00", "at byte 2: field number 0 does not exist"),
        (b"\x0b", "at byte 0: field 1 has wire type 3: groups are not supported"),
        (b"\x0c", "at byte 0: field 1 has wire type 4: groups are not supported"),
        (b"\x0e", "at byte 0: field 1 has wire type 6: no such wire type"),
        (b"\x0f", "at byte 0: field 1 has wire type 7: no such wire type"),
        (b"\x0a\x05ab", "at byte 0: field 1 is longer than the rest of its message"),
        (b"\x0d\x00", "at byte 0: field 1 is longer than the rest of its message"),
        (b"\x88\x80\x80\x80\x80\x00\x00", "at byte 0: a number has more than 5 octets"),
        (b"\xff\xff\xff\xff\x7f\x00", "does not exist"),
    ],
)
def test_what_no_encoder_writes_is_malformed_and_says_where(message: bytes, what: str) -> None:
    with pytest.raises(MalformedMessage, match=what):
        list(read_fields(message))


@given(st.binary(max_size=60))
def test_arbitrary_octets_raise_nothing_else(data: bytes) -> None:
    offset = 0
    try:
        for _ in read_fields(data):
            pass
    except MalformedMessage as error:
        offset = error.offset
    assert 0 <= offset <= len(data)


def scan(pieces: list[bytes]) -> int | str | None:
    watch = VarintScan(4, range(2))
    try:
        for piece in pieces:
            bad = watch.feed(piece)
            if bad is not None:
                return bad
        watch.finish()
    except MalformedMessage as error:
        return str(error)
    return None


def whole(message: bytes) -> int | None:
    """The same by `read_fields`: the first bad value."""
    for number, kind, value in read_fields(message):
        if number == 4 and kind == VARINT and isinstance(value, int) and value & 0xFFFF_FFFF > 1:
            return value & 0xFFFF_FFFF
    return None


field = st.one_of(
    st.builds(lambda n, v, k: varint(n << 3) + varint(v, k), st.integers(1, 20), st.integers(0, 3),
              st.integers(0, 10)),
    st.builds(lambda n, b: varint(n << 3 | 2) + varint(len(b)) + b, st.integers(1, 99),
              st.binary(max_size=200)),
    st.sampled_from([b"\x25abcd", b"\x11abcdefgh", b"\x20\x00", b"\x20\x01", b"\x20\x02",
                     b"\x20\x80\x80\x80\x80\x10", b"\x0b", b"\x00", b"\xff"]),
)  # fmt: skip
messages = st.lists(field, max_size=6).map(b"".join) | st.binary(max_size=60)


@given(messages, st.lists(st.integers(0, 300), max_size=8))
def test_a_scan_of_pieces_finds_what_a_scan_of_the_whole_finds(
    message: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    pieces = [message[a:b] for a, b in pairwise(edges)]
    assert scan(pieces) == scan([message]) == scan([bytes((octet,)) for octet in message])


@given(messages)
def test_a_scan_finds_what_reading_finds(message: bytes) -> None:
    try:
        expected = whole(message)
    except MalformedMessage:
        assert isinstance(scan([message]), str)
    else:
        assert scan([message]) == expected


def test_a_scan_holds_no_more_than_a_head() -> None:
    watch = VarintScan(4, range(2))
    watch.feed(b"\x0a" + varint(1 << 30))
    for _ in range(100):
        watch.feed(bytes(16_384))
    assert watch._head == b""
