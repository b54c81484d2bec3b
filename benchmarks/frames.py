"""Reads HTTP/2 frames by their headers, and looks into none of them."""

from __future__ import annotations

from collections.abc import Iterator

from tei_manager.wire.frames import unpack_header

HEADER = 9
"""Octets of a frame header (RFC 9113 4.1)."""


class FrameReader:
    """Cuts a stream of octets into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, stream id and payload of each frame that is now whole.

        The next octets may be fed once all frames were taken.
        """
        data = self._rest + data if self._rest else data
        pos, end = 0, len(data)
        while pos + HEADER <= end:
            word, flags, stream_id = unpack_header(data, pos)
            begin = pos + HEADER
            stop = begin + (word >> 8)
            if stop > end:
                break
            yield word & 0xFF, flags, stream_id, data[begin:stop]
            pos = stop
        self._rest = data[pos:]
