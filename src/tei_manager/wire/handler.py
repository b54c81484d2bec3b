"""What a connection tells the shell around it, as opposed to the owner of one stream."""

from __future__ import annotations

from typing import Any, Protocol

from tei_manager.wire.stream import Stream


class ConnectionHandler(Protocol):
    """What a connection tells its shell about itself, as opposed to one stream of it."""

    def on_request(self, stream: Stream, head: Any, end: bool) -> None:
        """A client started a call. The handler gives the stream its owner."""

    def on_settings(self) -> None:
        """The peer's settings came or changed."""

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """The peer takes no more streams; those above ``last_stream_id`` were not processed."""

    def on_ping_ack(self, payload: bytes) -> None:
        """The peer answered a PING of ours."""

    def on_whole_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """A stream that we opened is answered: take all at once, or refuse and get it in pieces.

        Args:
            stream: The stream; its request is complete.
            answer: The header block, which needs no dynamic table.
            data: The body.
            trailers: The fields of the trailers that travel; their grpc-status is 0.
        """

    def flush(self) -> None:
        """Write what `take` gives; called for each connection on the dirty list."""


class _Gone:
    """Handles connections that are lost, so that they and their shells leave no cycle."""

    def on_request(self, stream: Stream, head: Any, end: bool) -> None: ...

    def on_settings(self) -> None: ...

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None: ...

    def on_ping_ack(self, payload: bytes) -> None: ...

    def on_whole_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        return False

    def flush(self) -> None: ...


GONE: ConnectionHandler = _Gone()
