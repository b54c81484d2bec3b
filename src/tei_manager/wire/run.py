"""Runs: the small DATA frames of one stream that stand behind each other in a chunk, taken as one.

A stream of messages brings a frame for each, and hundreds of them in a chunk. Where frames end
means nothing to gRPC, so a run's payloads are joined and go to the stream's owner once: one look
at windows, one frame out. What is not exactly a run goes frame by frame to the same effect.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from tei_manager.wire.frames import DATA, DEFAULT_MAX_FRAME, pack_u32
from tei_manager.wire.messages import PREFIX_SIZE

if TYPE_CHECKING:
    from tei_manager.wire.connection import Connection

_unpack_header = Struct(">I5s").unpack_from
"""A frame header as its length and type in one number, and its flags and stream in five octets."""

SMALL = 8 << 10
"""Octets of frames that are worth it: of larger ones no two are less than a frame together."""

ALIKE = 8
"""Frames that are compared at once. If they differ, looking at them was for nothing, and a peer can
make us do it for every second frame."""


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
    if not PREFIX_SIZE <= stop - start <= SMALL:
        return 0, 0
    stream = connection.streams.get(stream_id)
    if stream is None or stream.remote_closed or not stream.got_head or stream.expected >= 0:
        return 0, 0  # before anything behind it is looked at, or each frame would look at all
    # Of payloads with their headers, so payloads alone are less than a frame and than the window.
    bound = min(limit, start + DEFAULT_MAX_FRAME, start + stream.recv_window)
    if stop + 9 > bound:
        return 0, 0
    pieces, end = _alike(data, start, stop, bound)
    number, last = pack_u32(stream_id), False
    goes_on, ends = b"\0" + number, b"\1" + number
    while end + 9 <= bound and not last:
        word, where = _unpack_header(data, end)
        after: int = end + 9 + (word >> 8)
        if (
            (where != goes_on and where != ends)
            or word & 0xFF != DATA
            or word >> 8 < PREFIX_SIZE  # less than any message: it pays for itself
            or after > bound
        ):
            break
        last = where == ends
        pieces.append(data[end + 9 : after])
        end = after
    if len(pieces) == 1:
        return 0, 0
    joined = b"".join(pieces)
    total = len(joined)
    connection.take_data(total)
    stream.recv_window -= total
    stream.remote_closed = last
    stream.owner.on_data(joined, last)
    if last and stream.local_closed:
        connection.forget(stream)
    return end, len(pieces)


def _alike(data: bytes, start: int, stop: int, bound: int) -> tuple[list[bytes], int]:
    """Return payloads of frames that have the first one's very header, and where they end.

    Answers of a stream are often equally long, so their headers stand at even distances, and some
    can be gathered there and compared with the first at once.
    """
    header, step, end = data[start - 9 : start], stop - start + 9, stop
    heads, stride = header * ALIKE, step * ALIKE
    while end + stride <= bound and heads == b"".join(
        [data[at : at + 9] for at in range(end, end + stride, step)]
    ):
        end += stride
    return [data[at : at + step - 9] for at in range(start, end, step)], end
