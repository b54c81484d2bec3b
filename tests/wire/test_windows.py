"""Windows: what a stream may borrow, and how much of a backend it may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_pair import IDLE, Side, data, greeted, parse, request

from tei_manager.wire import frames
from tei_manager.wire.frames import DEFAULT_WINDOW, ErrorCode
from tei_manager.wire.windows import LARGEST_STREAM_WINDOW, WindowPool, may_hold


def grants(server: Side, stream_id: int) -> list[int]:
    return [
        int.from_bytes(f.payload, "big")
        for f in parse(server.take())
        if (f.kind, f.stream_id) == (frames.WINDOW_UPDATE, stream_id)
    ]


def upload(server: Side, octets: int) -> int:
    """Send as much as the peer's window allows, again and again; return the largest window."""
    window, largest = DEFAULT_WINDOW, DEFAULT_WINDOW
    while octets > 0:
        part = min(window, octets, 16_384)
        assert part > 0, "the stream stalled"
        server.feed(data(1, bytes(part)))
        octets -= part
        window += sum(grants(server, 1)) - part
        largest = max(largest, window)
    return largest


@given(st.lists(st.integers(0, 300), max_size=20))
def test_a_pool_lends_what_it_has_and_no_more(wishes: list[int]) -> None:
    pool = WindowPool(1000)
    lent = [pool.borrow(wish) for wish in wishes]
    assert all(0 <= got <= wish for got, wish in zip(lent, wishes, strict=True))
    assert pool.free == 1000 - sum(lent) >= 0
    for got in lent:
        pool.give_back(got)
    assert pool.free == 1000


def test_a_short_call_needs_no_credit_of_its_own() -> None:
    server = greeted(answer=None)
    server.feed(request(1, end=False) + data(1, bytes(16_000)) + data(1, bytes(16_000), True))
    assert grants(server, 1) == []


def test_a_long_stream_grows_to_a_mebibyte_and_gives_it_back() -> None:
    server = greeted(answer=None)
    server.feed(request(1, end=False))
    largest = upload(server, 8 << 20)
    assert LARGEST_STREAM_WINDOW // 2 < largest <= LARGEST_STREAM_WINDOW
    assert server.state()["borrowed"] == LARGEST_STREAM_WINDOW - DEFAULT_WINDOW
    server.connection.reset(server.calls[0].stream, ErrorCode.CANCEL)
    assert server.state() | {"slots": 0} == IDLE


def test_a_stream_goes_on_with_its_first_window_when_the_pool_is_empty() -> None:
    server = greeted(answer=None)
    server.connection.pool.free = 0
    server.feed(request(1, end=False))
    assert upload(server, 1 << 20) == DEFAULT_WINDOW
    assert server.connection.streams[1].borrowed == 0


def test_a_stream_whose_owner_takes_nothing_gets_one_window_and_no_more() -> None:
    server = greeted(answer=None, gives_credit=False)
    server.feed(request(1, end=False) + data(1, bytes(16_383)) * 4 + data(1, bytes(3)))
    assert grants(server, 1) == []
    assert len(server.calls[0].body) == DEFAULT_WINDOW
    server.feed(data(1, b"x"))
    assert server.calls[0].reset == ErrorCode.FLOW_CONTROL_ERROR


@given(st.integers(0, 1 << 21), st.integers(0, 1 << 20))
def test_a_stream_below_a_quarter_or_beside_a_free_half_is_never_held(
    outstanding: int, free: int
) -> None:
    whole = 1 << 20
    held = not may_hold(outstanding, free, whole)
    assert held == (outstanding > whole // 4 and free < whole // 2)


@pytest.mark.parametrize("whole", [DEFAULT_WINDOW, 1 << 20])
def test_a_stream_that_is_never_credited_leaves_room_for_short_calls(whole: int) -> None:
    side = Side(client=True)
    settings = frames.settings({frames.INITIAL_WINDOW_SIZE: whole})
    side.feed(settings + frames.window_update(0, whole) * (whole > DEFAULT_WINDOW))
    hog = side.open()
    side.connection.send_data(hog.stream, bytes(4 << 20), False)
    assert hog.stream.outstanding <= whole * 3 // 4
    assert side.connection.send_window >= whole // 4
    short = side.open()
    side.connection.send_data(short.stream, bytes(whole // 8), True)
    assert short.stream.queued == 0


def test_a_held_stream_goes_on_when_the_connection_gets_its_credit() -> None:
    side = Side(client=True)
    side.feed(frames.settings({}))
    call = side.open()
    side.connection.send_data(call.stream, bytes(65_000), False)
    assert len(side.connection.held) == 1
    assert call.stream.outstanding == 32_768
    side.feed(frames.window_update(0, 32_768))
    assert side.connection.held == {}
    assert call.stream.queued == 0


def test_a_long_stream_beside_a_stalled_one_waits_for_it_and_then_gets_through() -> None:
    """The known flaw of the rule, and its end; the peer gives credit after a third of a window."""
    side = Side(client=True)
    side.take()
    side.feed(frames.settings({}))
    stalled, long = side.open(), side.open()
    side.connection.send_data(stalled.stream, bytes(40_000), True)
    side.connection.send_data(long.stream, bytes(60_000), True)
    kept = stalled.stream.outstanding
    side.feed(frames.window_update(0, long.stream.outstanding))
    assert long.stream.queued > 0
    side.take()
    side.feed(frames.window_update(0, kept) + frames.window_update(1, kept))
    while credit := sum(len(f.payload) for f in parse(side.take()) if f.kind == frames.DATA):
        side.feed(frames.window_update(0, credit))
    assert stalled.stream.queued == long.stream.queued == 0
