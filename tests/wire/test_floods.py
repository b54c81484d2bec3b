"""What one peer can make us do: every known flood ends its connection within 2,000 frames.

The catalogue is that of the HTTP/2 attacks of 2016 to 2026. Time goes on by 20 µs a frame, which is
faster than Python parses, so that no budget is refilled to speak of. The server answers like the
listener: at once what it refuses, at the end of the request what it serves.
"""

from __future__ import annotations

import pytest
from floods import CANCEL, FLOODS, Flood, same
from wire_pair import (
    BODY,
    HELLO,
    OK_HEAD,
    Recorder,
    Side,
    data,
    padded,
    parse,
)

from tei_manager.wire import frames, hpack
from tei_manager.wire.frames import END_HEADERS, frame

MOST_FRAMES = 2000
FRAME_SECONDS = 20e-6
MOST_HELD = 1 << 20


def attack(server: Side, flood: Flood, reads: bool) -> tuple[int, int]:
    """Feed a flood until the connection ends; return frames fed and the most octets held."""
    connection, fed, most = server.connection, 0, 0
    connection.set_writable(reads)
    for unit in flood():
        fed += len(parse(unit))
        server.feed(unit, now=fed * FRAME_SECONDS)
        server.log.clear()
        server.calls = [call for call in server.calls if call.reset is None and not call.ended]
        blocks = sum(map(len, connection._block or ()))
        held = sum(map(len, connection.out)) + server.pool.queued + blocks + len(connection._rest)
        most = max(most, held)
        if connection.closing or fed > MOST_FRAMES + 10:
            break
        if reads:
            server.take()
    return fed, most


def reply_unless_over(call: Recorder) -> None:
    connection = call.side.connection
    if call.stream.local_closed:
        return
    connection.send_headers(call.stream, OK_HEAD, False)
    connection.send_data(call.stream, BODY, True)


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_its_connection_within_2000_frames(name: str, reads: bool) -> None:
    server = Side(client=False, answer=reply_unless_over, max_streams=1024, gives_credit=False)
    server.feed(HELLO)
    fed, most = attack(server, FLOODS[name], reads)
    assert server.connection.closing, f"{fed} frames, and it goes on"
    assert server.connection.error is not None
    assert fed <= MOST_FRAMES
    assert most < MOST_HELD
    assert len(server.connection.recent_resets) <= 1024


INTERIM = frames.header_frames(1, hpack.literal(b":status", b"103"), False, 16_384)
ANSWER_HEAD = frames.header_frames(1, OK_HEAD, False, 16_384)

BACKEND_FLOODS: dict[str, Flood] = {
    "interim answers": same(INTERIM),
    "pings": same(frames.ping(b"12345678")),
    "settings": same(frames.settings({})),
    "answers to settings": same(frames.SETTINGS_ACK),
    "goodbyes": same(frames.goaway(1, 0)),
    "empty data": same(data(1), ANSWER_HEAD),
    "data of an octet": same(data(1, b"x"), ANSWER_HEAD),
    "data of padding": same(padded(1, b"x", 255), ANSWER_HEAD),
    "data for no call": same(data(3)),
    "heads for a call that was reset": same(
        frames.header_frames(1, OK_HEAD, False, 16_384), INTERIM + frame(0, 0, 1, b"x")
    ),
    "priorities": same(frame(frames.PRIORITY, 0, 3, bytes(5))),
    "window updates": same(frames.window_update(0, 1)),
    "unknown frames": same(frame(0x20, 0, 0)),
    "resets of calls that are over": same(frames.rst_stream(1, CANCEL)),
    "continuations": same(
        frame(frames.CONTINUATION, 0, 1, bytes(9)), frame(frames.HEADERS, 0, 1, bytes(9))
    ),
    "promises": same(frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(4))),
}


@pytest.mark.parametrize("name", BACKEND_FLOODS)
def test_a_backend_that_floods_loses_its_connection_too(name: str) -> None:
    client = Side(client=True)
    client.feed(frames.settings({}))
    client.open(end=True)
    client.open(end=True)  # so that a goodbye does not end the connection at once
    attack(client, BACKEND_FLOODS[name], reads=True)
    assert client.connection.error is not None
