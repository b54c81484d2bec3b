"""Our client against our server, and those rules of a connection that only we can look into."""

from __future__ import annotations

import gc
import weakref
from types import FunctionType

import pytest
from wire_pair import (
    IDLE,
    OK_HEAD,
    OK_TRAILERS,
    REQUEST,
    Recorder,
    Side,
    block,
    data,
    greeted,
    padded,
    pair,
    parse,
    reply,
    request,
    settle,
)

from tei_manager.grpc.status import Code
from tei_manager.wire import frames, hpack
from tei_manager.wire.connection import HEADERS_COST, MAX_FRAMES
from tei_manager.wire.frames import END_HEADERS, END_STREAM, ErrorCode
from tei_manager.wire.handler import GONE
from tei_manager.wire.windows import CONNECTION_WINDOW

CRLF = ((b"x-a", b"a\r\nb"),)


def test_a_call_goes_there_and_back_and_leaves_nothing() -> None:
    client, server = pair()
    call = client.open()
    client.connection.send_data(call.stream, b"question", True)
    settle(client, server)
    assert server.calls[0].body == b"question"
    assert (call.body, call.ended, call.trailers.grpc_status) == (
        b"a body of more than sixteen octets",
        True,
        0,
    )
    assert client.state() == server.state() == IDLE


def test_a_trailers_only_answer_stays_one() -> None:
    def refuse(call: Recorder) -> None:
        call.side.connection.send_headers(call.stream, OK_HEAD + OK_TRAILERS, True)

    client, server = pair(answer=refuse)
    call = client.open(end=True)
    settle(client, server)
    assert [(kind, end) for kind, _, end in call.calls] == [("headers", True)]
    assert call.head.grpc_status == 0
    assert client.state() == server.state() == IDLE


def test_a_thousand_calls_with_gc_disabled_leave_no_object_alive() -> None:
    client, server = pair()

    def one() -> None:
        call = client.open()
        client.connection.send_data(call.stream, b"question", True)
        settle(client, server)
        client.calls.clear()
        server.calls.clear()
        server.log.clear()

    def ours() -> int:
        return sum(
            str(type(thing).__module__).startswith(("tei_manager", "wire_pair"))
            for thing in gc.get_objects()
            if type(thing) is not FunctionType
        )

    for _ in range(2):  # the second answer's block, without a size update, is remembered
        one()
    one()  # by now their heads are remembered
    gc.collect()
    gc.disable()
    try:
        before = ours()
        for _ in range(1000):
            one()
        assert ours() == before
    finally:
        gc.enable()
    assert client.state() == server.state() == IDLE


@pytest.mark.parametrize(
    "wire", [frames.frame(6, 0, 0, b"short"), frames.frame(1, 5, 1, b"\x80")], ids=["ping", "hpack"]
)
def test_a_connection_that_ends_in_an_error_is_freed_without_the_collector(wire: bytes) -> None:
    """Its last chunk, up to 64 KiB, would stay with it; floods end many connections."""
    gc.disable()
    try:
        server = greeted()
        connection = weakref.ref(server.connection)
        server.feed(wire)
        assert server.connection.error is not None
        server.connection.handler = GONE  # as every shell does at the end
        server.dirty.clear()
        del server
        assert connection() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [16_384, 16_385, 65_535, 65_536, 1 << 20])
def test_bodies_larger_than_windows_arrive_equal_in_both_directions(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    client, server = pair(answer=lambda call: reply(call, call.body))
    call = client.open()
    client.connection.send_data(call.stream, body, True)
    settle(client, server)
    assert call.body == body
    assert call.trailers.grpc_status == 0
    assert client.state() == server.state() == IDLE


def test_one_stream_that_is_not_read_stops_itself_and_no_other() -> None:
    client, server = pair(answer=lambda call: reply(call, bytes(300_000)))
    client.gives_credit = False
    slow = client.open(end=True)
    settle(client, server)
    assert len(slow.body) == 65_535
    client.gives_credit = True
    quick = client.open(end=True)
    settle(client, server)
    assert len(quick.body) == 300_000
    client.connection.credit(slow.stream, 65_535)
    settle(client, server)
    assert len(slow.body) == 300_000
    assert client.state() == server.state() == IDLE


def test_padding_and_data_for_a_reset_stream_come_back_as_connection_credit() -> None:
    server = greeted(answer=None)
    server.feed(request(1, end=False))
    server.connection.reset(server.connection.streams[1], ErrorCode.CANCEL)
    server.feed(data(1, bytes(16_000)))
    assert CONNECTION_WINDOW - server.connection.recv_window == 16_000
    server.feed(request(3, end=False))
    server.feed(padded(3, b"x", 255))
    assert CONNECTION_WINDOW - server.connection.recv_window == 16_257
    assert server.connection.streams[3].consumed == 257
    assert not server.connection.closing


def test_a_stream_of_mostly_padding_never_stalls_on_its_window() -> None:
    """A sender that pads keeps its window although most of it never reaches the owner."""
    server = greeted(answer=None)
    server.feed(request(1, end=False))
    for _ in range(600):
        server.feed(padded(1, bytes(40), 200))
    assert server.calls[0].body == bytes(40) * 600
    assert not server.connection.closing


def test_a_block_in_continuations_reads_like_one_in_a_single_frame() -> None:
    server = greeted(answer=None)
    whole = block(*REQUEST, (b"x-long", b"v" * 5000))
    for stream_id, size in ((1, 6000), (3, 1000), (5, 700)):
        wire = frames.header_frames(stream_id, whole, True, size)
        server.feed(wire)
    kinds = [(path, forward) for _, _, path, forward, _ in server.log[1:]]
    assert len(kinds) == 3
    assert len(set(kinds)) == 1


def test_our_own_long_blocks_are_cut_at_the_frame_size_of_the_peer() -> None:
    """The block is also longer than what we read, so that the call is told, and only the call."""
    client, server = pair()
    call = client.open(end=True, fields=(*REQUEST, (b"x-long", b"v" * 17_000)))
    sent = parse(client.take())
    assert [(f.kind, f.flags) for f in sent] == [
        (frames.HEADERS, END_STREAM),
        (frames.CONTINUATION, END_HEADERS),
    ]
    server.feed(b"".join(frames.frame(*f) for f in sent))
    settle(client, server)
    refusal = server.calls[0].head.refusal
    assert (refusal.code, call.trailers.grpc_status) == (Code.RESOURCE_EXHAUSTED, 0)


def test_an_answer_before_the_end_of_the_question_stops_the_rest_of_it() -> None:
    client, server = pair(answer=None)
    call = client.open()
    client.connection.send_data(call.stream, b"part", False)
    settle(client, server)
    reply(server.calls[0])
    client.connection.send_data(call.stream, b"more that is on its way", True)
    on_its_way = client.take()
    client.feed(server.take())
    server.feed(on_its_way)
    assert call.trailers.grpc_status == 0
    assert not server.connection.closing
    assert server.connection.error is None
    assert client.state()["streams"] == server.state()["streams"] == 0


def test_an_interim_response_is_not_the_answer() -> None:
    client = Side(client=True)
    call = client.open(end=True)
    interim = hpack.literal(b":status", b"103") + hpack.literal(b"link", b"x")
    client.feed(
        frames.settings({})
        + frames.header_frames(1, interim, False, 16_384)
        + frames.header_frames(1, OK_HEAD, False, 16_384)
        + frames.header_frames(1, OK_TRAILERS, True, 16_384)
    )
    assert [kind for kind, *_ in call.calls] == ["headers", "headers"]
    assert (call.head.status, call.trailers.grpc_status) == (200, 0)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (request(1, *CRLF), ErrorCode.PROTOCOL_ERROR),
        (request(1, (b"content-length", b"5")), ErrorCode.PROTOCOL_ERROR),
        (request(1, (b"content-length", b"5"), end=False) + data(1, b"1234", end=True), 1),
        (request(1, (b"content-length", b"5"), end=False) + data(1, b"123456"), 1),
        (request(1, end=False) + request(1, end=False), ErrorCode.PROTOCOL_ERROR),
        (request(1, end=False) + data(1, bytes(16_384)) * 4, ErrorCode.FLOW_CONTROL_ERROR),
    ],
    ids=["crlf", "length-no-body", "short", "long", "two-heads", "window"],
)
def test_a_broken_stream_is_reset_and_its_neighbour_is_answered(wire: bytes, code: int) -> None:
    server = greeted(gives_credit=False)
    server.feed(wire + request(3))
    sent = parse(server.take())
    assert ("rst", code) in [
        ("rst", int.from_bytes(f.payload, "big"))
        for f in sent
        if f.kind == frames.RST_STREAM and f.stream_id == 1
    ]
    assert [f.kind for f in sent if f.stream_id == 3] == [frames.HEADERS, frames.DATA]
    assert not server.connection.closing
    assert server.state() == IDLE


def test_the_owner_hears_of_the_broken_stream_that_ends_the_connection_too() -> None:
    """Otherwise its call would hang at the backend: the stream is in no list any more."""
    server = greeted(answer=None, max_streams=1000)
    for stream_id in range(1, 2000, 2):
        server.feed(request(stream_id, end=False) + request(stream_id, end=False))
        if server.connection.closing:
            break
    assert server.connection.error is not None
    assert server.connection.error.code is ErrorCode.ENHANCE_YOUR_CALM
    assert {call.reset for call in server.calls} == {ErrorCode.PROTOCOL_ERROR}
    assert server.state() == IDLE


def test_a_turn_does_bounded_work_and_keeps_the_rest() -> None:
    server = greeted()
    pings = b"".join(frames.settings({}) + frames.ping(bytes(8)) for _ in range(10))
    server.connection.receive(pings + frames.frame(0x20, 0, 0) * (MAX_FRAMES - 10), 0.0)
    assert server.connection.backlog
    server.connection.receive(b"", 0.0)
    assert not server.connection.backlog
    most = MAX_FRAMES // HEADERS_COST
    calls = b"".join(request(1 + 2 * n) for n in range(most + 1))
    server.connection.receive(calls, 0.0)
    assert (len(server.calls), server.connection.backlog) == (most, True)
    server.connection.receive(b"", 0.0)
    assert (len(server.calls), server.connection.backlog) == (most + 1, False)


def test_what_was_on_its_way_to_a_reset_stream_is_no_attack_however_small_its_messages() -> None:
    server = greeted(answer=None)
    server.feed(request(1, end=False))
    server.connection.reset(server.calls[0].stream, ErrorCode.CANCEL)
    server.feed(data(1, bytes(5)) * 5000 + data(1, b"", True))  # no message is smaller
    assert not server.connection.closing


@pytest.mark.parametrize("last", [data(1, b"x", True), frames.rst_stream(1, ErrorCode.CANCEL)])
def test_a_peer_that_has_ended_a_reset_stream_sends_nothing_more_on_it(last: bytes) -> None:
    server = greeted(answer=None)
    server.feed(request(1, end=False))
    server.connection.reset(server.calls[0].stream, ErrorCode.CANCEL)
    server.feed(last)
    assert not server.connection.closing
    server.feed(data(1, b"x"))
    assert server.connection.error is not None
    assert server.connection.error.code is ErrorCode.STREAM_CLOSED
