"""What a few octets can make a connection do: bytecodes, which need no clock.

Whoever sends as many octets as another must not get a hundred times the work for it. A plain run of
the smallest messages is the measure.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from wire_pair import Side, data, greeted, reply, request

from benchmarks.opcodes import _counting
from tei_manager.grpc.methods import Shape
from tei_manager.grpc.status import Code, StatusError
from tei_manager.wire import frames
from tei_manager.wire.envelope import RequestReader
from tei_manager.wire.fields import MAX_FIELDS

READ = 16 << 10
SMALL = data(1, b"\0\0\0\0\0")
"""The smallest frame that may hold a message."""

FLOOD = SMALL * (READ // len(SMALL))
MOST = 500_000
"""Bytecodes that so many octets may take; a plain run of these frames takes 90,000."""


@contextmanager
def bounded(most: int = MOST) -> Iterator[None]:
    """Hold the body against a number of bytecodes."""
    with _counting() as found:
        yield
    assert found.total() < most


def opened(*fields: tuple[bytes, bytes], credit: bool = True) -> Side:
    """A server with one call, whose body has not begun."""
    server = greeted(max_streams=1024, gives_credit=credit)
    server.feed(request(1, *fields, end=False))
    return server


def full(left: int) -> Side:
    """A server whose client has that much of a stream's window left."""
    server = opened(credit=False)
    for size in (16_384, 16_384, 16_384, 16_383 - left):
        server.feed(data(1, bytes(size)))
    return server


SERVERS = {
    "a plain stream": opened(),
    "a body of announced length": opened((b"content-length", b"60000")),
    "a stream that we reset": opened((b"x-a", b"\r\n")),
    "a stream with half a frame of window": full(8_000),
}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_small_frames_cost_the_same_whatever_their_stream_is(server: Side) -> None:
    with bounded():
        server.feed(FLOOD)


def packed(*pieces: bytes) -> bytes:
    """A compressed message of these pieces, with its prefix."""
    octets = gzip.compress(b"".join(pieces))
    return b"\x01" + len(octets).to_bytes(4, "big") + octets


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    low, rest = value & 0x7F, value >> 7
    return bytes((low | 0x80,)) + varint(rest) if rest else bytes((low,))


TARGET = b"\x0a\x03\x0a\x01a"
TINY = b"\x18\x01" * (1 << 19)
LENGTH = varint(len(TINY))

BOMBS = {
    "in the envelope": (TARGET, TINY, b"\x12\x00"),
    "in the request": (TARGET, b"\x12" + LENGTH, TINY),
    "in the target": (b"\x0a" + LENGTH, TINY, b"\x12\x00"),
    "as targets": (TARGET * 200_000, b"\x12\x00"),
    "as requests": (TARGET, b"\x12\x02\x18\x01" * 200_000),
}


@pytest.mark.parametrize("pieces", BOMBS.values(), ids=BOMBS)
def test_a_compressed_message_of_tiny_fields_is_refused_before_they_are_looked_at(
    pieces: tuple[bytes, ...],
) -> None:
    reader = RequestReader("Embed", Shape.WRAPPED, 4, 64 << 20, encoding=b"gzip")
    with bounded(), pytest.raises(StatusError) as refused:
        list(reader.feed(packed(*pieces)))
    assert refused.value.code in (Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT)


def test_a_native_message_of_tiny_fields_is_refused_too() -> None:
    reader = RequestReader("Embed", Shape.PLAIN, 4, 64 << 20, encoding=b"gzip")
    with bounded(), pytest.raises(StatusError, match="more than"):
        list(reader.feed(packed(TINY)))


def test_a_target_of_tiny_fields_that_comes_first_is_refused_before_it_is_read() -> None:
    whole = b"\x0a" + LENGTH + TINY + b"\x12\x00"
    reader = RequestReader("Embed", Shape.WRAPPED, 4, 64 << 20)
    with bounded(200 * MAX_FIELDS), pytest.raises(StatusError, match="more than 32768 fields"):
        list(reader.feed(b"\0" + len(whole).to_bytes(4, "big") + whole))


def test_a_large_message_that_is_held_whole_is_not_walked_in_one_turn() -> None:
    whole = b"\x12\x00" + TINY + TARGET
    reader = RequestReader("Embed", Shape.WRAPPED, 4, 64 << 20)
    with bounded(200 * MAX_FIELDS), pytest.raises(StatusError, match="more than 32768 fields"):
        list(reader.feed(b"\0" + len(whole).to_bytes(4, "big") + whole))


@pytest.mark.parametrize("texts", [128, 20_000])
def test_a_compressed_batch_of_texts_passes(texts: int) -> None:
    """Equal ones up to four of TEI's default batches; as many as one likes that differ."""
    few = [b"the same text"] * texts if texts == 128 else map(b"%d".__mod__, range(texts))
    request = b"".join(b"\x12" + bytes((len(text),)) + text for text in few)
    reader = RequestReader("Rerank", Shape.WRAPPED, 6, 64 << 20, encoding=b"gzip")
    out = list(reader.feed(packed(TARGET, b"\x12", varint(len(request)), request)))
    assert out[1] == b"\0" + len(request).to_bytes(4, "big") + request


def test_windows_that_flap_in_one_frame_are_applied_once() -> None:
    """Thirty-two parameters in a frame, a thousand calls: only the last one can be seen outside."""
    server = greeted(answer=None, max_streams=1024)
    for number in range(1, 2048, 2):
        server.feed(request(number, end=False))
    server.take()
    flap = frames.pack_u32(0), frames.pack_u32(frames.LARGEST_WINDOW)
    payload = b"".join(b"\0\x04" + value for value in flap * 16)
    with bounded():
        server.feed(frames.frame(frames.SETTINGS, 0, 0, payload))
    assert not server.connection.closing
    assert {s.send_window for s in server.connection.streams.values()} == {frames.LARGEST_WINDOW}


def test_a_window_too_large_is_an_error_though_a_sound_one_follows() -> None:
    server = greeted()
    values = b"\0\x04\x80\0\0\0", b"\0\x04\0\0\xff\xff"
    server.feed(frames.frame(frames.SETTINGS, 0, 0, b"".join(values)))
    assert server.connection.error is not None
    assert server.connection.error.code == frames.ErrorCode.FLOW_CONTROL_ERROR


def test_a_connection_that_ends_in_peace_before_all_is_read_asks_for_no_further_turn() -> None:
    """Its shell turns for as long as there is a backlog, and would until the transport is cut."""
    server = greeted(answer=None, max_streams=1024)
    connection = server.connection
    connection.receive(b"".join(request(n) for n in range(1, 201, 2)), 0.0)
    assert connection.backlog
    connection.going = True
    for call in server.calls:
        reply(call)
    assert connection.closing
    connection.receive(b"", 0.0)
    assert not connection.backlog
