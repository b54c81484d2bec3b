"""RerankStream, made of PredictPairStream: TEI never answers its own (tei-behaviour.md, L1).

Each text becomes one pair prediction on the instance; the answers come in order, and the response
is built here as TEI's unary Rerank builds it: by score, ties by descending index, sums and means in
the metadata. Messages are held whole, since each is turned into another one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.call import Call
from tei_manager.wire import messages
from tei_manager.wire.answers import ResponseHead
from tei_manager.wire.connection import Connection
from tei_manager.wire.envelope import RequestReader, Start
from tei_manager.wire.headers import ANSWER, RequestHead, status_trailers
from tei_manager.wire.hpack import STATUS_200
from tei_manager.wire.stream import Stream

if TYPE_CHECKING:
    from tei_manager.grpc.methods import Method
    from tei_manager.mux.switch import Switch

MAX_TEXTS = 10_000
MAX_OCTETS = 16 << 20
"""Limits of one call (contracts.md 3.5)."""

MAX_MESSAGE = 4 << 20
"""TEI's own limit for a message, in both directions of a prediction."""


class RerankStream(Call):
    """One call of RerankStream; see `Call` for its arguments."""

    __slots__ = ("_answers", "_first", "_inner", "_octets", "_predictions", "_texts")

    def __init__(
        self,
        switch: Switch,
        connection: Connection,
        stream: Stream,
        head: RequestHead,
        method: Method,
    ) -> None:
        super().__init__(switch, connection, stream, head, method)
        self.reader = RequestReader(
            method.name,
            shape=method.shape,
            direction_field=method.direction_field,
            max_message_bytes=MAX_MESSAGE,
            encoding=head.encoding,
        )
        self._inner = messages.MessageReader(MAX_MESSAGE)
        self._answers = messages.MessageReader(MAX_MESSAGE)
        self._first: tei_pb2.RerankStreamRequest | None = None
        self._texts: list[str] = []
        self._octets = 0
        self._predictions: list[tei_pb2.PredictResponse] = []

    def on_data(self, data: bytes, end: bool) -> None:
        """Turn each text into a prediction."""
        reader = self.reader
        if reader is None:
            return
        try:
            self._read(reader, data)
            if end and not self.done:
                self.check_half_close(reader)
                self.send(b"", True)
        except StatusError as error:
            self.refuse(error.code, error.message)
            return
        if not end:
            self.credit_client(len(data))

    def on_answer(self, head: ResponseHead) -> None:
        """Wait: the metadata of a prediction is not that of the ranking."""

    def on_bytes(self, data: bytes) -> None:
        """Collect predictions."""
        try:
            for message in self._answers.feed(data):
                self._collect(message)
        except StatusError as error:
            self.refuse(error.code, error.message)
            return
        if self.exchange is not None:
            self.exchange.credit(len(data))

    def on_sent(self) -> None:
        """Nothing waits for room: there is one answer, at the end."""

    def on_end(self, head: ResponseHead) -> None:
        """Rank what was predicted, or pass on why it could not be."""
        if self.is_late(head.grpc_status or 0):
            self.refuse(Code.DEADLINE_EXCEEDED, "")
            return
        if head.grpc_status:
            start = STATUS_200 if head.status else ANSWER  # trailers alone have no content-type
            self.connection.send_headers(self.stream, start + head.forward, True)
            self.finish(head.grpc_status)
            return
        if len(self._predictions) != self.messages or self._first is None:
            self.refuse(Code.INTERNAL, "The instance left texts without a score")
            return
        try:
            response = self._rank(self._first)
        except StatusError as error:
            self.refuse(error.code, error.message)
            return
        self.connection.send_headers(self.stream, ANSWER, False)
        self.connection.send_data(self.stream, messages.frame(response), False)
        self.connection.send_headers(self.stream, status_trailers(Code.OK, ""), True)
        self.finish(Code.OK)

    def finish(self, code: int) -> None:
        """Give back what the call held, then end it as any other."""
        if not self.done:
            self.switch.pool.queued -= self._octets
        super().finish(code)

    def _read(self, reader: RequestReader, data: bytes) -> None:
        held, begun = reader.held, reader.messages
        try:
            for piece in reader.feed(data):
                if isinstance(piece, Start):
                    self.begin_message(piece.target)
                else:
                    for message in self._inner.feed(piece):
                        self._ask(message)
                if self.done:  # it failed on the way to the instance
                    return
        finally:
            self.switch.pool.queued += reader.held - held
            self.count_work(reader.messages - begun)
        if reader.held > held:
            self.switch.check_memory()

    def _ask(self, message: bytes) -> None:
        try:
            request = tei_pb2.RerankStreamRequest.FromString(message)
        except Exception as error:  # protobuf's DecodeError is not public in every version
            raise StatusError(Code.INVALID_ARGUMENT, f"malformed request: {error}") from None
        self._count(len(message))
        if self._first is None:
            self._first = request
        if self._first.return_text:
            self._texts.append(request.text)
        pair = tei_pb2.PredictPairRequest(
            inputs=[request.query, request.text],
            truncate=request.truncate,
            raw_scores=self._first.raw_scores,
            truncation_direction=request.truncation_direction,
        )
        self.send(messages.frame(pair.SerializeToString()), False)

    def _count(self, octets: int) -> None:
        self._octets += octets
        self.switch.pool.queued += octets
        if self.messages > MAX_TEXTS or self._octets > MAX_OCTETS:
            message = f"RerankStream takes at most {MAX_TEXTS} texts or {MAX_OCTETS} bytes"
            raise StatusError(Code.RESOURCE_EXHAUSTED, message)
        self.switch.check_memory()

    def _collect(self, message: bytes) -> None:
        try:
            response = tei_pb2.PredictResponse.FromString(message)
        except Exception as error:  # protobuf's DecodeError is not public in every version
            raise StatusError(Code.INTERNAL, f"the instance answers badly: {error}") from None
        if len(response.predictions) != 1:
            raise StatusError(Code.FAILED_PRECONDITION, "model is not a re-ranker model")
        if math.isnan(response.predictions[0].score):
            raise StatusError(Code.FAILED_PRECONDITION, "score is NaN")
        self._predictions.append(response)

    def _rank(self, first: tei_pb2.RerankStreamRequest) -> bytes:
        scores = [response.predictions[0].score for response in self._predictions]
        order = sorted(range(len(scores)), key=lambda index: (scores[index], index), reverse=True)
        ranks = [
            tei_pb2.Rank(
                index=index,
                score=scores[index],
                text=self._texts[index] if first.return_text else None,
            )
            for index in order
        ]
        response = tei_pb2.RerankResponse(ranks=ranks, metadata=self._metadata())
        return response.SerializeToString()

    def _metadata(self) -> tei_pb2.Metadata:
        """Sum what is counted, average what is timed (tei-behaviour.md 2.4)."""
        parts = [response.metadata for response in self._predictions]
        return tei_pb2.Metadata(
            compute_chars=sum(part.compute_chars for part in parts),
            compute_tokens=sum(part.compute_tokens for part in parts),
            total_time_ns=int((self.switch.now - self.started) * 1e9),
            tokenization_time_ns=sum(part.tokenization_time_ns for part in parts) // len(parts),
            queue_time_ns=sum(part.queue_time_ns for part in parts) // len(parts),
            inference_time_ns=sum(part.inference_time_ns for part in parts) // len(parts),
        )
