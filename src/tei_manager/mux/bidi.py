"""One call of a bidirectional method: a relay that keeps count of what is not answered yet.

Theory
    An instance takes every message of a stream as it comes and queues the answers without bound;
    and while the messages of one stream hold all its permits, it refuses everybody's unary calls.
    So at most ``Options.max_unanswered`` messages of a call are at the instance. What the client
    sends beyond them is held here, as raw octets, and the client gets no credit for it until
    answers let it through. It can send no more than its stream window, so that is the bound.

    Both directions are counted by prefixes alone. A message counts from its first octet on. An
    answer that has begun frees the place of a message: the instance has taken it off its queue.

No deadlock
    What is held begins at the start of a message, and every message before it was passed on whole,
    with credit given as for any call. So the instance has as many whole messages as the cap says,
    and nothing that it may be waiting for is held back. An instance that answers only after more
    messages than that is not one of TEI's.
"""

from __future__ import annotations

from tei_manager.grpc.methods import Method
from tei_manager.grpc.status import StatusError
from tei_manager.mux.relay import Relay
from tei_manager.mux.switch import Switch
from tei_manager.wire.connection import Connection
from tei_manager.wire.headers import RequestHead
from tei_manager.wire.messages import MessageCounter
from tei_manager.wire.stream import Stream


class BidiRelay(Relay):
    """A call of a bidirectional method; see `Call` for its arguments."""

    __slots__ = ("_answers", "_cap", "_half_closed", "_held", "_passed")

    def __init__(
        self,
        switch: Switch,
        connection: Connection,
        stream: Stream,
        head: RequestHead,
        method: Method,
    ) -> None:
        super().__init__(switch, connection, stream, head, method)
        self._cap = switch.options.max_unanswered
        self._passed = MessageCounter()
        self._answers = MessageCounter()
        self._held: bytearray | None = None  # one buffer: a client may send an octet a frame
        self._half_closed = False  # the client's half-close is behind what is held

    def on_data(self, data: bytes, end: bool) -> None:
        """Pass on what the cap allows, and hold the rest."""
        if self._held:
            self._hold(data, end)
            return
        passed = self._passed
        if self.route is None:  # the first message alone, since it says where all of them go
            first = passed.feed(data, 1 - passed.count)  # it may have begun in an earlier frame
            if first == len(data):
                Relay.on_data(self, data, end)
                return
            Relay.on_data(self, data[:first], False)
            if self.done:
                return
            data = data[first:]
        size = passed.feed(data, self._cap + self._answers.count - passed.count)
        if size == len(data):
            Relay.on_data(self, data, end)
            return
        if size:
            Relay.on_data(self, data[:size], False)
        if not self.done:
            self._hold(data[size:], end)

    def on_bytes(self, data: bytes) -> None:
        """Pass on part of the answer, and let through as many messages as it answers."""
        Relay.on_bytes(self, data)
        answers = self._answers
        answers.feed(data)
        if answers.count > self._passed.count:  # answers to nothing buy no place
            answers.count = self._passed.count
        if self._held:
            self._release()

    def finish(self, code: int) -> None:
        """Drop what is held, then end the call as any other."""
        if self._held:
            self.switch.pool.queued -= len(self._held)
            self._held.clear()
        super().finish(code)

    def _hold(self, data: bytes, end: bool) -> None:
        if self._held is None:
            self._held = bytearray()
        self._held += data
        self._half_closed = end
        self.switch.pool.queued += len(data)
        try:
            self.switch.check_memory()
        except StatusError as error:
            self.refuse(error.code, error.message)

    def _release(self) -> None:
        """Pass on what is held, a message at a time, and give credit for that alone."""
        held, passed = self._held, self._passed
        while held and passed.count - self._answers.count < self._cap:
            size = passed.feed(held, 1)
            data = bytes(held[:size])
            del held[:size]
            self.switch.pool.queued -= size
            Relay.on_data(self, data, self._half_closed and not held)
