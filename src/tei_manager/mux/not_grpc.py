"""Requests that are no gRPC calls: read for as long as is polite, and told what this port is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tei_manager.grpc.status import Code
from tei_manager.wire import hpack
from tei_manager.wire.connection import Connection
from tei_manager.wire.frames import ErrorCode
from tei_manager.wire.stream import NOBODY, Stream
from tei_manager.wire.windows import STREAM_WINDOW

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

HEAD = (
    hpack.literal(b":status", b"415")
    + hpack.literal(b"content-type", b"text/plain; charset=utf-8")
    + hpack.literal(b"accept", b"application/grpc")
)
TEXT = b"This port speaks gRPC: POST with content-type application/grpc.\n"

BODY_SECONDS = 30.0
"""How long the request's body may take to arrive."""

MAX_BODY = STREAM_WINDOW // 2
"""Octets of a body that are waited for; a longer one is answered before its end (RFC 9113 8.1),
so that nobody has its octets carried for nothing. No more than the window is ever received."""


class NotGrpc:
    """One such request: owns the client's stream.

    Args:
        switch: What all connections of the worker share.
        connection: The client's connection.
        stream: The request's stream on it, with a slot taken.
    """

    __slots__ = ("_connection", "_read", "_stream", "_switch", "_tick")

    def __init__(self, switch: Switch, connection: Connection, stream: Stream) -> None:
        self._switch = switch
        self._connection = connection
        self._stream = stream
        self._read = 0
        self._tick = switch.deadlines.add(self, switch.now + BODY_SECONDS)
        switch.rejected("not_grpc", Code.UNKNOWN)

    def on_headers(self, head: Any, end: bool) -> None:
        """Take trailers for the end that they are."""
        self._answer()

    def on_data(self, data: bytes, end: bool) -> None:
        """Read on, and answer at the end, or where it takes too long to come to one."""
        self._read += len(data)
        if end or self._read > MAX_BODY:
            self._answer()

    def on_reset(self, code: int, reason: str) -> None:
        """Forget it."""
        self._over()

    def on_sent(self) -> None:
        """Nothing waits for room here."""

    def expire(self) -> None:
        """Give up on a body that does not come."""
        self._over()
        self._connection.reset(self._stream, ErrorCode.CANCEL)

    def _answer(self) -> None:
        self._over()
        self._connection.send_headers(self._stream, HEAD, False)
        self._connection.send_data(self._stream, TEXT, True)

    def _over(self) -> None:
        self._switch.deadlines.remove(self, self._tick)
        self._stream.owner = NOBODY
        self._connection.release_slot()
