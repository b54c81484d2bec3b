"""One call of nearly every method: its request cut and routed, its answer passed on untouched.

Each DATA frame of the client is tried as what it nearly always is, one whole message in canonical
form; anything else goes through `RequestReader`, which gives the same bytes. Where the first
message names its target the exchange is opened, and from then on bytes go through as they come.
"""

from __future__ import annotations

from tei_manager.grpc.methods import Kind, Shape
from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.call import Call
from tei_manager.wire.answers import ResponseHead
from tei_manager.wire.envelope import RequestReader, Start, split_canonical
from tei_manager.wire.hpack import STATUS_200
from tei_manager.wire.requests import split_run


class Relay(Call):
    """A call from a client to an instance and back; see `Call` for its arguments."""

    __slots__ = ()

    def on_data(self, data: bytes, end: bool) -> None:
        """Cut the client's octets into messages and send them to the instance."""
        reader = self.reader
        if reader is not None and not end and reader.passes(len(data)):
            self.send(data, False)
            self.credit_client(len(data))
            return
        whole = run = None
        try:
            if (reader is None or reader.at_boundary) and self.head.encoding == b"identity":
                if not data and self.messages:
                    if end:  # an empty frame that ends nothing is no burden for an instance
                        self.send(data, end)
                    return
                method = self.method
                if method.shape is not Shape.TARGET_ONLY:
                    wrapped = method.shape is Shape.WRAPPED
                    whole = split_canonical(data, method.direction_field, wrapped=wrapped)
                    if whole is None and self.method.kind is Kind.BIDI:
                        run = self._split_run(data, wrapped)
            if whole is not None and end and self.route is None:
                self.ask(*whole)
            elif whole is not None:
                self.begin_message(whole[0])
                self.send(whole[1], end)
            elif run is not None:
                self.messages += run[0]
                self.send(run[1], end)
            else:
                self._read(data, end)
        except StatusError as error:
            self.refuse(error.code, error.message)
            return
        if not end:
            self.credit_client(len(data))

    def on_answer(self, head: ResponseHead) -> None:
        """Pass on the initial metadata."""
        self.answered = True
        self.connection.send_headers(self.stream, self.beginning(head), False)

    def on_bytes(self, data: bytes) -> None:
        """Pass on part of the answer."""
        self.connection.send_data(self.stream, data, False)
        self._credit_back(len(data))

    def on_whole_answer(self, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Pass on the whole answer in one piece, and end the call."""
        if not self.connection.send_answer(self.stream, answer, data, trailers):
            return False
        self.finish(Code.OK)
        return True

    def on_sent(self) -> None:
        """Let the instance go on: the client took some of its answer."""
        self._credit_back(0)

    def on_end(self, head: ResponseHead) -> None:
        """Pass on the status as it came; but CANCELLED after the deadline is the deadline."""
        code = head.grpc_status or 0
        if self.is_late(code):
            self.refuse(Code.DEADLINE_EXCEEDED, "")
            return
        block = head.forward if self.answered else self.beginning(head)
        self.connection.send_headers(self.stream, block, True)
        self.finish(code)

    def beginning(self, head: ResponseHead) -> bytes:
        """Return how the answer to the client begins."""
        return STATUS_200 + head.forward

    def _split_run(self, data: bytes, wrapped: bool) -> tuple[int, bytes] | None:
        """Cut a chunk into messages like those before, if that is all it has."""
        if self.method.kind is Kind.UNARY:
            return None
        return split_run(data, self.method.direction_field, self.target, wrapped=wrapped)

    def _read(self, data: bytes, end: bool) -> None:
        reader = self.reader
        if reader is None:
            reader = self.reader = RequestReader(
                self.method.name,
                shape=self.method.shape,
                direction_field=self.method.direction_field,
                max_message_bytes=self.switch.options.max_message_mb << 20,
                encoding=self.head.encoding,
            )
        held, begun = reader.held, reader.messages
        try:
            for piece in reader.feed(data):
                if isinstance(piece, Start):
                    self.begin_message(piece.target)
                else:
                    self.send(piece, False)
                if self.done:  # it failed on the way to the instance
                    return
        finally:
            self.switch.pool.queued += reader.held - held
            self.count_work(reader.messages - begun)
        if reader.held > held:
            self.switch.check_memory()
        if end:
            self.check_half_close(reader)
            self.send(b"", True)

    def _credit_back(self, octets: int) -> None:
        self.owed_back += octets
        give = self.owed_back - self.stream.queued
        if give > 0 and self.exchange is not None:
            self.owed_back -= give
            self.exchange.credit(give)
