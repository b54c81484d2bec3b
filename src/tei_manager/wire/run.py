"""Runs: the small DATA frames of one stream that stand behind each other in a chunk, taken as one.

A stream of messages brings a frame for each, and hundreds of them in a chunk. Where frames end
means nothing to gRPC, so a run's payloads are joined and go to the stream's owner once: one look
at windows, one frame out. What is not exactly a run goes frame by frame to the same effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tei_manager.wire.frames import DATA, DEFAULT_MAX_FRAME, END_STREAM, unpack_header
from tei_manager.wire.messages import PREFIX_SIZE

if TYPE_CHECKING:
    from tei_manager.wire.connection import Connection


def data_run(
    connection: Connection, stream_id: int, data: bytes, start: int, stop: int, limit: int
) -> tuple[int, int]:
    """Take a run of DATA frames, if one begins here.

    Args:
        connection: Either role.
        stream_id: Of a DATA frame without flags.
        data: The chunk that it stands in.
        start: Where its payload begins.
        stop: Where that ends, and the next frame begins.
        limit: Where the chunk ends.

    Returns:
        Where the run ends, and how many frames it has; (0, 0) if there is none.
    """
    pieces: list[bytes] = []
    flags, total, end = 0, stop - start, stop
    while end + 9 <= limit and not flags:
        word, flags, number = unpack_header(data, end)
        size: int = word >> 8
        total += size
        if (
            number != stream_id
            or word & 0xFF != DATA
            or flags > END_STREAM
            or size < PREFIX_SIZE  # less than any message: it pays for itself
            or total > DEFAULT_MAX_FRAME
            or end + 9 + size > limit
        ):
            total, flags = total - size, 0
            break
        pieces.append(data[end + 9 : end + 9 + size])
        end += 9 + size
    stream = connection.streams.get(stream_id) if pieces else None
    if (
        stream is None
        or stream.remote_closed
        or not stream.got_head
        or stream.expected >= 0
        or total > stream.recv_window
        or stop - start < PREFIX_SIZE
    ):
        return 0, 0
    connection.take_data(total)
    stream.recv_window -= total
    stream.remote_closed = last = flags == END_STREAM
    stream.owner.on_data(data[start:stop] + b"".join(pieces), last)
    if last and stream.local_closed:
        connection.forget(stream)
    return end, len(pieces) + 1
