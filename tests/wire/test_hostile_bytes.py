"""Whatever octets come, in whatever pieces: calls to owners, GOAWAY or RST_STREAM, no more."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_pair import (
    BODY,
    HELLO,
    OK_HEAD,
    OK_TRAILERS,
    REQUEST,
    Side,
    block,
    data,
    padded,
    parse,
    reply_http,
    request,
)

from tei_manager.wire import frames, hpack
from tei_manager.wire.frames import CONTINUATION, END_HEADERS, GOAWAY, HEADERS, RST_STREAM, frame
from tei_manager.wire.windows import CONNECTION_WINDOW, WindowPool

INDEXED = b"\x83\x86\x44\x02/x\x40\x01x\x01y\xbe"
"""A request whose block writes to the dynamic table and reads from it."""

CLIENT_FRAMES = [
    request(1),
    request(3, end=False),
    data(3, b"payload"),
    data(3, b"", True),
    padded(3, b"payload", 9),
    data(5, bytes(16_384)),
    request(5, (b"content-length", b"4"), end=False),
    request(7, (b"grpc-timeout", b"nonsense")),
    frame(HEADERS, 5, 9, INDEXED),
    frame(HEADERS, 0, 11, INDEXED[:4]) + frame(CONTINUATION, 4, 11, INDEXED[4:]),
    frame(HEADERS, 5, 3, block((b"x-trailer", b"1"))),
    frame(HEADERS, 5, 13, b"\x20" + block(*REQUEST)),
    frames.rst_stream(3, 8),
    frames.ping(b"12345678"),
    frames.settings({frames.INITIAL_WINDOW_SIZE: 3}),
    frames.settings({frames.INITIAL_WINDOW_SIZE: 100_000, frames.HEADER_TABLE_SIZE: 0}),
    frames.window_update(0, 1000),
    frames.window_update(1, 20),
    frames.window_update(3, 70_000),
    frames.goaway(0, 0, b"debug"),
    frame(frames.PRIORITY, 0, 3, bytes(5)),
    frame(0x42, 0xFF, 3, b"unknown"),
]
BACKEND_FRAMES = [
    frame(HEADERS, 4, 1, OK_HEAD),
    frame(HEADERS, 4, 3, OK_HEAD),
    frame(HEADERS, 5, 1, OK_TRAILERS),
    frame(HEADERS, 5, 3, OK_HEAD + OK_TRAILERS),
    frame(HEADERS, 4, 1, hpack.literal(b":status", b"103")),
    frame(HEADERS, 4, 5, b"\x88\x40\x01x\x01y\xbe"),
    data(1, BODY),
    data(3, BODY, True),
    *CLIENT_FRAMES[12:],
]
anything = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 15, 0x7FFFFFFF, 0x80000001]),
    st.one_of(st.binary(max_size=12), st.just(block(*REQUEST)), st.just(OK_HEAD)),
)


def conversation(side: Side, valid: list[bytes]) -> Any:
    """A strategy for what may come: sound frames, odd frames, plain noise, cuts and flips."""
    pieces = st.lists(
        st.one_of(st.sampled_from(valid), st.sampled_from(valid), anything, st.binary(max_size=9)),
        max_size=25,
    ).map(b"".join)
    flips = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3)
    hello = frames.settings({}) if side.connection.client else HELLO
    return st.builds(mutated, pieces, flips).map(hello.__add__) | st.binary(max_size=60)


def mutated(octets: bytes, flips: list[tuple[int, int]]) -> bytes:
    changed = bytearray(octets)
    for place, mask in flips:
        if place < len(changed):
            changed[place] ^= mask
    return bytes(changed)


def a_server() -> Side:
    return Side(client=False, answer=reply_http, max_streams=4)


def a_client() -> Side:
    side = Side(client=True)
    for length in (0, 10, 100_000):
        call = side.open()
        side.connection.send_data(call.stream, bytes(length), True)
    return side


def history(side: Side) -> tuple[Any, ...]:
    """All that a side told its shell and its owners, and all that it wrote."""
    return side.log, [call.calls for call in side.calls], side.take(), side.connection.closing


def check(side: Side) -> None:
    """Assert what holds after any octets."""
    connection = side.connection
    assert 0 < connection.recv_window <= CONNECTION_WINDOW
    assert 0 <= connection.slots <= 4
    assert len(connection.streams) <= 4
    assert side.pool.queued == sum(stream.queued for stream in connection.streams.values())
    borrowed = sum(stream.borrowed for stream in connection.streams.values())
    assert side.pool.free + borrowed == WindowPool().free
    sent = parse(side.take().removeprefix(frames.PREFACE))
    if connection.error is not None:
        assert sent[-1].kind == GOAWAY
        assert connection.closing
    broken = {f.stream_id for f in sent if f.kind == RST_STREAM}
    assert not broken & set(connection.streams)
    for call in side.calls:
        gone = call.reset is not None or (call.ended and call.stream.local_closed)
        assert gone == (call.stream.id not in connection.streams) or call.stream.id in broken


SIDES = pytest.mark.parametrize(
    ("make", "valid"),
    [(a_server, CLIENT_FRAMES), (a_client, BACKEND_FRAMES)],
    ids=["server", "client"],
)


@SIDES
@settings(deadline=None)
@given(drawn=st.data())
def test_no_octets_make_a_connection_raise_or_lose_count(
    make: Any, valid: list[bytes], drawn: st.DataObject
) -> None:
    side = make()
    side.feed(drawn.draw(conversation(side, valid)))
    check(side)


@SIDES
@settings(deadline=None)
@given(drawn=st.data())
def test_octets_mean_the_same_in_whatever_pieces_they_come(
    make: Any, valid: list[bytes], drawn: st.DataObject
) -> None:
    whole, cut = make(), make()
    octets = drawn.draw(conversation(whole, valid))
    places = drawn.draw(st.lists(st.integers(0, len(octets)), max_size=20))
    whole.feed(octets)
    for start, stop in pairwise([0, *sorted(places), len(octets)]):
        cut.feed(octets[start:stop])
    assert history(cut) == history(whole)


def test_octets_mean_the_same_when_they_come_one_by_one() -> None:
    whole, cut = a_server(), a_server()
    octets = HELLO + b"".join(CLIENT_FRAMES[:5] + CLIENT_FRAMES[8:])
    whole.feed(octets)
    for octet in octets:
        cut.feed(bytes((octet,)))
    assert history(cut) == history(whole)


def test_an_unfinished_frame_or_block_is_all_that_is_held() -> None:
    side = a_server()
    side.feed(HELLO + request(1, end=False) + data(1, bytes(16_384))[:-1])
    assert len(side.connection._rest) == 9 + 16_383
    side.feed(b"\0")
    assert side.connection._rest == b""
    side.feed(frame(HEADERS, 0, 3, bytes(10)) + frame(CONTINUATION, END_HEADERS, 3, b"\x83"))
    assert side.connection._block is None
