"""Requests that stand behind each other give what the reader gives for the same octets."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tei_manager.grpc.methods import Shape
from tei_manager.grpc.status import StatusError
from tei_manager.wire.envelope import RequestReader, Start
from tei_manager.wire.fields import read_head
from tei_manager.wire.messages import frame, prefix
from tei_manager.wire.requests import KINDS, LEADS, leads_of, split_run

DIRECTION = 4
TARGETS = (b"", b"\x0a\x06minilm", b"\x10\x02", b"\x0a\x7d" + b"n" * 125, b"x" * 200)
BEHIND = (b"", b"\x10\x01", b"\x10\x01\x18\x01", b"\x20\x01", b"\x20\x02", b"\x10", b"\x0a\x01x")
LENGTHS = (0, 1, 100, 109, *range(113, 132), 16_370, 16_383, 16_384)
"""Of texts: around those where a length, or that of what is around it, takes an octet more."""


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def block(tag: int, data: bytes) -> bytes:
    return bytes((tag,)) + varint(len(data)) + data


def message(target: bytes, text: int, behind: bytes, wrapped: bool) -> bytes:
    request = block(0x0A, bytes(text)) + behind
    return frame(block(0x0A, target) + block(0x12, request) if wrapped else request)


def read(data: bytes, wrapped: bool) -> tuple[list[bytes | None], bytes] | None:
    """Return all targets and what goes on, if the octets are whole messages that are taken."""
    shape = Shape.WRAPPED if wrapped else Shape.PLAIN
    reader = RequestReader("Embed", shape, DIRECTION, max_message_bytes=1 << 22)
    try:
        parts = list(reader.feed(data))
    except StatusError:
        return None
    targets = [part.target for part in parts if isinstance(part, Start)]
    octets = b"".join(part for part in parts if isinstance(part, bytes))
    return (targets, octets) if reader.at_boundary else None


spoilt = st.tuples(st.integers(0, 300), st.integers(0, 255))


@given(
    st.sampled_from(TARGETS),
    st.lists(
        st.tuples(st.sampled_from(LENGTHS), st.sampled_from(BEHIND), st.integers(0, 9)), max_size=6
    ),
    st.none() | spoilt,
    st.booleans(),
)
@example(b"\x10\x02", [(100, b"\x20\x01", 1)] * 3, None, True)
@example(b"\x10\x02", [(100, b"\x20\x01", 1), (100, b"\x20\x02", 1)], None, True)
def test_run_gives_what_the_reader_gives(
    target: bytes,
    messages: list[tuple[int, bytes, int]],
    spoil: tuple[int, int] | None,
    wrapped: bool,
) -> None:
    pieces = [
        message(target if other else b"\x10\x05", text, behind, wrapped)
        for text, behind, other in messages
    ]
    data = bytearray(b"".join(pieces))
    if spoil and data:
        data[spoil[0] % len(data)] = spoil[1]
    taken = split_run(bytes(data), DIRECTION, target if wrapped else None, wrapped=wrapped)
    expected = read(bytes(data), wrapped)
    if taken is not None:
        assert expected is not None
        assert (len(expected[0]), expected[1]) == taken
        assert not wrapped or set(expected[0]) == {target}


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("behind", [b"", b"\x10\x01\x18\x01"])
@pytest.mark.parametrize("target", TARGETS[:3])
def test_all_common_lengths_are_taken_and_but_the_first_by_a_look(
    target: bytes, behind: bytes, wrapped: bool
) -> None:
    pieces = [message(target, text, behind, wrapped) for text in LENGTHS]
    taken = split_run(b"".join(pieces), DIRECTION, target if wrapped else None, wrapped=wrapped)
    assert taken is not None
    assert taken == (len(LENGTHS), read(b"".join(pieces), wrapped)[1])  # type: ignore[index]
    leads = leads_of(target if wrapped else b"", len(behind), wrapped)
    for text, piece in zip(LENGTHS, pieces, strict=True):
        lead = leads[piece[:5]]
        assert lead is not None
        received, sent, start, end = lead
        assert (received, end) == (piece[:start], len(piece))
        assert sent[:5] == prefix(len(sent) - 5 + text + len(behind))
        assert read_head(sent, 5) == (1, 2, text, len(sent))


def test_what_is_remembered_is_bounded() -> None:
    for size in range(3 * LEADS):
        leads = leads_of(b"\x10\x02", 0, True)
        assert leads[prefix(size)] is None or size > 5
        assert len(leads) <= LEADS
    for behind in range(3 * KINDS):
        leads_of(b"\x10\x02", behind, True)
    assert leads_of.cache_info().currsize == KINDS
