"""Whole questions and whole answers: the common frames of a unary call, seen as one.

Theory
    A question mostly comes as HEADERS and one DATA frame that ends the stream, an answer as
    HEADERS, one DATA frame and trailers, and all of it in one chunk. To act on each frame for
    itself costs a quarter more, so the two patterns are looked for, and acted upon in one step.
    Whatever is not exactly that goes frame by frame and ends in the same bytes: a property test
    holds one way against the other.

Rules of this file
    Nothing is changed, and no block decoded, before the pattern is certain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tei_manager.grpc.status import Code
from tei_manager.wire.answers import is_plain_answer
from tei_manager.wire.frames import (
    DATA,
    DEFAULT_MAX_FRAME,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    unpack_header,
)

if TYPE_CHECKING:
    from tei_manager.wire.connection import Connection

_LAST = END_HEADERS | END_STREAM


def whole_question(
    connection: Connection, stream_id: int, data: bytes, start: int, stop: int, limit: int
) -> int:
    """Begin a call with all that it asks, if that is what comes next.

    Args:
        connection: One that a client opened.
        stream_id: Of a HEADERS frame that ends its block and not the stream.
        data: The chunk that it stands in.
        start: Where its block begins.
        stop: Where that ends, and the next frame begins.
        limit: Where the chunk ends.

    Returns:
        Where the question ends; 0 if it has to go frame by frame.
    """
    body = stop + 9
    if body > limit:
        return 0
    word, flags, stream = unpack_header(data, stop)
    size: int = word >> 8
    end = body + size
    if (
        word & 0xFF != DATA
        or flags != END_STREAM
        or stream != stream_id
        or end > limit
        or not 0 < size <= DEFAULT_MAX_FRAME
        or stream_id <= connection.last_peer_id
        or not stream_id & 1
    ):
        return 0
    connection.take_data(size)
    connection.begin(stream_id, data[start:stop], True, data[body:end])
    return end


def whole_answer(
    connection: Connection, stream_id: int, data: bytes, start: int, stop: int, limit: int
) -> int:
    """Pass on a complete answer to a complete question, if that is what comes next.

    Arguments and result are those of `whole_question`, on a connection to an instance.
    """
    body = stop + 9
    if body > limit:
        return 0
    word, flags, stream = unpack_header(data, stop)
    size = word >> 8
    tail = body + size + 9
    if word & 0xFF != DATA or flags or stream != stream_id or not size or tail > limit:
        return 0
    word, flags, stream = unpack_header(data, tail - 9)
    end: int = tail + (word >> 8)
    if word & 0xFF != HEADERS or flags != _LAST or stream != stream_id or end > limit:
        return 0
    if size > DEFAULT_MAX_FRAME or end - tail > DEFAULT_MAX_FRAME:
        return 0
    answer = data[start:stop]
    trailers = connection.heads.trailers_memo.get(data[tail:end])
    if trailers is None or trailers.grpc_status != Code.OK or not is_plain_answer(answer):
        return 0
    question = connection.streams.get(stream_id)
    if (
        question is None
        or question.got_head
        or not question.local_closed
        or size > question.recv_window
        or not connection.handler.on_whole_answer(
            question, answer, data[body : tail - 9], trailers.forward
        )
    ):
        return 0
    connection.take_data(size)
    connection.forget(question)
    return end
