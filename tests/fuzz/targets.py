"""What the fuzzer feeds: a function for each parser, from octets to nothing.

A target returns whatever the octets are, within `CPU_SECONDS` and `MEMORY_OCTETS`. It raises where
our code breaks its own rules: another exception than those named, an answer that a second
implementation does not give, something held for a call that is over.

Z1 HPACK decoder · Z2 a server's connection · Z3 a client's connection · Z4 gRPC messages with gzip
and deflate · Z5 envelopes, against protobuf · Z6 timeouts, percent escapes, base64 · Z7 requests to
the control API · Z8 settings and state files · Z10 the whole multiplexer in memory, with a client
and an instance that say anything · Z11 and Z12 the shortcuts.
"""

from __future__ import annotations

import base64
import binascii
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import hpack as oracle
from control_targets import z7_request, z8_files
from google.protobuf.message import DecodeError
from memory_loop import Wire
from memory_switch import memory_switch
from multiplexer import embed, framed, path
from shortcuts import z11_heads, z12_shortcuts
from wire_pair import HELLO, OK_HEAD, Side, block, data, parse, reply_http

from tei_manager.grpc.methods import Shape
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.grpc.status import Code, StatusError, decode_message
from tei_manager.wire import frames, metadata
from tei_manager.wire.envelope import RequestReader, Start, split_canonical
from tei_manager.wire.fields import LENGTH, VARINT, MalformedMessage, read_fields
from tei_manager.wire.frames import GOAWAY
from tei_manager.wire.hpack import Decoder, HeaderListTooLarge, HpackError
from tei_manager.wire.messages import MessageReader
from tei_manager.wire.target import TargetKind, read_target

CPU_SECONDS = 0.05
MEMORY_OCTETS = 16 << 20
"""What one input may cost. The longest input is 4 KiB, so both are generous by far for what grows
with the input, and not for what a few octets can blow up."""

LIMIT = 1 << 20
DIRECTION = 4


def z1_hpack(octets: bytes) -> None:
    """Decode two blocks with one table; what is taken, ``hpack`` reads the same."""
    ours, theirs = Decoder(), oracle.Decoder(max_header_list_size=1 << 30)
    cut = octets[0] if octets else 0
    for encoded in (octets[1 : 1 + cut], octets[1 + cut :]):
        try:
            fields = ours.decode(encoded)
        except HpackError:
            return
        except HeaderListTooLarge:
            theirs.decode(encoded, raw=True)
            continue
        expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(encoded, raw=True)]
        assert [(name, value) for name, value, _ in fields] == expected
        wire = oracle.Decoder().decode(b"".join(w for _, _, w in fields), raw=True)
        assert [(bytes(n), bytes(v)) for n, v in wire] == expected


def z2_server(octets: bytes) -> None:
    """Feed a server's connection."""
    side = Side(client=False, answer=reply_http, max_streams=4)
    _feed(side, HELLO + octets)


def z3_client(octets: bytes) -> None:
    """Feed a client's connection on which three calls wait for their answers."""
    side = Side(client=True)
    for length in (0, 10, 100_000):
        side.connection.send_data(side.open().stream, bytes(length), True)
    _feed(side, frames.settings({}) + octets)


def _feed(side: Side, octets: bytes) -> None:
    side.feed(octets[: len(octets) // 2])
    side.feed(octets[len(octets) // 2 :])
    connection, streams = side.connection, side.connection.streams
    assert side.pool.queued == sum(stream.queued for stream in streams.values())
    assert len(connection._rest) < 9 + frames.DEFAULT_MAX_FRAME or connection.closing
    sent = parse(side.take().removeprefix(frames.PREFACE))
    assert connection.error is None or sent[-1].kind == GOAWAY


def z4_messages(octets: bytes) -> None:
    """Cut a stream into messages, whole and octet by octet; both ways give the same."""
    encoding = (b"identity", b"gzip", b"deflate", b"br")[octets[0] % 4 if octets else 0]
    whole, cut = MessageReader(LIMIT, encoding), MessageReader(LIMIT, encoding)
    assert _messages(whole, [octets[1:]]) == _messages(cut, [bytes((o,)) for o in octets[1:]])


def _messages(reader: MessageReader, pieces: list[bytes]) -> tuple[list[bytes], Code | None]:
    found: list[bytes] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
    except StatusError as error:
        # Messages ahead of a broken one are lost with it when they come in one piece.
        return [], error.code
    return found, None


def z5_envelope(octets: bytes) -> None:
    """Unwrap an envelope; the hot path, the reader and protobuf agree."""
    reader = RequestReader(
        "Embed", shape=Shape.WRAPPED, direction_field=DIRECTION, max_message_bytes=LIMIT
    )
    found: list[bytes | None] = []
    forwarded = bytearray()
    status: StatusError | None = None
    try:
        for part in reader.feed(framed(octets)):
            if isinstance(part, Start):
                found.append(part.target)
            else:
                forwarded += part
    except StatusError as error:
        status = error
    split = split_canonical(framed(octets), DIRECTION)
    assert split is None or ([split[0]], split[1], None) == (found, bytes(forwarded), status)
    _agree_with_protobuf(octets, found, bytes(forwarded[5:]), status)


def _agree_with_protobuf(
    octets: bytes, found: list[bytes | None], request_: bytes, status: StatusError | None
) -> None:
    try:
        envelope = mux_pb2.EmbedRequest.FromString(octets)
    except DecodeError:
        # What only the two readers behind us can judge may pass: text, and the target.
        assert status is not None or not _reads(found[0] or b"", request_)
        return
    if status is not None:
        # Groups, a direction that TEI dies of, and text in a member that protobuf does not know.
        words = ("groups", "direction", "target.model is not UTF-8")
        allowed = any(word in status.message for word in words)
        assert status.code is Code.INVALID_ARGUMENT
        assert allowed or not envelope.HasField("request"), status.message
        return
    assert (found[0] is not None) == envelope.HasField("target")
    # Compared as octets: a NaN would not equal itself, and unknown fields must be there as well.
    ours = tei_pb2.EmbedRequest.FromString(request_).SerializeToString(deterministic=True)
    assert ours == envelope.request.SerializeToString(deterministic=True)
    with suppress(MalformedMessage):  # a group, which the director refuses
        _same_target(found[0] or b"", envelope.target)


def _same_target(octets: bytes, theirs: mux_pb2.Target) -> None:
    """Hold a target against protobuf's reading, unless it uses the other numbering.

    Two numberings are in use for index and model, and protobuf knows one of them (contracts 2).
    """
    ours = read_target(octets)
    numbers = {(number, kind) for number, kind, _ in read_fields(octets)}
    if numbers & {(2, LENGTH), (3, VARINT)}:
        return
    member = theirs.WhichOneof("routing")
    known = ours is not None and ours.kind is not TargetKind.UNKNOWN
    assert known == (member is not None)
    assert ours is None or member is None or ours.value == getattr(theirs, member)


def _reads(target: bytes, request_: bytes) -> bool:
    try:
        read_target(target)
        tei_pb2.EmbedRequest.FromString(request_)
    except (DecodeError, MalformedMessage):
        return False
    return True


def z6_metadata(octets: bytes) -> None:
    """Read a value as a timeout, as a message, as base64 and as a field's name and value."""
    decode_message(octets)
    metadata.valid_name(octets)
    metadata.valid_value(octets)
    if metadata.valid_binary(octets):
        for part in octets.split(b","):
            _decode_base64(part)
    try:
        seconds = metadata.parse_timeout(octets)
    except StatusError:
        return
    again = metadata.parse_timeout(metadata.format_timeout(seconds))
    assert again <= max(seconds, 1e-9)


def _decode_base64(part: bytes) -> None:
    try:
        base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
    except binascii.Error as error:
        raise AssertionError(f"not base64, and taken for it: {part!r}") from error


# What Z10 says beside plain octets, so that a few octets of input get far.
CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", path("Embed").encode()),
    (b"content-type", b"application/grpc"),
]
CLIENT_SAYS = [
    HELLO,
    frames.frame(frames.HEADERS, 4, 1, block(*CALL)),
    data(1, framed(embed()), True),
    frames.rst_stream(1, 8),
    frames.window_update(0, 1000),
    frames.frame(frames.HEADERS, 4, 3, block(*CALL)) + data(3, framed(embed()), True),
]
INSTANCE_SAYS = [
    frames.settings({}),
    frames.frame(frames.HEADERS, 4, 1, OK_HEAD),
    data(1, framed(b"answer")),
    frames.frame(frames.HEADERS, 5, 1, b"\x00\x0bgrpc-status\x010"),
    frames.goaway(0, 0),
    frames.rst_stream(1, 7),
    frames.frame(frames.HEADERS, 4, 1, OK_HEAD)
    + data(1, framed(b"answer"))
    + frames.frame(frames.HEADERS, 5, 1, b"\x00\x0bgrpc-status\x010"),
]


class _Proxy:
    """A multiplexer whose client and instance are plain wires."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.instances: list[Wire] = []
        memory.loop.dial = lambda _host, _port, wire: self.instances.append(wire)
        self.client: Wire = memory.loop.connect()

    def act(self, kind: int, octets: bytes) -> None:
        """Do what one instruction says."""
        if kind % 8 < 3:
            self.client.deliver(octets)
        elif kind % 8 < 6 and self.instances:
            self.instances[-1].deliver(octets)
        elif kind % 8 == 6:
            self.memory.loop.advance(len(octets) / 10)
        else:
            for wire in (self.client, *self.instances):
                wire.take()
        self.memory.loop.settle()

    def cut(self) -> None:
        """End all connections."""
        for wire in (self.client, *self.instances):
            wire.cut()
        self.memory.loop.settle()


def z10_proxy(octets: bytes) -> None:
    """Have a client and an instance say anything in any order; nothing is left of it."""
    said: list[BaseException] = []
    logger = "tei_manager.mux.endpoint.logger.exception"
    with memory_switch(("a", 1)) as memory, patch(logger, lambda *_: said.append(_failure())):
        proxy = _Proxy(memory)
        proxy.client.deliver(HELLO)
        while octets:
            kind, length, octets = octets[0], octets[1] if octets[1:] else 0, octets[2:]
            known = CLIENT_SAYS if kind % 8 < 3 else INSTANCE_SAYS
            if length >= 0xF0:
                proxy.act(kind, known[(length - 0xF0) % len(known)])
            else:
                proxy.act(kind, octets[:length])
                octets = octets[length:]
            if said:
                raise said[0]
        proxy.cut()
        memory.advance(31)  # a call that waits for the instance ends with its deadline
        assert memory.leftovers() == {}


def _failure() -> BaseException:
    error = sys.exc_info()[1]
    assert error is not None
    return error


TARGETS: dict[str, Callable[[bytes], None]] = {
    "Z1": z1_hpack,
    "Z2": z2_server,
    "Z3": z3_client,
    "Z4": z4_messages,
    "Z5": z5_envelope,
    "Z6": z6_metadata,
    "Z7": z7_request,
    "Z8": z8_files,
    "Z10": z10_proxy,
    "Z11": z11_heads,
    "Z12": z12_shortcuts,
}


class TooCostly(AssertionError):
    """An input took more time or memory than any input may."""


def run_timed(name: str, octets: bytes) -> None:
    """Run a target within its time; a slow run gets two more, as other programs cost time too.

    Raises:
        TooCostly: It took too long three times.
    """
    for _ in range(3):
        begun = time.process_time()
        TARGETS[name](octets)
        spent = time.process_time() - begun
        if spent <= CPU_SECONDS:
            return
    raise TooCostly(f"{name} took {spent * 1000:.0f} ms of CPU for {octets!r}")


def run_measured(name: str, octets: bytes) -> None:
    """Run a target within its memory; several times slower than `run_timed`.

    Raises:
        TooCostly: It held too much at a time.
    """
    tracemalloc.start()
    try:
        TARGETS[name](octets)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > MEMORY_OCTETS:
        raise TooCostly(f"{name} held {peak >> 20} MiB for {octets!r}")
