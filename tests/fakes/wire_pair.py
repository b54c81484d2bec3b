"""Two ends of an HTTP/2 connection in memory: sides on our `Connection`, and frames by hand.

A `Side` is a shell without sockets: it records what its connection tells it, and answers calls when
told to. Octets move only when a test moves them, so a test sees every step.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tei_manager.wire import frames, hpack
from tei_manager.wire.answers import client_heads
from tei_manager.wire.connection import Connection
from tei_manager.wire.headers import server_heads
from tei_manager.wire.stream import Stream
from tei_manager.wire.windows import WindowPool

OK_HEAD = hpack.STATUS_200 + hpack.literal(b"content-type", b"application/grpc")
OK_TRAILERS = hpack.literal(b"grpc-status", b"0")
BODY = b"a body of more than sixteen octets"

Fields = Iterable[tuple[bytes, bytes]]
REQUEST: tuple[tuple[bytes, bytes], ...] = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/tei.v1.Embed/Embed"),
    (b":authority", b"test"),
)


class Frame(NamedTuple):
    """One frame as it stood on the wire."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def parse(data: bytes) -> list[Frame]:
    """Return the frames of ``data``, which must end with a whole one."""
    found = []
    while data:
        high, low, kind, flags, stream_id = struct.unpack(">BHBBI", data[:9])
        stop = 9 + (high << 16 | low)
        assert stop <= len(data), "a frame is cut short"
        found.append(Frame(kind, flags, stream_id, data[9:stop]))
        data = data[stop:]
    return found


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """Return a header block of literals that no table remembers."""
    return b"".join(hpack.literal(name, value) for name, value in fields)


def request(stream_id: int, *fields: tuple[bytes, bytes], end: bool = True) -> bytes:
    """Return the HEADERS frame of a call with these further fields."""
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, block(*REQUEST, *fields))


def data(stream_id: int, payload: bytes = b"", end: bool = False) -> bytes:
    """Return a DATA frame."""
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)


def padded(stream_id: int, payload: bytes, padding: int, end: bool = False) -> bytes:
    """Return a DATA frame with ``padding`` octets of padding behind its length octet."""
    flags = frames.PADDED | (frames.END_STREAM if end else 0)
    return frames.frame(frames.DATA, flags, stream_id, bytes((padding,)) + payload + bytes(padding))


HELLO = frames.PREFACE + frames.settings({})
"""What the simplest client says first."""


class Recorder:
    """Owns one stream, and writes down what it is told."""

    def __init__(self, side: Side, stream: Stream, head: Any = None, end: bool = False) -> None:
        self.side, self.stream, self.head = side, stream, head
        self.calls: list[tuple[Any, ...]] = []
        self.body = b""
        self.ended = end
        self.reset: int | None = None
        self.trailers: Any = None
        self.sent_calls = 0

    def on_headers(self, head: Any, end: bool) -> None:
        """Keep the head, or the trailers."""
        self.calls.append(("headers", head.forward, end))
        if self.head is None:
            self.head = head
        else:
            self.trailers = head
        self._note_end(end)

    def on_data(self, data: bytes, end: bool) -> None:
        """Keep the payload, and give credit for it unless the side is slow."""
        self.calls.append(("data", data, end))
        self.body += data
        if self.side.gives_credit:
            self.side.connection.credit(self.stream, len(data))
        self._note_end(end)

    def on_reset(self, code: int, reason: str) -> None:
        """Keep the code."""
        assert self.reset is None, "told twice that the stream is gone"
        self.calls.append(("reset", code))
        self.reset = code
        self.side.over(self)

    def on_sent(self) -> None:
        """Count."""
        self.sent_calls += 1

    def _note_end(self, end: bool) -> None:
        assert not self.ended, "told something behind the end"
        self.ended = end
        if end and not self.side.connection.client:
            self.side.answer(self)


class Side:
    """One end of a connection, with everything that its connection tells it in ``log``.

    Args:
        client: Whether it opens calls.
        answer: What a server does with a call whose request is complete.
        max_streams: Calls that it takes at a time.
        gives_credit: Whether owners give credit for payload as it comes.
    """

    def __init__(
        self,
        client: bool,
        answer: Callable[[Recorder], None] | None = None,
        max_streams: int = 100,
        gives_credit: bool = True,
    ) -> None:
        self.dirty: list[Any] = []
        self.pool = WindowPool()
        self.gives_credit = gives_credit
        self.calls: list[Recorder] = []
        self.log: list[tuple[Any, ...]] = []
        self._answer = answer
        self.connection = Connection(
            self,
            client=client,
            dirty=self.dirty,
            pool=self.pool,
            heads=client_heads() if client else server_heads(),
            max_streams=max_streams,
        )
        self.connection.start()

    def on_request(self, stream: Stream, head: Any, end: bool) -> None:
        """Own the call, and answer it if it is complete."""
        call = Recorder(self, stream, head, end)
        stream.owner = call
        self.calls.append(call)
        self.log.append(("request", stream.id, head.path, head.forward, end))
        if end:
            self.answer(call)

    def on_settings(self) -> None:
        """Note it."""
        self.log.append(("settings",))

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Note it."""
        self.log.append(("goaway", last_stream_id, code, debug))

    def on_ping_ack(self, payload: bytes) -> None:
        """Note it."""
        self.log.append(("ping_ack", payload))

    def on_whole_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Want everything frame by frame."""
        return False

    def flush(self) -> None:
        """Do nothing: the test takes the octets when it wants them."""

    def answer(self, call: Recorder) -> None:
        """Do with a complete call what this side does with them."""
        if self._answer is not None:
            self._answer(call)
            self.over(call)

    def over(self, call: Recorder) -> None:
        """Free the slot of a call."""
        if not self.connection.client and call in self.calls:
            self.connection.release_slot()

    def feed(self, octets: bytes, now: float = 0.0) -> None:
        """Give octets to the connection, in as many turns as it takes."""
        self.connection.receive(octets, now)
        while self.connection.backlog and not self.connection.closing:
            self.connection.receive(b"", now)

    def take(self) -> bytes:
        """Take what it wants written, as a shell does that was told by the dirty list."""
        assert bool(self.dirty) >= bool(self.connection.out), "octets that nobody would flush"
        self.dirty.clear()
        return self.connection.take()

    def open(self, end: bool = False, fields: Fields = REQUEST) -> Recorder:
        """Start a call as a client."""
        stream = self.connection.open_stream()
        call = Recorder(self, stream)
        stream.owner = call
        self.calls.append(call)
        self.connection.send_headers(stream, block(*fields), end)
        return call

    def state(self) -> dict[str, Any]:
        """Return what the connection holds for streams; all of it is zero when none is open."""
        connection = self.connection
        return {
            "streams": len(connection.streams),
            "ready": len(connection.ready),
            "held": len(connection.held),
            "queued": self.pool.queued,
            "borrowed": WindowPool().free - self.pool.free,
            "slots": connection.slots,
        }


IDLE = {"streams": 0, "ready": 0, "held": 0, "queued": 0, "borrowed": 0, "slots": 0}


def reply(call: Recorder, body: bytes = BODY) -> None:
    """Answer a call with a head, a body and trailers."""
    connection = call.side.connection
    connection.send_headers(call.stream, OK_HEAD, False)
    connection.send_data(call.stream, body, False)
    connection.send_headers(call.stream, OK_TRAILERS, True)


def reply_http(call: Recorder) -> None:
    """Answer as plain HTTP does: a head, and a body that ends the stream."""
    call.side.connection.send_headers(call.stream, OK_HEAD, False)
    call.side.connection.send_data(call.stream, BODY, True)


def settle(one: Side, other: Side) -> None:
    """Carry octets both ways until neither side has any."""
    while one.connection.out or other.connection.out:
        other.feed(one.take())
        one.feed(other.take())


def pair(**server: Any) -> tuple[Side, Side]:
    """Return a client and a server that have said hello."""
    client, other = Side(client=True), Side(client=False, **{"answer": reply, **server})
    settle(client, other)
    return client, other


def greeted(**server: Any) -> Side:
    """Return a server that has heard the simplest client's hello, its own octets taken."""
    side = Side(client=False, **{"answer": reply_http, **server})
    side.feed(HELLO)
    side.take()
    return side
