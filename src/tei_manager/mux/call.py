"""What every call from a client has, whoever answers it: a slot, a deadline, one end.

Flow control
    Octets are credited to the side that sent them when the other side's connection took them:
    at once if nothing of the stream is queued there, else as its queue drains. What is not passed
    on (targets, prefixes, padding) is credited on receipt. A message that must be held whole is
    credited as well, or it could not become whole; the reader's own limit and the worker's memory
    mark bound it.

Rules of this file
    1. `finish` acts exactly once for each call, whatever happens, and counts it.
    2. The slot at the client is released when nothing of the call is left at the instance.
    3. No reference cycle outlives the call: a finished call owns no stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tei_manager.grpc.methods import Kind, Method, Shape
from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.exchange import Exchange
from tei_manager.routes import Route
from tei_manager.wire.answers import ResponseHead
from tei_manager.wire.connection import Connection
from tei_manager.wire.envelope import RequestReader
from tei_manager.wire.headers import ANSWER, RequestHead, status_trailers
from tei_manager.wire.stream import NOBODY, Stream

if TYPE_CHECKING:
    from tei_manager.mux.backends import Backend
    from tei_manager.mux.switch import Switch


MESSAGE_COST = 8
COMPRESSED_COST = 128
"""What an odd message, and a frame of a compressed one, cost beside a frame of any kind, of which a
connection acts on `wire.connection.MAX_FRAMES` in a turn: ten microseconds, and up to nine
milliseconds, as four megabytes take to inflate."""

SMALL_METADATA = 512
"""Octets of metadata that are not counted: twice what clients send with a trace and a token."""


class Call:
    """A call of a method of the multiplexer; subclasses read its messages and make its answer.

    It owns the client's stream (`wire.stream.StreamOwner`) and is the sink of an exchange.

    Args:
        switch: What all connections of the worker share.
        connection: The client's connection.
        stream: The call's stream on it, with a slot taken.
        head: The request's headers.
        method: The method that was called.
    """

    __slots__ = (
        "_owed",
        "_tick",
        "answered",
        "connection",
        "deadline",
        "done",
        "exchange",
        "head",
        "large",
        "messages",
        "method",
        "owed_back",
        "reader",
        "route",
        "started",
        "stream",
        "switch",
        "target",
    )

    def __init__(
        self,
        switch: Switch,
        connection: Connection,
        stream: Stream,
        head: RequestHead,
        method: Method,
    ) -> None:
        self.switch = switch
        self.connection = connection
        self.stream = stream
        self.head = head
        self.method = method
        self.started = switch.now
        self.answered = False
        self.done = False
        self.exchange: Exchange | None = None
        self.route: Route | None = None
        self.target: bytes | None = None
        self.messages = 0
        self.reader: RequestReader | None = None
        self.deadline: float | None = None
        self._owed = 0
        self.owed_back = 0
        self._tick = 0
        self.large = 0
        if len(head.forward) > SMALL_METADATA:
            self._hold_metadata(len(head.forward))
        timeout = head.timeout
        if timeout is None and method.kind is Kind.UNARY:
            timeout = switch.options.request_timeout_secs or None
        if timeout is not None:
            self.deadline = self.started + timeout
            self._tick = switch.deadlines.add(self, self.deadline)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method.name} on {self.stream}>"

    @property
    def held(self) -> int:
        """Octets of a message that the client has not sent whole."""
        return self.reader.held if self.reader is not None else 0

    def on_data(self, data: bytes, end: bool) -> None:
        """Read the client's octets; subclasses say how."""
        raise NotImplementedError

    def on_headers(self, head: RequestHead, end: bool) -> None:
        """Take a client's trailers for what they are: its half-close."""
        self.on_data(b"", True)

    def on_reset(self, code: int, reason: str) -> None:
        """End the call at the instance at once; never as if the client had finished."""
        self.finish(Code.CANCELLED)

    def on_sent(self) -> None:
        """The client took some of its answer; subclasses let the instance go on."""

    def on_answer(self, head: ResponseHead) -> None:
        """The instance began to answer; subclasses say what becomes of it."""
        raise NotImplementedError

    def on_bytes(self, data: bytes) -> None:
        """Part of the answer came."""
        raise NotImplementedError

    def on_end(self, head: ResponseHead) -> None:
        """The instance ended the call."""
        raise NotImplementedError

    def on_whole_answer(self, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Take an answer in pieces, unless a subclass can do better."""
        return False

    def on_failure(self, code: Code, message: str, more: bytes) -> None:
        """Tell the client why there will be no answer."""
        self.refuse(code, message, more)

    def on_room(self) -> None:
        """Let the client go on: the instance took some of its request."""
        self.credit_client(0)

    def on_gone(self) -> None:
        """Free the client's slot: the instance holds nothing of the call any more."""
        self.exchange = None
        self.connection.release_slot()

    def expire(self) -> None:
        """End the call: its deadline has passed."""
        self._tick = 0
        self.switch.now = max(self.switch.now, self.deadline or 0.0)
        self.refuse(Code.DEADLINE_EXCEEDED, "")
        self.switch.flush_soon()

    def end_if_silent(self) -> None:
        """End the call if its first message has not come; asked when that is overdue."""
        if not self.messages:
            seconds = self.switch.options.first_message_secs
            message = f"{self.method.name}: no message within {seconds:g} seconds"
            self.refuse(Code.UNAVAILABLE, message)

    def refuse(self, code: Code, message: str, more: bytes = b"") -> None:
        """End the call with a status of our own; ``more`` are further trailers."""
        if self.done:
            return
        trailers = status_trailers(code, message) + more
        block = trailers if self.answered else ANSWER + trailers
        self.connection.send_headers(self.stream, block, True)
        self.finish(code)

    def begin_message(self, target: bytes | None) -> None:
        """Route the call by its first message, and hold every later one against that.

        Raises:
            StatusError: The first target names no instance, or a later one not that instance.
        """
        self.messages += 1
        if self.route is None:
            director = self.switch.director
            if self.method.shape is Shape.PLAIN:
                self.open(director.native(self.head.targets))
            else:
                self.open(director.resolve(target))
                self.target = target
        elif self.method.kind is Kind.UNARY:
            raise StatusError(Code.INTERNAL, f"{self.method.name} takes one message, not more")
        elif target and target != self.target and not self._follows(target, self.route):
            message = f"This stream has one instance, '{self.route.name}'; a message names another"
            raise StatusError(Code.INVALID_ARGUMENT, message)

    def _follows(self, target: bytes, route: Route) -> bool:
        return self.switch.director.follows(target, route)

    def ask(self, target: bytes, data: bytes) -> None:
        """Route a call that is one message, and send that; raises as `begin_message` does."""
        self.messages = 1
        self.target = target
        director = self.switch.director
        native = self.method.shape is Shape.PLAIN
        route = director.native(self.head.targets) if native else director.resolve(target)
        self.open(route, data)

    def open(self, route: Route, question: bytes = b"") -> None:
        """Start the exchange with an instance, with all that it is asked if that is known."""
        self.route = route
        switch, method, head = self.switch, self.method, self.head
        backend = switch.backends[route.name]
        switch.counters.routed(route.name, method.label)
        deadline = self.deadline if head.timeout is not None else None
        block = self.block(backend) + head.forward
        self.exchange = exchange = Exchange(backend, self, block, deadline, question)
        backend.submit(exchange)

    def block(self, backend: Backend) -> bytes:
        """Return the header block of the request to an instance, less the metadata."""
        return backend.block(self.method)

    def send(self, data: bytes, end: bool) -> None:
        """Send octets to the instance, if the call still goes there."""
        if self.exchange is not None and not self.done:
            self.exchange.send(data, end)

    def credit_client(self, octets: int) -> None:
        """Let the client send ``octets`` more, less what still waits for the instance."""
        self._owed += octets
        waiting = self.exchange.queued if self.exchange is not None else 0
        give = self._owed - waiting
        if give > 0:
            self._owed -= give
            self.connection.credit(self.stream, give)

    def check_half_close(self, reader: RequestReader) -> None:
        """Raise `StatusError` where a client may not half-close."""
        if not reader.at_boundary:
            raise StatusError(Code.INVALID_ARGUMENT, "The request ends inside a message")
        if not self.messages:
            empty = "empty stream" if self.method.kind is not Kind.UNARY else "no request message"
            raise StatusError(Code.INVALID_ARGUMENT, f"{self.method.name}: {empty}")

    def is_late(self, code: int) -> bool:
        """Say whether an instance's status is only its way to say that the time is up."""
        if code != Code.CANCELLED or self.deadline is None:
            return False
        return self.switch.now >= self.deadline

    def finish(self, code: int) -> None:
        """End the call on our side, whatever is left of it at the instance; count it."""
        if self.done:
            return
        self.done = True
        self.stream.owner = NOBODY
        switch = self.switch
        if self._tick:
            switch.deadlines.remove(self, self._tick)
        if self.large:
            self._hold_metadata(-self.large)
        if self.reader is not None:
            switch.pool.queued -= self.reader.held
            self.reader = None
        instance = self.route.name if self.route is not None else ""
        seconds = switch.now - self.started
        switch.counters.finished(self.method.label, code, seconds, instance)
        exchange = self.exchange
        if exchange is None:
            self.connection.release_slot()
        elif not exchange.over:
            exchange.cancel()

    def count_work(self, messages: int) -> None:
        """Say what was done, so that others have their turn; ``messages`` are those that began."""
        packed = self.head.encoding != b"identity"
        self.connection.work += MESSAGE_COST * messages + (COMPRESSED_COST if packed else 0)

    def _hold_metadata(self, octets: int) -> None:
        """Count metadata that is kept while the call lasts; see `listener.MAX_METADATA`."""
        self.large += octets
        self.connection.held_metadata += octets
        self.switch.pool.queued += octets
