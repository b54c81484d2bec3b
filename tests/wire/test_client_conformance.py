"""The client against RFC 9113 and RFC 7541, one row a rule, in the order of h2specd's suite.

A row is what a server sends behind its settings, on a connection where call 1 waits for its answer,
and the outcomes that the rule accepts. What both roles share is here as well: a role is a branch.
"""

from __future__ import annotations

import pytest
from wire_pair import OK_HEAD, OK_TRAILERS, Side, block, data, padded, parse

from tei_manager.wire import frames
from tei_manager.wire.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)

Row = tuple[str, bytes, set[str]]

BOTH = END_HEADERS | END_STREAM
PONG, ANSWER = {"pong"}, {"answer"}
PROTOCOL = {"PROTOCOL_ERROR"}
SIZE = {"FRAME_SIZE_ERROR"}
FLOW = {"FLOW_CONTROL_ERROR"}
GONE = {"STREAM_CLOSED"}


def head(fields: bytes = OK_HEAD, flags: int = END_HEADERS, stream_id: int = 1) -> bytes:
    return frame(HEADERS, flags, stream_id, fields)


def more(fields: bytes, flags: int = END_HEADERS, stream_id: int = 1) -> bytes:
    return frame(CONTINUATION, flags, stream_id, fields)


ASK = frames.ping(b"question")
OPEN, ENDED = head(), head(flags=BOTH)
RESET = frames.rst_stream(1, ErrorCode.CANCEL)
FIELD = block((b"x-dummy", b"x" * 4000))

FRAMING: list[Row] = [
    ("4.1/1 unknown type", frame(0x16, 0, 0, bytes(8)) + ASK, PONG),
    ("4.1/2 undefined flags", frame(PING, 0x16, 0, b"question"), PONG),
    ("4.1/3 reserved bit", frame(PING, 0, 1 << 31, b"question"), PONG),
    ("4.2/1 DATA of 2^14", OPEN + data(1, bytes(1 << 14), True), ANSWER),
    ("4.2/2 DATA too large", OPEN + data(1, bytes((1 << 14) + 1), True), SIZE),
    ("4.2/3 HEADERS too large", head(OK_HEAD + bytes(1 << 14)), SIZE),
    ("4.3/1 broken block", head(b"\x40"), {"COMPRESSION_ERROR"}),
    ("5.1/1 idle DATA", data(2, b"x", True), PROTOCOL),
    ("5.1/2 idle RST_STREAM", frames.rst_stream(2, 8), PROTOCOL),
    ("5.1/3 idle WINDOW_UPDATE", frames.window_update(2, 100), PROTOCOL),
    ("5.1/4 idle CONTINUATION", more(OK_HEAD, stream_id=2), PROTOCOL),
    ("5.1/5 reset DATA", OPEN + RESET + data(1, b"x", True), GONE),
    ("5.1/6 reset HEADERS", OPEN + RESET + ENDED, GONE),
    ("5.1/7 reset CONTINUATION", OPEN + RESET + more(FIELD), GONE | PROTOCOL),
    ("5.1/8 closed DATA", ENDED + data(1, b"x", True), GONE),
    ("5.1/9 closed HEADERS", ENDED + ENDED, GONE),
    ("5.1/10 closed CONTINUATION", ENDED + more(FIELD), GONE | PROTOCOL),
    ("5.1.1/1 a number of ours to come", head(flags=BOTH, stream_id=101), PROTOCOL),
    ("5.1.1 a number of the server's", head(flags=BOTH, stream_id=2), PROTOCOL),
    ("5.4.1/1 connection error", frame(PING, 0, 3, b"question"), PROTOCOL),
    ("5.5/1 unknown extension", frame(0xFF, 0, 0, bytes(8)) + ASK, PONG),
]

FRAME_TYPES: list[Row] = [
    ("6.1/1 DATA on 0", data(0, b"x", True), PROTOCOL),
    ("6.1/2 DATA behind the end", OPEN + data(1, b"x", True) + data(1, b"x", True), GONE),
    ("6.1/3 DATA padding", OPEN + frame(DATA, END_STREAM | PADDED, 1, b"\x06test"), PROTOCOL),
    ("6.1 DATA padded", OPEN + padded(1, b"x", 5, True), ANSWER),
    ("6.2/1 PRIORITY behind", head(flags=0) + frame(PRIORITY, 0, 1, bytes(5)), PROTOCOL),
    ("6.2/2 HEADERS on 0", head(stream_id=0), PROTOCOL),
    ("6.2/3 HEADERS padding", head(b"\xff" + OK_HEAD, BOTH | PADDED), PROTOCOL),
    ("6.3/1 PRIORITY on 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    ("6.3/2 PRIORITY size", OPEN + frame(PRIORITY, 0, 1, bytes(4)), SIZE),
    ("6.4/1 RST_STREAM on 0", frames.rst_stream(0, 8), PROTOCOL),
    ("6.4/3 RST_STREAM size", OPEN + frame(RST_STREAM, 0, 1, bytes(3)), SIZE),
    ("6.5/1 SETTINGS ACK with payload", frame(SETTINGS, 1, 0, bytes(6)), SIZE),
    ("6.5/2 SETTINGS on a stream", frame(SETTINGS, 0, 1, bytes(6)), PROTOCOL),
    ("6.5/3 SETTINGS size", frame(SETTINGS, 0, 0, bytes(3)), SIZE),
    ("6.5.2 ENABLE_PUSH 1 from a server", frames.settings({2: 1}), PROTOCOL),
    ("6.5.2/1 INITIAL_WINDOW_SIZE", frames.settings({4: 1 << 31}), FLOW),
    ("6.5.2/2 MAX_FRAME_SIZE low", frames.settings({5: (1 << 14) - 1}), PROTOCOL),
    ("6.5.2/3 MAX_FRAME_SIZE high", frames.settings({5: 1 << 24}), PROTOCOL),
    ("6.5.2/4 unknown setting", frames.settings({0xFF: 1}) + ASK, PONG),
    ("6.5.3/1 SETTINGS ACK", frames.settings({3: 100}), {"ack"}),
    ("6.6 PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL),
    ("6.7/1 PING", ASK, PONG),
    ("6.7/2 PING ACK", frames.ping(b"no answr", ack=True) + ASK, PONG),
    ("6.7/4 PING size", frame(PING, 0, 0, bytes(6)), SIZE),
    ("6.8/1 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    ("6.9/1 WINDOW_UPDATE 0", frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    ("6.9/2 WINDOW_UPDATE 0 stream", OPEN + frame(WINDOW_UPDATE, 0, 1, bytes(4)), PROTOCOL),
    ("6.9/3 WINDOW_UPDATE size", frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    ("6.9.1/1 connection overflow", frames.window_update(0, (1 << 31) - 1) * 2, FLOW),
    ("6.9.1/2 stream overflow", OPEN + frames.window_update(1, (1 << 31) - 1) * 2, FLOW),
    ("6.10/1 CONTINUATIONs", head(flags=END_STREAM) + more(FIELD, 0) + more(FIELD), ANSWER),
    ("6.10/2 DATA behind", head(flags=0) + more(FIELD, 0) + data(1, b"x", True), PROTOCOL),
    ("6.10/3 CONTINUATION on 0", head(flags=0) + more(FIELD, stream_id=0), PROTOCOL),
    ("6.10/4 behind END_HEADERS", OPEN + more(FIELD), PROTOCOL),
    ("6.10/5 behind its end", head(flags=0) + more(FIELD) + more(FIELD), PROTOCOL),
    ("6.10/6 behind DATA", OPEN + data(1, b"x") + more(FIELD), PROTOCOL),
]


def waiting() -> Side:
    """A client that has heard the server's settings and sent call 1."""
    client = Side(client=True)
    client.feed(frames.settings({}))
    client.open(end=True)
    client.take()
    return client


def outcomes(client: Side) -> set[str]:
    """What a client wants written, and whether call 1 got an answer."""
    sent = parse(client.take())
    found = {ErrorCode(f.payload[-1]).name for f in sent if f.kind == RST_STREAM}
    found |= {ErrorCode(f.payload[7]).name for f in sent if f.kind == GOAWAY}
    found |= {"pong"} if (PING, 1, 0, b"question") in sent else set()
    found |= {"ack"} if (SETTINGS, 1, 0, b"") in sent else set()
    return found | ({"answer"} if client.calls[0].ended else set())


@pytest.mark.parametrize(
    ("wire", "accepted"),
    [pytest.param(wire, accepted, id=name) for name, wire, accepted in FRAMING + FRAME_TYPES],
)
def test_the_client_does_what_the_rule_says(wire: bytes, accepted: set[str]) -> None:
    client = waiting()
    client.feed(wire)
    found = outcomes(client)
    assert found & accepted, f"wanted {accepted}, got {found}"
    wrong = {code.name for code in ErrorCode} - accepted
    assert not found & wrong


def test_a_server_that_goes_on_behind_its_own_reset_is_told_once_and_keeps_its_other_calls() -> (
    None
):
    client = waiting()
    other = client.open(end=True)
    client.take()
    client.feed(OPEN + RESET + data(1, b"x") * 2 + head(OK_TRAILERS, BOTH))
    assert [(f.kind, f.stream_id) for f in parse(client.take())] == [(RST_STREAM, 1)]
    client.feed(head(flags=BOTH, stream_id=3))
    assert other.ended
    assert not client.connection.closing


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled here", "ended there"])
def test_a_server_that_ends_a_call_twice_with_its_reset_in_between_keeps_its_other_calls(
    cancel: bool,
) -> None:
    """C-core does where a deadline passes: its own timer, and what the application answers."""
    client = waiting()
    other = client.open(end=True)
    call = client.open()
    if cancel:
        client.connection.reset(call.stream, ErrorCode.CANCEL)
    trailers = head(flags=BOTH, stream_id=5)
    client.feed(trailers)
    if not cancel:
        client.connection.reset(call.stream, ErrorCode.NO_ERROR)
    client.take()
    client.feed(frames.rst_stream(5, ErrorCode.NO_ERROR) + trailers)
    assert [(f.kind, f.stream_id) for f in parse(client.take())] == [(RST_STREAM, 5)]
    client.feed(head(flags=BOTH, stream_id=3))
    assert other.ended
    assert not client.connection.closing


@pytest.mark.parametrize(
    "stray", [data(3, b"x"), head(OK_TRAILERS, BOTH, 3)], ids=["data", "trailers"]
)
def test_our_reset_excuses_nothing_from_a_server_that_had_ended_its_side(stray: bytes) -> None:
    client = waiting()
    call = client.open()
    client.feed(head(flags=BOTH, stream_id=3))
    client.connection.reset(call.stream, ErrorCode.CANCEL)
    client.take()
    client.feed(stray)
    assert outcomes(client) == GONE
    assert client.connection.closing
