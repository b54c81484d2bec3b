"""Flow-control windows: how much a peer may send us, and how much of a backend one stream may hold.

Theory
    A *connection* window is refilled as soon as bytes arrive, whoever they are for: held back, it
    would let one slow stream stop all others of the connection. A *stream* window is refilled only
    when the other side of the proxy took the bytes. So what a worker holds is bounded by
    streams x stream window, and a slow reader slows its own stream and nobody else's.

    A stream starts with the protocol's 65,535 octets. A stream that has moved a whole window is a
    long one, and its window doubles, up to 1 MiB, as long as the worker's shared pool of extra
    window lasts; what it borrowed goes back to the pool when it ends.

    Credit is given back in halves of a window, not per frame. A short call never has any.

Holding a backend
    HTTP/2 lets one stream use up the whole connection window, and TEI's stream window equals its
    connection window: a stream whose messages the model is slow to take would stop every other
    call to that backend. So a stream that has more than a quarter of the connection window
    outstanding goes on only while half of that window is free (`may_hold`). A quarter alone would
    be a deadlock: peers give stream credit back after a third (h2) or a half (C-core, nghttp2) of
    a window.

Known flaws
    Beside a stream that the backend takes nothing of, another one stops at a good quarter of the
    connection window, since that is less than the backend waits for before it gives stream credit.
    Short calls pass, long ones of the same connection wait for the first; four stalled streams
    leave room for none. So `mux.backends` gives calls that come later another connection.
"""

from __future__ import annotations

from tei_manager.wire.frames import DEFAULT_WINDOW

CONNECTION_WINDOW = 4 << 20
"""What we let a connection have in flight. It bounds nothing, since it is refilled on receipt; so
it is large enough that refilling is rare (a frame in two MiB)."""

STREAM_WINDOW = DEFAULT_WINDOW
LARGEST_STREAM_WINDOW = 1 << 20
"""Bandwidth-delay product of 10 Gbit/s at 0.8 ms; hyper's and nghttp2's default is the same."""


EXTRA_WINDOW = 3 << 20
"""Octets by which all streams of a worker together may exceed `STREAM_WINDOW`. A reader that stops
keeps what it borrowed, so this, beside 64 KiB a stream, is what slow readers can take. Three long
streams have a megabyte, and without it 64 KiB still make 64 MB/s at a millisecond."""


class WindowPool:
    """What all streams of a worker share: extra window, and the count of what they hold.

    Args:
        size: Octets by which all streams together may exceed `STREAM_WINDOW`.

    ``queued`` counts the octets that wait in streams' queues and in messages held whole; a worker
    near its memory limit takes no new calls.
    """

    __slots__ = ("free", "queued")

    def __init__(self, size: int = EXTRA_WINDOW) -> None:
        self.free = size
        self.queued = 0

    def borrow(self, octets: int) -> int:
        """Return how many of ``octets`` may be borrowed, and take them."""
        taken = min(octets, self.free)
        self.free -= taken
        return taken

    def give_back(self, octets: int) -> None:
        """Return what was borrowed."""
        self.free += octets


def may_hold(outstanding: int, free: int, whole: int) -> bool:
    """Say whether a stream with ``outstanding`` octets may send more on a connection.

    Args:
        outstanding: Octets sent on the stream for which the peer gave no stream credit yet.
        free: What is left of the connection window.
        whole: The largest that this connection window has been.
    """
    return outstanding * 4 <= whole or free * 2 >= whole
