"""What one read of one client makes the switch do before others have their turn: bytecodes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator

import pytest
from grpc_reflection.v1alpha import reflection_pb2
from memory_loop import Wire
from memory_switch import memory_switch
from multiplexer import embed, framed
from switchboard import block, request_block

from benchmarks.opcodes import _counting
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.mux import endpoint
from tei_manager.wire import frames

MOST = 400_000
MOST_TO_RERANK = 3_000_000
"""Bytecodes of one turn. A frame is not divided, and one of 16 KiB may have two thousand texts."""

TARGET = embed("", "a")[:5]
WHOLE = embed("x", "a")
TEXT = tei_pb2.RerankStreamRequest(query="q", text="t").SerializeToString()
REFLECTION = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()


def head(number: int, method: str, *more: tuple[bytes, bytes]) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS, number, request_block(method, more))


def local(number: int) -> bytes:
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", REFLECTION))
    whole = block(*fields, (b"content-type", b"application/grpc"))
    return frames.frame(frames.HEADERS, frames.END_HEADERS, number, whole)


def data(number: int, payload: bytes) -> bytes:
    return frames.frame(frames.DATA, 0, number, payload)


def many(message: bytes, octets: int) -> bytes:
    return framed(message) * (octets // (5 + len(message)))


def streams_of_odd_messages() -> Iterator[bytes]:
    for number in range(1, 72, 2):
        yield head(number, "EmbedStream")
        yield data(number, framed(WHOLE)) + data(number, many(b"\x12\x00", 1_600))


def texts_to_rerank() -> Iterator[bytes]:
    yield head(1, "RerankStream")
    yield data(1, framed(TARGET + b"\x12" + bytes((len(TEXT),)) + TEXT))
    for _ in range(8):
        yield data(1, many(b"\x12\x00", 4_000))


def questions_to_reflection() -> Iterator[bytes]:
    for number in range(1, 17, 2):
        yield local(number) + data(number, many(LIST, 4_000))


def bombs() -> Iterator[bytes]:
    packed = gzip.compress(TARGET + b"\x12\x00" * 2_000)
    for number in range(1, 200, 2):
        yield head(number, "Embed", (b"grpc-encoding", b"gzip"))
        yield data(number, b"\1" + len(packed).to_bytes(4, "big") + packed)


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        (streams_of_odd_messages, MOST),
        (texts_to_rerank, MOST_TO_RERANK),
        (questions_to_reflection, MOST),
        (bombs, MOST),
    ],
)
def test_no_turn_is_longer_than_that_of_a_frame(
    attack: Callable[[], Iterator[bytes]], most: int
) -> None:
    octets = b"".join(attack())
    assert len(octets) <= endpoint.READ_BUFFER
    with memory_switch(("a", 1)) as memory:
        memory.instances[1] = lambda peer: peer.start()
        wire: Wire = memory.loop.connect()
        wire.deliver(frames.PREFACE + frames.settings({}))
        memory.settle()
        (client,) = memory.switch.endpoints
        client.get_buffer(-1)[: len(octets)] = octets
        size, turns, worst = len(octets), 0, 0
        while turns < 200:
            with _counting() as found:
                client.buffer_updated(size)
            size, turns, worst = 0, turns + 1, max(worst, found.total())
            if not client.connection.backlog:
                break
        assert not client.connection.backlog
        assert client.connection.error is None
        assert worst < most
