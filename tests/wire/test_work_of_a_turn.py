"""What a few octets can make a connection do: bytecodes, which need no clock.

Whoever sends as many octets as another must not get a hundred times the work for it. A plain run of
the smallest messages is the measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from wire_pair import Side, data, greeted, request

from benchmarks.opcodes import _counting

READ = 16 << 10
SMALL = data(1, b"\0\0\0\0\0")
"""The smallest frame that may hold a message."""

FLOOD = SMALL * (READ // len(SMALL))
MOST = 500_000
"""Bytecodes that so many octets may take; a plain run of these frames takes 90,000."""


@contextmanager
def bounded() -> Iterator[None]:
    """Hold the body against `MOST`."""
    with _counting() as found:
        yield
    assert found.total() < MOST


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
