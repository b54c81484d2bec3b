"""Calls that are answered here and not at an instance: health and reflection.

A local service is shaped like a backend stream: messages, half-close and cancel go in, messages
and a status come out, and nothing of it waits. Each method is a class made for one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux import health
from tei_manager.mux.call import MESSAGE_COST
from tei_manager.wire import messages
from tei_manager.wire.connection import Connection
from tei_manager.wire.headers import ANSWER, RequestHead, status_trailers
from tei_manager.wire.stream import NOBODY, Stream

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

MAX_MESSAGE = 4 << 10
"""Octets of one request message, compressed or not: these services take names, not texts."""

MAX_UNREAD = 1 << 20
"""Octets of answers that may wait for a client that does not read them."""


class LocalMethod(Protocol):
    """One call of a method that is served here."""

    def on_message(self, message: bytes) -> None:
        """A request message came. Raises `StatusError` to end the call."""

    def on_half_close(self) -> None:
        """The client sends no more messages."""

    def on_cancel(self) -> None:
        """The call is over, for whatever reason; nothing may be sent any more."""


class LocalCall:
    """A call that is served here: owns the client's stream.

    Args:
        switch: What all connections of the worker share.
        connection: The client's connection.
        stream: The call's stream on it, with a slot taken.
        head: The request's headers.
        serve: Makes the method that serves this call.
    """

    __slots__ = (
        "_answered",
        "_connection",
        "_done",
        "_held",
        "_method",
        "_reader",
        "_silent",
        "_stream",
        "switch",
    )

    def __init__(
        self,
        switch: Switch,
        connection: Connection,
        stream: Stream,
        head: RequestHead,
        serve: Callable[[LocalCall], LocalMethod],
    ) -> None:
        self.switch = switch
        self._connection = connection
        self._stream = stream
        self._reader = messages.MessageReader(MAX_MESSAGE, head.encoding)
        self._answered = False
        self._done = False
        self._held = 0  # octets of a message that is not whole, as far as they are counted
        self._silent = True  # no message has come yet
        self._method: LocalMethod = serve(self)

    def on_data(self, data: bytes, end: bool) -> None:
        """Hand whole messages to the method."""
        try:
            for message in self._read(data):
                if not self._done:
                    self._silent = False
                    self._method.on_message(message)
            if end and not self._done:
                if not self._reader.at_boundary:
                    raise StatusError(Code.INVALID_ARGUMENT, "The request ends inside a message")
                self._method.on_half_close()
        except StatusError as error:
            self.finish(error.code, error.message)
        if not self._done:
            self._connection.credit(self._stream, len(data))

    def on_headers(self, head: RequestHead, end: bool) -> None:
        """Take trailers for a half-close."""
        self.on_data(b"", True)

    def on_reset(self, code: int, reason: str) -> None:
        """Stop serving."""
        self._over(Code.CANCELLED)

    def on_sent(self) -> None:
        """Nothing waits for room here."""

    def end_if_silent(self) -> None:
        """End the call if its first message has not come; asked when that is overdue."""
        if self._silent:
            seconds = self.switch.options.first_message_secs
            self.finish(Code.UNAVAILABLE, f"no message within {seconds:g} seconds")

    def send(self, message: bytes) -> None:
        """Send one message; a client that never reads is cut off at `MAX_UNREAD`.

        So is one at the worker's memory limit: an answer has 200 times the octets of its question,
        and calls that were begun before are not stopped by what new ones are refused for.
        """
        if self._done:
            return
        short = self.switch.pool.queued > self.switch.memory_mark
        if self._stream.queued > (0 if short else MAX_UNREAD):
            self.finish(Code.RESOURCE_EXHAUSTED, "Answers are not read")
            return
        if not self._answered:
            self._answered = True
            self._connection.send_headers(self._stream, ANSWER, False)
        self._connection.send_data(self._stream, messages.frame(message), False)

    def finish(self, code: Code, message: str = "") -> None:
        """End the call with a status."""
        if self._done:
            return
        trailers = status_trailers(code, message)
        self._connection.send_headers(
            self._stream, trailers if self._answered else ANSWER + trailers, True
        )
        self._over(code)

    def _read(self, data: bytes) -> list[bytes]:
        """Return the messages that are whole now, and count what is held of the next."""
        found = self._reader.feed(data)
        self._connection.work += MESSAGE_COST * len(found)
        held = self._reader.held
        self.switch.pool.queued += held - self._held
        self._held = held
        if held:
            self.switch.check_memory()
        return found

    def _over(self, code: Code) -> None:
        if self._done:
            return
        self._done = True
        self._stream.owner = NOBODY
        method, self._method = self._method, _OVER  # or each would keep the other alive
        method.on_cancel()
        self.switch.pool.queued -= self._held
        self._connection.release_slot()
        self.switch.counters.finished("local", code, 0.0)


class _Over:
    """What stands in the place of a method whose call is over."""

    def on_message(self, message: bytes) -> None: ...

    def on_half_close(self) -> None: ...

    def on_cancel(self) -> None: ...


_OVER = _Over()


def _reflection(call: LocalCall) -> LocalMethod:
    # Loads the protobuf runtime, which a worker needs for nothing else on most days.
    from tei_manager.mux.reflection import ServerReflection

    return ServerReflection(call)


SERVICES: dict[bytes, Callable[[LocalCall], LocalMethod]] = {
    b"/grpc.health.v1.Health/Check": health.Check,
    b"/grpc.health.v1.Health/Watch": health.Watch,
    b"/grpc.health.v1.Health/List": health.List,
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _reflection,
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _reflection,
}
"""What is answered here, by path."""
