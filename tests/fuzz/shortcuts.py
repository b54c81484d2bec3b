"""Fuzz targets for the shortcuts: what is seen at a look must be what the long way finds.

Z11 header blocks, known by their octets, by how they begin or by the forms of their fields, against
decoding alone · Z12 a client and an instance whose octets come in one piece, so that whole
questions, whole answers and runs of DATA occur, against the same octets one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from memory_loop import Wire
from memory_switch import memory_switch
from multiplexer import embed, framed, path
from wire_pair import HELLO, OK_HEAD, block, data, parse

from tei_manager.wire import frames, hpack
from tei_manager.wire.answers import client_heads, read_response, read_response_trailers
from tei_manager.wire.frames import DATA, GOAWAY, HEADERS, RST_STREAM, ProtocolError, StreamError
from tei_manager.wire.headers import read_request, server_heads

ASK = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", path("Embed").encode()),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
BEGINNINGS = (
    b"",
    block(*ASK),
    block(*ASK, (b"user-agent", b"fuzz"), (b"grpc-timeout", b"5S")),
    hpack.STATUS_200 + block((b"content-type", b"application/grpc"), (b"date", b"today")),
    block((b"grpc-status", b"0")),
)
"""What a block of Z11 may begin with; an octet of the input chooses."""


def pieces(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Read an input as (choice, octets) pairs, each with its length between the two."""
    while octets:
        choice, length = octets[0], octets[1] if octets[1:] else 0
        yield choice, octets[2 : 2 + length]
        octets = octets[2 + length :]


def z11_heads(octets: bytes) -> None:
    """Read the blocks of a connection with all that is remembered of it, and without."""
    client = bool(octets) and octets[0] % 2 == 1
    remembering, alone = (client_heads() if client else server_heads()), hpack.Decoder()
    for choice, rest in pieces(octets[1:]):
        encoded = BEGINNINGS[(choice & 0x7F) % len(BEGINNINGS)] + rest
        trailers = client and choice & 0x80 > 0
        read = remembering.read_trailers if trailers else remembering.read
        build = read_response_trailers if trailers else read_response if client else read_request
        want = _outcome(lambda: build(alone.decode(encoded)))  # noqa: B023  # called at once
        assert _outcome(lambda: read(encoded)) == want  # noqa: B023
        if want in (hpack.HpackError, ProtocolError):
            return


def _outcome(read: Callable[[], Any]) -> Any:
    """Return what a head says, or which error there was."""
    try:
        head = read()
    except (StreamError, hpack.HeaderListTooLarge):
        return StreamError
    except (hpack.HpackError, ProtocolError) as error:
        return type(error)
    if getattr(head, "path", None) == b"":
        return StreamError  # a list too large is a head that refuses its call
    says = {name: getattr(head, name) for name in head.__slots__ if name != "refusal"}
    fields = hpack.Decoder(max_list_size=1 << 30, max_fields=1 << 30).decode(says["forward"])
    says["forward"] = [(name, value) for name, value, _ in fields]
    says["refusal"] = str(getattr(head, "refusal", None))
    return says


def _asked(number: int, method: str) -> bytes:
    fields = [(n, path(method).encode() if n == b":path" else v) for n, v in ASK]
    return frames.frame(HEADERS, 4, number, block(*fields))


def _answered(number: int, count: int) -> bytes:
    return frames.frame(HEADERS, 4, number, OK_HEAD) + data(number, framed(b"an answer")) * count


def _ended(number: int) -> bytes:
    return frames.frame(HEADERS, 5, number, block((b"grpc-status", b"0")))


MESSAGE = framed(embed())
SAID = {
    "client": (
        _asked(1, "Embed") + data(1, MESSAGE, True),
        _asked(1, "EmbedStream") + data(1, MESSAGE) * 5,
        data(1, MESSAGE) * 3,
        data(1, MESSAGE, True),
        _asked(3, "Embed") + data(3, MESSAGE, True),
        frames.window_update(0, 1000),
    ),
    "instance": (
        _answered(1, 1) + _ended(1),
        _answered(1, 4),
        data(1, framed(b"more")) * 3 + _ended(1),
        _answered(3, 1) + _ended(3),
        frames.rst_stream(1, 7),
        frames.settings({4: 20}),
    ),
}
"""What either side may say in Z12, so that a few octets get far."""


def z12_shortcuts(octets: bytes) -> None:
    """Say the same in one piece and octet by octet; both sides see the same."""
    said = {"client": b"", "instance": b""}
    for choice, rest in pieces(octets):
        side = "client" if choice & 0x80 else "instance"
        known = SAID[side]
        said[side] += known[(choice & 0x3F) % len(known)] if choice & 0x40 else rest
    assert _carry(said, whole=True) == _carry(said, whole=False)


def _carry(said: dict[str, bytes], whole: bool) -> Any:
    """Return what a client and an instance got, frames of a stream joined."""
    instances: list[Wire] = []
    with memory_switch(("a", 1)) as memory:
        memory.loop.dial = lambda _host, _port, wire: instances.append(wire)
        client = memory.loop.connect()
        _deliver(client, HELLO, True)
        _deliver(client, said["client"], whole)
        memory.loop.settle()
        for wire in instances[:1]:
            _deliver(wire, frames.settings({}) + said["instance"], whole)
        memory.loop.settle()
        got = [_seen(wire) for wire in (client, *instances[:1])]
        for wire in (client, *instances):
            wire.cut()
        memory.loop.settle()
    return got


def _deliver(wire: Wire, octets: bytes, whole: bool) -> None:
    for piece in [octets] if whole else [bytes((octet,)) for octet in octets]:
        wire.deliver(piece)


def _seen(wire: Wire) -> dict[int, list[Any]]:
    """Return what each stream got: heads, all DATA as one, its end; windows do not count."""
    streams: dict[int, list[Any]] = {}
    for frame in parse(wire.take().removeprefix(frames.PREFACE)):
        seen = streams.setdefault(frame.stream_id, [])
        if frame.kind == DATA and seen and isinstance(seen[-1], bytes):
            seen[-1] += frame.payload
        elif frame.kind == DATA:
            seen.append(frame.payload)
        elif frame.kind in (HEADERS, RST_STREAM):
            seen.append((frame.kind, frame.payload))
        elif frame.kind == GOAWAY:
            seen.append((GOAWAY, frame.payload[4:]))
        if frame.kind in (DATA, HEADERS) and frame.flags & frames.END_STREAM:
            seen.append("end")
    return streams
