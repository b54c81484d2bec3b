"""Prefixes, whole messages, and inflating under a limit."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.grpc.status import Code, StatusError
from tei_manager.wire.messages import MessageCounter, MessageReader, frame, inflate

PACK: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}
encodings = st.sampled_from(sorted(PACK))


def framed(message: bytes, flag: int) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=6),
    encodings,
    st.lists(st.integers(0, 1000), max_size=8),
)
def test_any_cut_of_any_messages_gives_the_same_messages(
    script: list[tuple[bytes, bool]], encoding: bytes, cuts: list[int]
) -> None:
    stream = b"".join(
        framed(PACK[encoding](message), 1) if packed else frame(message)
        for message, packed in script
    )
    reader = MessageReader(1000, encoding)
    got = [message for piece in cut(stream, cuts) for message in reader.feed(piece)]
    assert got == [message for message, _ in script]
    assert reader.at_boundary
    assert reader.held == 0


@given(
    st.lists(st.integers(0, 300), max_size=8),
    st.lists(st.integers(0, 1000), max_size=8),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_any_cut_of_any_messages_is_counted_alike_and_no_faster_than_asked(
    sizes: list[int], cuts: list[int], most: list[int]
) -> None:
    """What is not taken comes again, and begins where a message begins."""
    stream = b"".join(frame(bytes(size)) for size in sizes)
    starts = {sum(size + 5 for size in sizes[:n]) for n in range(len(sizes) + 1)}
    counter, turn, taken = MessageCounter(), 0, 0
    for piece in cut(stream, cuts):
        rest = piece
        while rest:
            before, turn = counter.count, turn + 1
            size = counter.feed(rest, most[turn % len(most)] or (turn % 2))
            taken, rest = taken + size, rest[size:]
            assert counter.count - before <= 3
            assert not rest or taken in starts
    assert counter.count == len(sizes)
    whole = MessageCounter()
    assert whole.feed(stream) == len(stream)
    assert whole.count == len(sizes)


def test_one_message_of_many_is_counted_without_a_look_at_the_others() -> None:
    """What is held is let through a message at a time, so that would be work by its square."""
    looked: list[object] = []

    class Held(bytearray):
        def __getitem__(self, place: object) -> object:  # type: ignore[override]
            looked.append(place)
            return super().__getitem__(place)  # type: ignore[call-overload]

    assert MessageCounter().feed(Held(frame(b"ab") * 1000), 1) == 7
    assert looked == []


@given(st.binary(max_size=40), st.sampled_from([b"identity", b"gzip", b"br"]))
def test_arbitrary_octets_end_in_messages_or_a_status(data: bytes, encoding: bytes) -> None:
    reader = MessageReader(1000, encoding)
    try:
        reader.feed(data)
    except StatusError:
        return
    assert reader.held <= len(data)


def test_inside_a_message_is_no_boundary() -> None:
    reader = MessageReader(1000)
    assert reader.at_boundary
    for octet in frame(b"ab")[:-1]:
        assert reader.feed(bytes((octet,))) == []
        assert not reader.at_boundary
    assert reader.feed(b"b") == [b"ab"]
    assert reader.at_boundary


@pytest.mark.parametrize(
    ("prefix", "encoding", "code", "text"),
    [
        (b"\0\xff\xff\xff\xff", b"identity", Code.RESOURCE_EXHAUSTED, "4294967295 bytes .* 1000"),
        (b"\0\0\0\x03\xe9", b"identity", Code.RESOURCE_EXHAUSTED, "1001 bytes"),
        (b"\1\0\0\0\1", b"identity", Code.INTERNAL, "no grpc-encoding"),
        (b"\1\0\0\0\1", b"", Code.INTERNAL, "no grpc-encoding"),
        (b"\1\0\0\0\1", b"br", Code.UNIMPLEMENTED, "'br'"),
        (b"\2\0\0\0\1", b"gzip", Code.INTERNAL, "flag 2"),
        (b"\xff\0\0\0\0", b"gzip", Code.INTERNAL, "flag 255"),
    ],
)
def test_a_bad_prefix_is_refused_before_anything_behind_it(
    prefix: bytes, encoding: bytes, code: Code, text: str
) -> None:
    with pytest.raises(StatusError, match=text) as caught:
        MessageReader(1000, encoding).feed(prefix)
    assert caught.value.code is code


def test_an_unknown_encoding_does_not_hurt_plain_messages() -> None:
    assert MessageReader(1000, b"br").feed(frame(b"ab")) == [b"ab"]


@given(st.binary(max_size=100_000), encodings)
def test_inflating_gives_back_what_was_packed(message: bytes, encoding: bytes) -> None:
    assert inflate(PACK[encoding](message), encoding, len(message)) == message


@pytest.mark.parametrize("encoding", sorted(PACK))
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 65_536 * 3, 300_000])
def test_inflating_is_exact_at_its_steps_and_its_limit(encoding: bytes, size: int) -> None:
    packed = PACK[encoding](bytes(size))
    assert inflate(packed, encoding, size) == bytes(size)
    if size:
        with pytest.raises(StatusError) as caught:
            inflate(packed, encoding, size - 1)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("encoding", sorted(PACK))
@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-1],
        lambda packed: packed[:3],
        lambda packed: b"",
        lambda packed: packed + b"x",
        lambda packed: packed + packed,
        lambda packed: packed + bytes(100_000),
        lambda packed: packed[:-5] + bytes(5),
        lambda packed: b"not compressed",
    ],
    ids=["cut", "cut short", "empty", "garbage", "two members", "long garbage", "sum", "plain"],
)
def test_what_is_not_exactly_one_stream_is_internal(encoding: bytes, spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(StatusError) as caught:
        inflate(spoil(PACK[encoding](b"some text" * 100)), encoding, 10_000)
    assert caught.value.code is Code.INTERNAL


def test_raw_deflate_is_not_what_grpc_calls_deflate() -> None:
    packer = zlib.compressobj(wbits=-15)
    with pytest.raises(StatusError):
        inflate(packer.compress(b"text") + packer.flush(), b"deflate", 100)


def test_a_gibibyte_in_a_mebibyte_costs_its_limit_and_one_step() -> None:
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    assert len(bomb) < 1 << 21
    limit = 4 << 20
    tracemalloc.start()
    try:
        with pytest.raises(StatusError) as caught:
            inflate(bomb, b"deflate", limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert peak < limit + (1 << 18)
