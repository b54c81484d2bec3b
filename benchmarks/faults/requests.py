"""Requests as octets, for clients that an HTTP/2 library would not let misbehave."""

from __future__ import annotations

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.wire import frames, hpack
from tei_manager.wire.messages import frame as message_frame

INSTANCE = "bench"
"""The name under which `benchmarks.peers` gives our multiplexer its backend."""

SERVICE = b"/tei_multiplexer.v1.TeiMultiplexer/"

HEAD = b"".join(
    hpack.literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", SERVICE + b"EmbedStream"),
        (b":authority", b"127.0.0.1"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)
"""The header block of a call, made of literals that no table remembers."""

HELLO = frames.PREFACE + frames.settings({})

GREEDY_HELLO = (
    frames.PREFACE
    + frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
    + frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
)
"""The hello of a client that promises to take everything."""


def embed(text: str) -> mux_pb2.EmbedRequest:
    """Return a request for the one instance that there is."""
    target = mux_pb2.Target(instance_name=INSTANCE)
    return mux_pb2.EmbedRequest(target=target, request=tei_pb2.EmbedRequest(inputs=text))


def head(stream_id: int, block: bytes = HEAD, end: bool = False) -> bytes:
    """Return the HEADERS of a call, with CONTINUATION frames where the block is long."""
    return frames.header_frames(stream_id, block, end, frames.DEFAULT_MAX_FRAME)


def call(stream_id: int, text: str) -> bytes:
    """Return a whole call with one message."""
    message = message_frame(embed(text).SerializeToString())
    return head(stream_id) + frames.frame(frames.DATA, frames.END_STREAM, stream_id, message)
