"""What concerns a whole connection: goodbyes, settings in mid-connection, limits, deadlines."""

from __future__ import annotations

import pytest
from wire_pair import (
    HELLO,
    OK_HEAD,
    REQUEST,
    Side,
    block,
    greeted,
    pair,
    parse,
    reply,
    request,
    settle,
)

from tei_manager.wire import frames, hpack
from tei_manager.wire.connection import BLOCK_SECONDS, PREFACE_SECONDS
from tei_manager.wire.frames import END_STREAM, ErrorCode


def errors(side: Side) -> list[tuple[str, int]]:
    """The RST_STREAM and GOAWAY codes among what a side wants written."""
    found = []
    for frame in parse(side.take()):
        if frame.kind == frames.RST_STREAM:
            found.append(("rst", int.from_bytes(frame.payload, "big")))
        elif frame.kind == frames.GOAWAY:
            found.append(("goaway", int.from_bytes(frame.payload[4:8], "big")))
    return found


def test_a_window_that_a_setting_makes_negative_must_grow_before_anything_flows() -> None:
    client, server = pair(answer=lambda call: reply(call, bytes(100_000)))
    client.gives_credit = False
    call = client.open(end=True)
    settle(client, server)
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))
    assert server.connection.streams[1].send_window == 1000 - 65_535
    server.feed(frames.window_update(1, 64_535))
    assert [f for f in parse(server.take()) if f.kind == frames.DATA] == []
    server.feed(frames.window_update(1, 10))
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 1100}))
    sent = [len(f.payload) for f in parse(server.take()) if f.kind == frames.DATA]
    assert sent == [10, 100]
    assert len(call.body) == 65_535


def test_an_empty_end_passes_a_negative_window_once() -> None:
    """Flow control counts octets, and this frame has none (RFC 9113 6.9.1)."""
    server = greeted(answer=None)
    server.feed(request(1))
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    stream = server.connection.streams[1]
    server.connection.send_headers(stream, OK_HEAD, False)
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 5}))
    server.connection.send_data(stream, b"12345", False)
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    assert stream.send_window == -5
    server.take()
    server.connection.send_data(stream, b"", True)
    assert parse(server.take()) == [(frames.DATA, END_STREAM, 1, b"")]
    assert server.state()["streams"] == 0


def test_a_two_step_drain_loses_no_call_that_was_on_its_way() -> None:
    client, server = pair()
    server.connection.drain()
    server.connection.drain()
    call = client.open(end=True)
    on_its_way = client.take()
    client.feed(server.take())
    server.feed(on_its_way)
    server.feed(client.take())
    answer = server.take()
    client.feed(answer)
    assert ("goaway", frames.LARGEST_STREAM_ID, ErrorCode.NO_ERROR, b"") in client.log
    assert parse(answer)[-1] == (frames.GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0")
    assert call.trailers.grpc_status == 0
    assert server.connection.closing
    assert server.connection.error is None


def test_a_drain_waits_for_the_calls_and_refuses_new_ones() -> None:
    client, server = pair(answer=None)
    first = client.open(end=True)
    settle(client, server)
    server.connection.drain()
    settle(client, server)
    late = client.open(end=True)
    settle(client, server)
    assert late.reset == ErrorCode.REFUSED_STREAM
    assert not server.connection.closing
    reply(server.calls[0])
    settle(client, server)
    assert first.trailers.grpc_status == 0
    assert server.connection.closing


def test_a_goaway_never_names_a_higher_stream_than_an_earlier_one() -> None:
    server = greeted(answer=None)
    server.feed(request(1))
    server.connection.drain()
    server.feed(frames.ping(b"draining", ack=True) + request(3))
    server.connection.fail(ErrorCode.INTERNAL_ERROR, "test")
    last = [
        int.from_bytes(f.payload[:4], "big")
        for f in parse(server.take())
        if f.kind == frames.GOAWAY
    ]
    assert last == [frames.LARGEST_STREAM_ID, 1, 1]


def test_a_peer_cannot_start_a_drain_with_a_ping_that_nobody_asked_for() -> None:
    server = greeted()
    server.feed(frames.ping(b"draining", ack=True) + request(1))
    assert [f.kind for f in parse(server.take())][:1] == [frames.HEADERS]
    assert not server.connection.going


def test_a_client_that_says_goodbye_gets_the_answers_to_what_it_asked() -> None:
    client, server = pair(answer=None)
    call = client.open(end=True)
    client.connection.emit(frames.goaway(0, ErrorCode.NO_ERROR))
    settle(client, server)
    assert not server.connection.closing
    reply(server.calls[0])
    settle(client, server)
    assert call.trailers.grpc_status == 0
    assert server.connection.closing


def test_a_goodbye_tells_the_client_which_calls_were_looked_at() -> None:
    client, _server = pair(answer=None)
    client.open(end=True)
    client.open(end=True)
    client.feed(frames.goaway(1, ErrorCode.NO_ERROR, b"why"))
    assert ("goaway", 1, ErrorCode.NO_ERROR, b"why") in client.log
    assert client.connection.going
    assert not client.connection.closing


def test_streams_above_the_limit_are_refused_and_those_below_go_on() -> None:
    server = greeted(answer=None, max_streams=2)
    server.feed(request(1) + request(3) + request(5))
    assert errors(server) == [("rst", ErrorCode.REFUSED_STREAM)]
    assert [call.stream.id for call in server.calls] == [1, 3]


def test_an_honest_client_that_passes_the_limit_now_and_then_keeps_its_connection() -> None:
    server = greeted(answer=None, max_streams=1)
    server.feed(request(1))
    for count in range(500):
        server.feed(request(3 + 2 * count), now=float(count))
    assert not server.connection.closing


def test_a_reset_by_the_client_frees_no_slot_until_the_backend_is_done() -> None:
    server = greeted(answer=None, max_streams=2)
    server.over = lambda call: None  # type: ignore[method-assign]  # the backend is not done
    for stream_id in (1, 3, 5):
        server.feed(request(stream_id) + frames.rst_stream(stream_id, ErrorCode.CANCEL))
    assert [call.reset for call in server.calls] == [ErrorCode.CANCEL, ErrorCode.CANCEL]
    assert errors(server) == [("rst", ErrorCode.REFUSED_STREAM)]


@pytest.mark.parametrize("sizes", [[0], [0, 4096], [50, 100], [100, 50], [64, 8192]])
def test_our_blocks_follow_a_table_size_that_the_peer_lowered(sizes: list[int]) -> None:
    """The first update must not pass the smallest size since the last block (RFC 7541 4.2)."""
    server = greeted(answer=reply)
    for size in sizes:
        server.feed(frames.settings({frames.HEADER_TABLE_SIZE: size}))
    server.feed(request(1) + request(3))
    first, second = (
        f.payload
        for f in parse(server.take())
        if f.kind == frames.HEADERS and not f.flags & END_STREAM
    )
    assert first == hpack.size_update(0) + second


def test_a_peer_that_is_slow_with_its_hello_or_a_block_is_ended_in_time() -> None:
    silent = Side(client=False)
    silent.feed(HELLO[:20])
    assert silent.connection.next_deadline() == PREFACE_SECONDS
    silent.connection.expire(PREFACE_SECONDS - 0.01)
    assert not silent.connection.closing
    silent.connection.expire(PREFACE_SECONDS)
    assert errors(silent) == [("goaway", ErrorCode.SETTINGS_TIMEOUT)]
    slow = greeted()
    slow.feed(frames.frame(frames.HEADERS, 0, 1, block(*REQUEST)), now=100.0)
    slow.feed(frames.frame(frames.CONTINUATION, 0, 1, b"\x00"), now=104.0)
    assert slow.connection.next_deadline() == 100.0 + BLOCK_SECONDS
    slow.connection.expire(105.0)
    assert errors(slow) == [("goaway", ErrorCode.SETTINGS_TIMEOUT)]


def test_a_peer_that_has_said_all_it_began_has_no_deadline() -> None:
    server = greeted()
    assert server.connection.next_deadline() == float("inf")
