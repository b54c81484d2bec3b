"""Calls as a gRPC client puts them on the wire, encoded before the clock starts.

What is the same in all calls of a connection goes into the proxy's dynamic table with the first and
is an index of one octet from then on, as gRPC's own clients do it. Every second call carries a
``traceparent`` and a ``grpc-timeout`` of some nine seconds besides: literals whose values are new.
So all that is left to do for a call is to put its stream id and those values into octets that are
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import getrandbits

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.wire import messages
from tei_manager.wire.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    pack_header,
    pack_u32,
)
from tei_manager.wire.hpack import integer, literal

TEXT = "The quick brown fox jumps over the lazy dog, once more and again"
SMALL_ANSWER = "."
SIZES = {"3": 1_000, "4": 10_000, "5": 100_000, "6": 1_000_000, "7": 10_000_000}
"""How a text ends tells the backend how long an answer to give, in octets without what its encoding
adds; any other end than these gives `benchmarks.answers.FLOATS` numbers."""

LARGE_ANSWER = "7"

UNARY, STREAM = "Embed", "EmbedStream"

SERVICE = "tei_multiplexer.v1.TeiMultiplexer"

_STATIC = b"\x83\x86"  # POST and http (RFC 7541 appendix A)
_FIRST_DYNAMIC = 62  # the newest entry of the dynamic table
_INSERT = 0x40  # a literal with incremental indexing (RFC 7541 6.2.1)


def embed_message(text: str, instance: str = "bench") -> bytes:
    """Return a framed request for an instance; the text is the last of its octets."""
    target = mux_pb2.Target(instance_name=instance)
    inner = tei_pb2.EmbedRequest(inputs=text)
    return messages.frame(mux_pb2.EmbedRequest(target=target, request=inner).SerializeToString())


def _common(path: str) -> list[tuple[str, str]]:
    return [
        (":path", path),
        (":authority", "127.0.0.1"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-python/1.80.0 grpc-c/52.0.0 (linux; chttp2)"),
    ]


def _inserting(name: str, value: str) -> bytes:
    named = bytes((_INSERT,)) + integer(len(name), 7) + name.encode()
    return named + integer(len(value), 7) + value.encode()


class CallEncoder:
    """Writes the calls of one connection, in the order of their stream ids.

    Args:
        method: Name of the RPC.
        messages: The framed messages that unary calls send in turn, all equally long.
        service: The service that has the RPC.
        metadata: What all calls carry besides.
    """

    def __init__(
        self,
        method: str,
        *messages: bytes,
        service: str = SERVICE,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        fields = [*_common(f"/{service}/{method}"), *metadata]
        self._messages = messages or (b"",)
        self._first = _STATIC + b"".join(_inserting(*field) for field in fields)
        entries = reversed(range(len(fields)))  # the last one inserted has the lowest index
        self._later = _STATIC + bytes(0x80 | _FIRST_DYNAMIC + n for n in entries)
        self._timeout = getrandbits(19)  # or a later connection's calls would have the same ones
        self.begun = 0
        self._data = pack_header(len(self._messages[0]) << 8 | DATA, END_STREAM, 0)[:5]

    def block(self) -> bytes:
        """Return the header block of the next call."""
        call, self.begun = self.begun, self.begun + 1
        block = self._later if call else self._first
        if call & 1:
            trace = b"00-%032x-%016x-01" % (getrandbits(128), getrandbits(64))
            block += literal(b"traceparent", trace)
            block += literal(b"grpc-timeout", b"9%06du" % ((self._timeout + call) % 1_000_000))
        return block

    def unary(self) -> bytes:
        """Return the frames of the next call: HEADERS, and one DATA with all of the message."""
        number = pack_u32(2 * self.begun + 1)
        message = self._messages[self.begun % len(self._messages)]
        block = self.block()
        header = (len(block) << 8 | HEADERS).to_bytes(4, "big")
        parts = (header, b"\x04", number, block, self._data, number, message)
        return b"".join(parts)

    def headers(self) -> bytes:
        """Return the HEADERS frame of the next call, whose messages follow."""
        number = 2 * self.begun + 1
        block = self.block()
        return pack_header(len(block) << 8 | HEADERS, END_HEADERS, number) + block


def data_frame(stream_id: int, payload: bytes | memoryview, end: bool = False) -> bytes:
    """Return one DATA frame."""
    flags = END_STREAM if end else 0
    return pack_header(len(payload) << 8 | DATA, flags, stream_id) + payload
