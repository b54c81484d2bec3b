"""HTTP/2 frames: their numbers, their writers, and the error codes that they carry (RFC 9113).

Reading is not here: `connection.Connection` unpacks the nine-octet frame header in place, because
a call per frame for that would be a tenth of what a frame costs.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 3.4)."""

# Frame types (RFC 9113 6).
DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

# Flags.
END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

# Settings (RFC 9113 6.5.2).
HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

DEFAULT_MAX_FRAME = 16_384
"""The frame size that every peer must take, and the only one that we advertise: a frame is held
until it is whole, so this is also what one connection may make us hold (RFC 9113 4.2)."""

LARGEST_MAX_FRAME = (1 << 24) - 1
LARGEST_WINDOW = (1 << 31) - 1
LARGEST_STREAM_ID = (1 << 31) - 1
DEFAULT_WINDOW = 65_535
"""The window that every stream and connection starts with (RFC 9113 6.9.2)."""

# A frame header: 24 bits of length and 8 of type read as one word, flags, stream id.
_HEADER = Struct(">IBI")
unpack_header = _HEADER.unpack_from
pack_header = _HEADER.pack
pack_u32 = Struct(">I").pack
unpack_u32 = Struct(">I").unpack_from
unpack_setting = Struct(">HI").iter_unpack
_SETTING = Struct(">HI")


class ErrorCode(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ProtocolError(Exception):
    """The peer broke HTTP/2 for the whole connection: it gets a GOAWAY and the connection ends."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


class StreamError(Exception):
    """The peer broke one stream: it gets an RST_STREAM and the connection goes on."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one whole frame; the caller keeps ``payload`` within the peer's frame size."""
    return pack_header(len(payload) << 8 | kind, flags, stream_id) + payload


def header_frames(stream_id: int, block: bytes, end_stream: bool, max_frame: int) -> bytes:
    """Return a header block as HEADERS and as many CONTINUATION frames as the peer's size asks."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return pack_header(len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [frame(HEADERS, flags, stream_id, block[:max_frame])]
    rest = range(max_frame, len(block), max_frame)
    for start in rest:
        last = END_HEADERS if start == rest[-1] else 0
        parts.append(frame(CONTINUATION, last, stream_id, block[start : start + max_frame]))
    return b"".join(parts)


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame with these parameters."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def ping(payload: bytes, ack: bool = False) -> bytes:
    """Return a PING frame; ``payload`` is eight octets."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """Return a GOAWAY frame; streams above ``last_stream_id`` were not and will not be acted on."""
    return frame(GOAWAY, 0, 0, pack_u32(last_stream_id) + pack_u32(code) + debug)


def rst_stream(stream_id: int, code: int) -> bytes:
    """Return an RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, pack_u32(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream id 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, pack_u32(increment))
