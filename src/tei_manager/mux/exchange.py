"""One call at an instance: its stream there, from the wait for a connection to the very end.

Theory
    An exchange has a *sink*, the caller's side, to which it reports everything; it never looks at
    what it carries. It is over for the sink as soon as an outcome is known, but *gone* only when
    the backend's stream is gone: ended by the backend, or reset by us and a PING behind the reset
    answered. A client's slot is free only then, so that no client can have more calls running at
    an instance than it is allowed to have, whatever it resets (CVE-2023-44487, and what followed).

Retry
    A call may be sent a second time only if the instance cannot have acted on it: refused with
    REFUSED_STREAM, or above the last stream of a GOAWAY. For that the first 16 KiB are kept until
    the backend's first frame; a call that has sent more is not replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tei_manager.grpc.status import Code, from_http, from_reset
from tei_manager.wire import hpack
from tei_manager.wire.answers import ResponseHead
from tei_manager.wire.frames import ErrorCode
from tei_manager.wire.metadata import format_timeout
from tei_manager.wire.stream import Stream

if TYPE_CHECKING:
    from tei_manager.mux.backends import Backend
    from tei_manager.mux.upstream import Upstream

MAX_REPLAY = 16 << 10
"""Octets of a call that are kept for a second try (design.md 6.5)."""


class Sink(Protocol):
    """The caller's side of an exchange. After `on_end` or `on_failure` only `on_gone` follows."""

    def on_answer(self, head: ResponseHead) -> None:
        """The instance began to answer."""

    def on_bytes(self, data: bytes) -> None:
        """Part of the answer came; give `Exchange.credit` for it once it is passed on."""

    def on_end(self, head: ResponseHead) -> None:
        """The instance ended the call; ``head`` has its status."""

    def on_whole_answer(self, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """The instance answered, and ended the call with OK; False if it must come in pieces."""

    def on_failure(self, code: Code, message: str, more: bytes) -> None:
        """The call failed on the way to the instance or back; ``more`` are further trailers."""

    def on_room(self) -> None:
        """Octets of the request went out; `Exchange.queued` says how many still wait."""

    def on_gone(self) -> None:
        """Nothing of the call is left at the instance."""


class Exchange:
    """One call at one instance.

    Args:
        backend: The instance.
        sink: The caller's side.
        block: The request's header block, without grpc-timeout.
        deadline: When the *caller's* time is up, on the monotonic clock; sent to the instance as
            what is left of it. None if the caller set none.
        question: All that the instance is asked, if that is known already; else `send` follows.
    """

    __slots__ = (
        "_held",
        "_replay",
        "answered",
        "backend",
        "block",
        "deadline",
        "ended",
        "endpoint",
        "is_gone",
        "over",
        "retried",
        "sink",
        "stream",
    )

    def __init__(
        self,
        backend: Backend,
        sink: Sink,
        block: bytes,
        deadline: float | None,
        question: bytes = b"",
    ) -> None:
        self.backend = backend
        self.sink: Sink | None = sink
        self.block = block
        self.deadline = deadline
        self.endpoint: Upstream | None = None
        self.stream: Stream | None = None
        self.answered = False
        self.ended = bool(question)
        self.over = False
        self.is_gone = False
        self.retried = False
        self._replay: list[bytes] | None = [question] if question else []
        self._held = len(question)
        backend.in_flight += 1

    def __repr__(self) -> str:
        return f"<Exchange with {self.backend.route.name!r} on {self.stream}>"

    @property
    def young(self) -> bool:
        """Whether the instance has shown no sign yet that it took the call."""
        return not self.answered

    @property
    def queued(self) -> int:
        """Octets of the request that wait here."""
        return self._held if self.stream is None else self.stream.queued

    def send(self, data: bytes, end: bool) -> None:
        """Send framed messages; ``end`` is the caller's half-close. Never refused, never blocks."""
        replay = self._replay
        if replay is not None:
            self._held += len(data)
            replay.append(data)
            if self._held > MAX_REPLAY and self.stream is not None:
                self._replay = None
        self.ended = end
        if self.stream is not None and self.endpoint is not None:
            self.endpoint.connection.send_data(self.stream, data, end)

    def attach(self, endpoint: Upstream) -> None:
        """Open the stream on a connection and send what waits."""
        connection = endpoint.connection
        self.endpoint = endpoint
        pieces = self._replay or ()
        block = self.block if self.deadline is None else self.block + self._timeout(self.deadline)
        self.stream = stream = connection.open_stream()
        stream.owner = self
        if self.ended and len(pieces) == 1 and connection.send_question(stream, block, pieces[0]):
            return
        connection.send_headers(stream, block, False)
        last = len(pieces) - 1
        for position, data in enumerate(pieces):
            connection.send_data(stream, data, self.ended and position == last)
        if self._held > MAX_REPLAY:
            self._replay = None
        if pieces and self.sink is not None:
            self.sink.on_room()  # what waited here went out, or is in the stream's queue now

    def credit(self, octets: int) -> None:
        """Let the instance send ``octets`` more, since the caller's side took as many."""
        if self.stream is not None and self.endpoint is not None:
            self.endpoint.connection.credit(self.stream, octets)

    def cancel(self) -> None:
        """End the call here and at the instance; the sink hears only `on_gone` from now on."""
        if self.over:
            return
        self.over = True
        self._replay = None
        self.block = b""
        if self.endpoint is None or self.stream is None:
            self.backend.withdraw(self)
            self.gone()
        else:
            self.endpoint.cancel(self, self.stream)

    def fail(self, code: Code, message: str, more: bytes = b"") -> None:
        """End the call: nothing of it is at the instance, or its connection is lost."""
        self._finish_failure(code, message, more)
        self.gone()

    def abandon(self, code: Code, message: str) -> None:
        """Fail the call, whose stream may go on at the instance, and end that as well."""
        self._finish_failure(code, message)
        if self.stream is not None and self.stream.remote_closed:
            self._close()
        elif self.endpoint is not None and self.stream is not None:
            self.endpoint.cancel(self, self.stream)

    def gone(self) -> None:
        """Note that the instance holds nothing of the call any more; safe to call twice."""
        if self.is_gone:
            return
        self.is_gone = self.over = True
        self._replay = None
        self.backend.in_flight -= 1
        sink, self.sink = self.sink, None
        if self.endpoint is not None:
            self.endpoint.detach()
        else:
            self.backend.gone()
        if sink is not None:
            sink.on_gone()

    def refused(self) -> bool:
        """Try once more elsewhere if the instance cannot have acted; False if that may not be."""
        if self.over or self.retried or self.answered or self._replay is None:
            return False
        self.retried = True
        if self.endpoint is not None:
            self.endpoint.detach()
        self.endpoint = self.stream = None
        self._held = sum(map(len, self._replay))
        self.backend.submit(self)
        return True

    # What the backend's connection tells the owner of the stream

    def on_whole_answer(self, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Pass on all of the answer at once; False if it must come in pieces."""
        sink = self.sink
        if self.over or self.answered or sink is None:
            return False
        self.over = True
        if sink.on_whole_answer(answer, data, trailers):
            self.gone()
            return True
        self.over = False
        return False

    def on_headers(self, head: ResponseHead, end: bool) -> None:
        """Pass on the beginning of the answer, or its end."""
        if self.over:
            if end:
                self._close()
            return
        first, self.answered = not self.answered, True
        self._replay, self.block = None, b""
        sink = self.sink
        if sink is None:
            return
        if first and head.grpc_status is None and not head.is_grpc:
            self.abandon(*self._why_not_grpc(head))
        elif not end:
            sink.on_answer(head)
        elif head.grpc_status is None:
            message = f"instance '{self.backend.route.name}' ended the call without a status"
            self.abandon(Code.UNKNOWN, message)
        else:
            self.over = True
            sink.on_end(head)
            self._close()

    def on_data(self, data: bytes, end: bool) -> None:
        """Pass on part of the answer."""
        self.answered, self._replay, self.block = True, None, b""
        if not self.over and self.sink is not None:
            self.sink.on_bytes(data)
        if end:
            message = f"instance '{self.backend.route.name}' ended the call without a status"
            self._finish_failure(Code.INTERNAL, message)
            self._close()

    def on_reset(self, code: int, reason: str) -> None:
        """Turn the loss of the stream into a status, or try again where that is safe."""
        if code == ErrorCode.REFUSED_STREAM and self.refused():
            return
        shown = ErrorCode(code).name if code <= ErrorCode.HTTP_1_1_REQUIRED else hex(code)
        message = f"instance '{self.backend.route.name}' ended the call: {reason} ({shown})"
        self._finish_failure(from_reset(code), message)
        self.gone()

    def on_sent(self) -> None:
        """Tell the caller's side that there is room again."""
        if not self.over and self.sink is not None:
            self.sink.on_room()

    def _why_not_grpc(self, head: ResponseHead) -> tuple[Code, str]:
        answered = f"instance '{self.backend.route.name}' answered with"
        if head.status != 200:
            return from_http(head.status), f"{answered} HTTP status {head.status}"
        shown = head.content_type.decode("latin-1")[:64]
        return Code.UNKNOWN, f"{answered} content-type '{shown}', which is not gRPC's"

    def _timeout(self, deadline: float) -> bytes:
        left = max(deadline - self.backend.now, 1e-9)
        return hpack.literal(b"grpc-timeout", format_timeout(left))

    def _finish_failure(self, code: Code, message: str, more: bytes = b"") -> None:
        if self.over:
            return
        self.over = True
        self._replay = None
        if self.sink is not None:
            self.sink.on_failure(code, message, more)

    def _close(self) -> None:
        """The instance has ended its side; end ours if that is still open."""
        if self.stream is not None and self.endpoint is not None and not self.stream.local_closed:
            self.endpoint.connection.reset(self.stream, ErrorCode.NO_ERROR)
        self.gone()
