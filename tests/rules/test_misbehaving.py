"""Instances that break HTTP/2 or gRPC: the status is right, nothing hangs, others are served.

A row is what the instance writes when it has the whole question; the call is stream 1. Where only
the call is broken, the row also has the status and how its sentence begins. Then the instance reads
on until the multiplexer closes.
"""

from __future__ import annotations

import asyncio

import h2.events
import pytest
from between import serve
from http2_peer import Peer, connect, scripted
from multiplexer import embed, framed, multiplexer, path
from wire_pair import OK_HEAD, OK_TRAILERS, block, data, padded

from tei_manager.wire import frames
from tei_manager.wire.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

pytestmark = pytest.mark.asyncio

BOTH = END_HEADERS | END_STREAM
HEAD = frame(HEADERS, END_HEADERS, 1, OK_HEAD)
TRAILERS = frame(HEADERS, BOTH, 1, OK_TRAILERS)
BODY = data(1, framed(b"hi"))
LOST = "connection to instance 'a' lost: "
ENDED = "instance 'a' ended the call"
HTTP = "instance 'a' answered with HTTP status "
Row = tuple[bytes, int, str]


def head(*fields: tuple[bytes, bytes], flags: int = END_HEADERS, stream_id: int = 1) -> bytes:
    return frame(HEADERS, flags, stream_id, block(*fields))


FINE = (b":status", b"200"), (b"content-type", b"application/grpc")

OF_THE_CALL: dict[str, Row] = {
    "reset behind the headers": (HEAD + frames.rst_stream(1, 2), 13, ENDED),
    "reset during a message": (
        HEAD + data(1, b"\0\0\0\0\x09hi") + frames.rst_stream(1, 2),
        13,
        ENDED,
    ),
    "reset behind a message": (HEAD + BODY + frames.rst_stream(1, 0), 13, ENDED),
    "end in the headers": (head(*FINE, flags=BOTH), 2, ENDED + " without a status"),
    "end in the data": (HEAD + data(1, framed(b"hi"), True), 13, ENDED + " without a status"),
    "trailers without a status": (HEAD + head((b"x", b"y"), flags=BOTH), 2, ENDED),
    "no :status": (head(FINE[1]), 13, ENDED),
    ":status of letters": (head((b":status", b"abc")), 13, ENDED),
    "two :status": (head(FINE[0], *FINE), 13, ENDED),
    ":path in an answer": (head(*FINE, (b":path", b"/")), 13, ENDED),
    "capital in a name": (head(*FINE, (b"X", b"y")), 13, ENDED),
    "interim answer that ends": (head((b":status", b"103"), flags=BOTH), 2, HTTP + "103"),
    "two header blocks": (HEAD + HEAD, 13, ENDED),
    "data before headers": (BODY + HEAD, 13, ENDED),
    "window beyond its bound": (frames.window_update(1, 2**31 - 1), 13, ENDED),
    "header list too large": (head(*FINE, (b"x", b"v" * 15_000), (b"y", b"v" * 1_300)), 8, ENDED),
}
OF_THE_CONNECTION: dict[str, bytes] = {
    "data on an idle stream": data(3, b"x"),
    "headers on an idle stream": head(*FINE, stream_id=5),
    "headers on an even stream": head(*FINE, stream_id=2),
    "headers on stream 0": head(*FINE, stream_id=0),
    "data on stream 0": data(0, b"x"),
    "push promise": frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + OK_HEAD),
    "broken header block": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
    "continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, OK_HEAD),
    "ping inside a header block": frame(HEADERS, 0, 1, OK_HEAD) + frames.ping(bytes(8)),
    "frame of 16 KiB and one": HEAD + data(1, bytes(16_385)),
    "padding longer than its frame": HEAD + frame(0, 8, 1, b"\xffx"),
    "connection window beyond its bound": frames.window_update(0, 2**31 - 1),
    "window update of zero": frames.window_update(1, 0),
    "connection window update of zero": frames.window_update(0, 0),
    "window update of three octets": frame(WINDOW_UPDATE, 0, 1, bytes(3)),
    "settings of five octets": frame(SETTINGS, 0, 0, bytes(5)),
    "settings on a stream": frame(SETTINGS, 0, 1),
    "acknowledgement with a payload": frame(SETTINGS, 1, 0, bytes(6)),
    "setting of a window too large": frames.settings({4: 2**31}),
    "setting of a frame too small": frames.settings({5: 1}),
    "server that would push": frames.settings({2: 1}),
    "ping of seven octets": frame(PING, 0, 0, bytes(7)),
    "ping on a stream": frame(PING, 0, 1, bytes(8)),
    "reset of three octets": frame(RST_STREAM, 0, 1, bytes(3)),
    "reset of an idle stream": frames.rst_stream(7, 8),
    "goaway on a stream": frame(GOAWAY, 0, 1, bytes(8)),
    "goaway of seven octets": frame(GOAWAY, 0, 0, bytes(7)),
    "HTTP/1.1 in mid-connection": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "interim answers without end": head((b":status", b"103")) * 2_000,
    "header block without end": frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, OK_HEAD) * 20,
    "an octet in 255 of padding": HEAD + padded(1, b"\0", 255) * 2_000,
    "settings in a flood": frames.settings({3: 0}) + frames.settings({3: 100}) * 60,
    "pings in a flood": frames.ping(bytes(8)) * 2_000,
    "promise on a promised stream": frame(PUSH_PROMISE, END_HEADERS, 2, bytes(4) + OK_HEAD),
    "zeros": bytes(2_000_000),
}
ODD_BUT_ALLOWED: dict[str, bytes] = {
    "unknown frames": frame(0xEE, 0xFF, 1, b"x") + HEAD + BODY + frame(0xEF, 0, 0) + TRAILERS,
    "padding": HEAD + padded(1, framed(b"hi"), 200) + TRAILERS,
    "empty data": HEAD + data(1) * 5 + BODY + data(1) * 5 + TRAILERS,
    "priorities": frame(PRIORITY, 0, 1, bytes(4) + b"\1") * 5 + HEAD + BODY + TRAILERS,
    "continuations": frame(HEADERS, 0, 1, OK_HEAD[:3])
    + frame(CONTINUATION, END_HEADERS, 1, OK_HEAD[3:])
    + (BODY + TRAILERS),
    "undefined flags": HEAD + frame(0, 0x72, 1, framed(b"hi")) + TRAILERS,
    "unknown setting": frames.settings({0xFFFF: 1, 4: 0}) + HEAD + BODY + TRAILERS,
    # Messages say their own length, so the one of the body is not looked at, and does not travel.
    "body longer than announced": head(*FINE, (b"content-length", b"3")) + BODY + TRAILERS,
    "body shorter than announced": head(*FINE, (b"content-length", b"30")) + BODY + TRAILERS,
    "extended CONNECT": frames.settings({8: 1}) + HEAD + BODY + TRAILERS,
    "no room for another call": frames.settings({3: 0}) + HEAD + BODY + TRAILERS,
    "window that falls and rises": frames.settings({4: 0, 1: 0})
    + (frames.settings({4: 2**31 - 1}) + frames.settings({4: 1}) + HEAD + BODY + TRAILERS),
    "interim answers": head((b":status", b"100"))
    + head((b":status", b"103")) * 5
    + (HEAD + BODY + TRAILERS),
    "goodbye that grows": frames.goaway(1, 0) + frames.goaway(99, 0) + HEAD + BODY + TRAILERS,
    "reset behind its end": HEAD + BODY + TRAILERS + frames.rst_stream(1, 0),
    "goaway around its answer": frames.goaway(1, 0) + HEAD + BODY + frames.goaway(1, 0) + TRAILERS,
}


async def outcome(octets: bytes, close: bool = False) -> tuple[int, str]:
    """Let an instance write these octets; returns how its call ends. Another one serves on."""

    async def misbehave(peer: Peer, _number: int) -> None:
        await peer.start()
        await peer.next(h2.events.StreamEnded)
        peer.writer.write(octets)
        if not close:
            async with asyncio.timeout(60):
                while await peer.reader.read(65536):
                    pass

    async with (
        scripted(misbehave) as bad,
        scripted(serve) as good,
        multiplexer(("a", bad.port), ("b", good.port)) as mux,
        connect(mux.port) as client,
    ):
        neighbour = client.request(path("EmbedStream"), data=framed(embed(name="b")))
        call = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        ended = await client.status(call, 10)
        client.h2.end_stream(neighbour)
        await client.flush()
        assert (await client.status(neighbour, 10))[0] == 0
        asked = [e for p in bad.peers for e in p.seen if isinstance(e, h2.events.RequestReceived)]
        assert len(asked) == 1  # it may have acted on the call, so nobody asks it again
        await mux.settled(10)
        return ended


@pytest.mark.parametrize("row", OF_THE_CALL.values(), ids=OF_THE_CALL)
async def test_a_call_that_its_instance_breaks_gets_a_status(row: Row) -> None:
    octets, code, message = row
    status, text = await outcome(octets)
    assert (status, text[: len(message)]) == (code, message)


@pytest.mark.parametrize("octets", OF_THE_CONNECTION.values(), ids=OF_THE_CONNECTION)
async def test_a_connection_that_its_instance_breaks_is_lost_with_a_cause(octets: bytes) -> None:
    code, message = await outcome(octets)
    assert (code, message[: len(LOST)]) == (14, LOST)
    assert len(message) > len(LOST)


@pytest.mark.parametrize("octets", ODD_BUT_ALLOWED.values(), ids=ODD_BUT_ALLOWED)
async def test_what_is_odd_and_allowed_is_no_error(octets: bytes) -> None:
    assert (await outcome(octets))[0] == 0


@pytest.mark.parametrize(
    "octets",
    [b"", HEAD, HEAD + BODY, HEAD[:5], HEAD + data(1, b"\0\0\0\0\x09hi"), frames.goaway(1, 11)],
)
async def test_an_instance_that_closes_before_its_answer_is_whole_is_unavailable(
    octets: bytes,
) -> None:
    code, message = await outcome(octets, close=True)
    assert (code, message[: len(LOST)]) == (14, LOST)
