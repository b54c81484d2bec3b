"""Calls of methods that are not ours, passed on as they come (``--passthrough any``).

Theory
    Of such a call nothing but its headers is read. The metadata or the default says where it goes,
    so its stream at the instance is opened at HEADERS: a client may well wait for the server's
    first word. Whether the method is unary or a stream nobody here knows, and nobody needs to:
    octets go through both ways, prefixes, flags and encodings untouched, under the windows of any
    other call, so that no message is ever held whole.

What our own calls have and these do not
    A limit for a message's size, a first message that is waited for, a cap on messages that are
    not answered, and ``request_timeout_secs``: an endless stream begins as a unary call does.

Rules of this file
    1. A path that goes on is held to what may stand in one: it is written on a connection that all
       callers share.
    2. Services that are answered here are never asked of an instance, by no method of theirs.
    3. HEADERS alone cost the instance a stream. What a client can make of that is bounded by its
       slots, by its budget of resets, and by the young resets that `upstream` lets through.
"""

from __future__ import annotations

import re

from tei_manager.grpc.methods import METHODS, Kind, Method, Shape
from tei_manager.grpc.status import StatusError
from tei_manager.mux.backends import Backend
from tei_manager.mux.local import SERVICES
from tei_manager.mux.relay import Relay
from tei_manager.mux.switch import Switch
from tei_manager.wire.answers import ResponseHead
from tei_manager.wire.connection import Connection
from tei_manager.wire.headers import RequestHead
from tei_manager.wire.stream import Stream

# What may stand in a path: RFC 3986 3.3, without a query, which gRPC has no meaning for.
_PATH = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]+")

_OUR_SERVICES = {path.encode().split(b"/")[1] for path in METHODS} | {
    path.split(b"/")[1] for path in SERVICES
}

# What stands in for the row that such a method has not: the widest kind, and one name in metrics.
_OTHER = Method("other", Kind.BIDI, Shape.PLAIN, "", 0, "", "other")


def passes(path: bytes) -> bool:
    """Say whether a method without a row in the table may be asked of an instance."""
    return _PATH.fullmatch(path) is not None and path.split(b"/")[1] not in _OUR_SERVICES


class OpaqueRelay(Relay):
    """A call of any kind whose messages nobody looks at; see `Call` for its arguments."""

    __slots__ = ()

    def __init__(
        self, switch: Switch, connection: Connection, stream: Stream, head: RequestHead
    ) -> None:
        super().__init__(switch, connection, stream, head, _OTHER)

    def begin(self, end: bool) -> None:
        """Own the stream and open its like at the instance; ``end`` if no message follows."""
        self.stream.owner = self
        try:
            self.open(self.switch.director.native(self.head.targets))
        except StatusError as error:
            self.refuse(error.code, error.message)
        if end:
            self.send(b"", True)

    def on_data(self, data: bytes, end: bool) -> None:
        """Pass octets on to the instance; an empty frame that ends nothing is no burden for it."""
        if data or end:
            self.send(data, end)
        if not end:
            self.credit_client(len(data))

    def end_if_silent(self) -> None:
        """Wait on: it may be the server's turn to speak."""

    def block(self, backend: Backend) -> bytes:
        """Ask for the path that the client asked for, and for messages coded as it says."""
        return backend.opening(self.head.path or b"") + self.head.opaque

    def beginning(self, head: ResponseHead) -> bytes:
        """Tell the client, too, which encodings the instance can unpack."""
        return super().beginning(head) + head.opaque
