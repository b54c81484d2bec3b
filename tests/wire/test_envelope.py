"""Cutting envelopes: the hot path, the reader and protobuf itself must agree."""

from __future__ import annotations

import gzip
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tei_manager.grpc.methods import Shape
from tei_manager.grpc.status import Code, StatusError
from tei_manager.wire.envelope import EMPTY, RequestReader, Start, split_canonical
from tei_manager.wire.fields import MalformedMessage
from tei_manager.wire.target import TargetKind, read_target

DIRECTION = 4
LIMIT = 1 << 16


def _pool() -> dict[str, Any]:
    """Messages of the envelope's shape, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(
        name: str, *fields: tuple[str, int, descriptor_pb2.FieldDescriptorProto.Type.ValueType, str]
    ) -> descriptor_pb2.DescriptorProto:
        described = file.message_type.add(name=name)
        for field, number, kind, type_name in fields:
            added = described.field.add(name=field, number=number, type=kind)
            if type_name:
                added.type_name = type_name
        return described

    target = message(
        "Target",
        ("instance_name", 1, kinds.TYPE_STRING, ""),
        ("index", 2, kinds.TYPE_UINT32, ""),
        ("model", 3, kinds.TYPE_STRING, ""),
    )
    target.oneof_decl.add(name="routing")
    for field in target.field:
        field.oneof_index = 0
    message(
        "Embed",
        ("inputs", 1, kinds.TYPE_STRING, ""),
        ("truncate", 2, kinds.TYPE_BOOL, ""),
        ("direction", DIRECTION, kinds.TYPE_INT32, ""),
        ("dimensions", 6, kinds.TYPE_UINT32, ""),
    )
    message(
        "Envelope",
        ("target", 1, kinds.TYPE_MESSAGE, ".t.Target"),
        ("request", 2, kinds.TYPE_MESSAGE, ".t.Embed"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))
        for name in ("Target", "Embed", "Envelope")
    }


PB = _pool()


def varint(value: int, octets: int = 0) -> bytes:
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < octets:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(number: int, data: bytes, octets: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(data), octets) + data


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def reader(**changes: Any) -> RequestReader:
    arguments = {
        "rpc_name": "Embed", "shape": Shape.WRAPPED, "direction_field": DIRECTION,
        "max_message_bytes": LIMIT, **changes,
    }  # fmt: skip
    return RequestReader(**arguments)


def run(
    pieces: list[bytes], *, pass_on: bool = False, **changes: Any
) -> tuple[list[bytes | None], bytes, tuple[Code, str] | None]:
    """Feed pieces; return the targets, all octets forwarded, and the status if one ended it.

    Pieces that lie inside a text are not fed if ``pass_on`` says so.
    """
    cutter, targets, forwarded = reader(**changes), [], bytearray()
    try:
        for piece in pieces:
            if pass_on and cutter.passes(len(piece)):
                forwarded += piece
                continue
            for part in cutter.feed(piece):
                if isinstance(part, Start):
                    targets.append(part.target)
                else:
                    forwarded += part
    except StatusError as error:
        return targets, bytes(forwarded), (error.code, error.message)
    return targets, bytes(forwarded), None


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    return [
        data[a:b] for a, b in pairwise([0, *sorted(min(c, len(data)) for c in cuts), len(data)])
    ]


inner_fields = st.one_of(
    st.builds(block, st.sampled_from([1, 1, 9, 77]), st.text(max_size=300).map(str.encode)),
    st.builds(lambda v, n: b"\x20" + varint(v, n), st.sampled_from([0, 1, 1 << 32, 2, 1 << 31]),
              st.integers(0, 10)),
    st.sampled_from([b"\x10\x01", b"\x30\x80\x03", b"\x30\xff\xff\x03", b"\x25abcd",
                     b"\x49abcdefgh", b"\x22\x01x", b"\x98\x06\x07"]),
)  # fmt: skip
inners = st.lists(inner_fields, max_size=5).map(b"".join)
targets = st.sampled_from([b"\x0a\x06minilm", b"\x10\x02", b"\x1a\x01m", b"", b"\x0a\x01a\x10\x03"])
canonical = st.builds(lambda target, inner: block(1, target) + block(2, inner), targets, inners)
odd = st.lists(
    st.one_of(
        st.builds(block, st.just(1), targets, st.integers(0, 5)),
        st.builds(block, st.just(2), inners, st.integers(0, 5)),
        st.sampled_from([b"\x18\x05", b"\x32\x02zz", b"\x0d1234", b"\x10\x01", b"\x08\x80\x00"]),
    ),
    max_size=5,
).map(b"".join)  # fmt: skip
broken = st.builds(
    lambda message, at, octet: message[: at % (len(message) + 1)] + octet
    + message[at % (len(message) + 1) + 1 :],
    canonical | odd, st.integers(0, 400), st.binary(max_size=2),
)  # fmt: skip
anything = st.one_of(canonical, odd, broken, st.binary(max_size=40))
cuts = st.lists(st.integers(0, 600), max_size=8)


@given(st.lists(anything, min_size=1, max_size=3), cuts)
def test_any_cut_gives_the_same_targets_octets_and_status(
    stream: list[bytes], edges: list[int]
) -> None:
    data = b"".join(framed(message) for message in stream)
    whole = run([data])
    for pieces in (cut(data, edges), [bytes((octet,)) for octet in data]):
        got = run(pieces)
        assert run(pieces, pass_on=True) == got
        assert (got[0], got[2]) == (whole[0], whole[2])
        # Ahead of an error a finer cut may have passed on more, but never a whole message more.
        assert got[1].startswith(whole[1])
        assert whole[2] is not None or got[1] == whole[1]


@given(st.one_of(canonical, canonical, anything), st.sampled_from([0, 3, DIRECTION]))
def test_the_hot_path_gives_what_the_reader_gives(message: bytes, direction: int) -> None:
    data = framed(message)
    split = split_canonical(data, direction)
    if split is not None:
        assert run([data], direction_field=direction) == ([split[0]], split[1], None)


@given(st.one_of(canonical, anything), st.sampled_from([0, 3, DIRECTION]))
def test_the_hot_path_for_native_calls_gives_what_the_reader_gives(
    message: bytes, direction: int
) -> None:
    data = framed(message)
    split = split_canonical(data, direction, wrapped=False)
    if split is not None:
        got = run([data], direction_field=direction, shape=Shape.PLAIN)
        assert got == ([None], data, None)
        assert split == (b"", data)


def test_the_hot_path_takes_what_encoders_write() -> None:
    for text in ("", "hello", "x" * 200, "x" * 20_000):
        request = PB["Embed"](inputs=text, truncate=True, direction=1, dimensions=384)
        envelope = PB["Envelope"](target=PB["Target"](instance_name="minilm"), request=request)
        split = split_canonical(framed(envelope.SerializeToString()), DIRECTION)
        assert split == (b"\x0a\x06minilm", framed(request.SerializeToString()))
        native = framed(request.SerializeToString())
        assert split_canonical(native, DIRECTION, wrapped=False) == (b"", native)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        framed(b""),
        framed(block(1, b"")),
        framed(block(2, b"") + block(1, b"")),
        framed(block(1, b"") + block(2, b"")) + b"\0",
        framed(block(1, b"") + block(2, b""))[:-1],
        framed(block(1, b"") + block(2, b""), flag=1),
        framed(block(1, b"") + block(2, b"") + b"\x18\x00"),
        framed(block(1, b"") + block(2, b"\x20\x02")),
        framed(block(1, b"") + block(2, b"\x20\x80\x00")),
        framed(block(1, b"") + block(2, b"\x0a\x05x")),
        framed(block(1, b"") + block(2, b"\x00\x00")),
        framed(block(1, b"x" * 128) + block(2, b"")),
    ],
)
def test_the_hot_path_leaves_all_else_to_the_reader(data: bytes) -> None:
    assert split_canonical(data, DIRECTION) is None


def reads(target: bytes, request: bytes) -> bool:
    """Whether both parts of an envelope are sound by themselves."""
    try:
        read_target(target)
        PB["Embed"]().ParseFromString(request)
    except (DecodeError, MalformedMessage):
        return False
    return True


@settings(max_examples=300)
@given(anything)
def test_what_protobuf_parses_is_forwarded_with_the_same_meaning(message: bytes) -> None:
    found, forwarded, status = run([framed(message)])
    envelope = PB["Envelope"]()
    try:
        envelope.ParseFromString(message)
    except DecodeError:
        # Ours may let pass what only the backend can judge: text that is not UTF-8, and a
        # target, which the director reads. It never makes a broken envelope a sound one.
        assert status is not None or not reads(found[0] or b"", forwarded[5:])
        return
    if status is not None:
        assert status[0] is Code.INVALID_ARGUMENT
        text = status[1]
        groups = "groups" in text
        assert groups or "direction" in text or not envelope.HasField("request")
        return
    assert (found[0] is not None) == envelope.HasField("target")
    request = PB["Embed"]()
    request.ParseFromString(forwarded[5:])
    assert request == envelope.request
    assert request.direction in (0, 1)
    expected = envelope.target.WhichOneof("routing")
    target = read_target(found[0] or b"")
    got = None if target is None or target.kind is TargetKind.UNKNOWN else target
    assert (got and got.value) == (getattr(envelope.target, expected) if expected else None)


@given(
    st.binary(max_size=80), cuts, st.sampled_from(Shape), st.sampled_from([b"identity", b"gzip"])
)
def test_arbitrary_octets_end_in_a_result_or_a_status(
    data: bytes, edges: list[int], shape: Shape, encoding: bytes
) -> None:
    run(cut(data, edges), shape=shape, encoding=encoding)


@given(st.lists(st.lists(inner_fields, max_size=4).map(b"".join), max_size=3), cuts)
def test_a_plain_request_goes_on_as_it_is_or_is_refused_as_a_wrapped_one_would_be(
    requests: list[bytes], edges: list[int]
) -> None:
    data = b"".join(map(framed, requests))
    targets, forwarded, refusal = run(cut(data, edges), shape=Shape.PLAIN)
    wrapped = b"".join(framed(block(1, b"") + block(2, request)) for request in requests)
    assert (refusal is None) == (run([wrapped])[2] is None)
    if refusal is None:
        assert (targets, forwarded) == ([None] * len(requests), data)
    else:
        assert data.startswith(forwarded)
        assert len(forwarded) < len(data)


@given(odd | canonical, cuts)
def test_a_packed_message_gives_what_the_plain_one_gives(message: bytes, edges: list[int]) -> None:
    packed = framed(gzip.compress(message), flag=1)
    assert run(cut(packed, edges), encoding=b"gzip")[0] == run([framed(message)])[0]
    if run([framed(message)])[2] is None:
        assert run(cut(packed, edges), encoding=b"gzip") == run([framed(message)])


def test_a_long_request_is_cut_through_and_never_held() -> None:
    inner = block(1, b"x" * 50_000) + b"\x20\x01"
    data = framed(block(1, b"\x0a\x01a") + block(2, inner))
    cutter, forwarded, most = reader(), bytearray(), 0
    for piece in cut(data, list(range(0, len(data), 1000))):
        for part in cutter.feed(piece):
            forwarded += part if isinstance(part, bytes) else b""
        most = max(most, cutter.held)
    assert forwarded == framed(inner)
    assert most == 0


def test_the_last_octet_waits_for_the_scan() -> None:
    inner = block(1, b"x" * 50) + b"\x20\x02"
    data = framed(block(1, b"\x0a\x01a") + block(2, inner))
    _, forwarded, status = run([bytes((octet,)) for octet in data])
    assert status is not None
    assert status[0] is Code.INVALID_ARGUMENT
    assert "truncation_direction 2 does not exist; use 0 (right) or 1 (left)" in status[1]
    assert len(forwarded) < len(framed(inner))


def test_any_bad_direction_is_refused_even_if_a_good_one_follows() -> None:
    inner = b"\x20\x07\x20\x00"
    for message in (block(1, b"") + block(2, inner), block(2, inner) + block(1, b"")):
        status = run([framed(message)])[2]
        assert status is not None
        assert "truncation_direction 7" in status[1]


def test_two_broken_requests_do_not_make_a_sound_one() -> None:
    whole = block(1, b"abcd")
    message = block(1, b"") + block(2, whole[:3]) + block(2, whole[3:])
    status = run([framed(message)])[2]
    assert status is not None
    assert status[0] is Code.INVALID_ARGUMENT


def test_requests_before_targets_and_repeated_ones_are_merged() -> None:
    message = block(2, b"\x10\x01") + block(1, b"\x0a\x01a") + b"\x1d1234" + block(2, b"\x20\x01")
    assert run([framed(message)]) == ([b"\x0a\x01a"], framed(b"\x10\x01\x20\x01"), None)
    message = block(1, b"\x0a\x01a") + block(1, b"\x10\x02") + block(2, b"")
    assert run([framed(message)]) == ([b"\x0a\x01a\x10\x02"], EMPTY, None)


def test_a_missing_request_is_told_after_the_start_and_names_the_rpc() -> None:
    got, forwarded, status = run([framed(block(1, b"\x0a\x01a"))])
    assert (got, forwarded) == ([b"\x0a\x01a"], b"")
    assert status == (Code.INVALID_ARGUMENT, "Embed: field 2, the request, is missing")


def test_a_method_without_a_request_forwards_an_empty_message() -> None:
    assert run([framed(block(1, b"\x0a\x01a"))], shape=Shape.TARGET_ONLY) == (
        [b"\x0a\x01a"],
        EMPTY,
        None,
    )
    assert run([framed(b"")], shape=Shape.TARGET_ONLY) == ([None], EMPTY, None)


def test_malformed_messages_say_where() -> None:
    status = run([framed(block(1, b"") + b"\x0b")])[2]
    assert status is not None
    assert "malformed message at byte 2" in status[1]


def test_a_declared_length_of_four_gibibytes_holds_nothing() -> None:
    cutter = reader(max_message_bytes=64 << 20)
    with pytest.raises(StatusError, match=r"4294967295 bytes is larger than .* 67108864") as caught:
        list(cutter.feed(b"\0\xff\xff\xff\xff" + bytes(1000)))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert cutter.held <= 5


@pytest.mark.parametrize(
    "first",
    [block(2, b"x" * 200), b"\x18\x00", block(1, b"x" * 200)],
    ids=["request", "?", "target"],
)
def test_a_layout_that_must_be_held_is_refused_over_its_limit(first: bytes) -> None:
    message = first + block(1, b"") + block(2, b"\x0a\x7f" + b"x" * 127)
    for pieces in ([framed(message)], [bytes((octet,)) for octet in framed(message)]):
        status = run(pieces, held_limit=100)[2]
        assert status is not None
        assert status[0] is Code.RESOURCE_EXHAUSTED


def test_a_packed_message_is_refused_over_the_held_limit_packed_or_not() -> None:
    for message in (framed(bytes(101), flag=1), framed(gzip.compress(bytes(101)), flag=1)):
        status = run([message], held_limit=100, encoding=b"gzip")[2]
        assert status is not None
        assert status[0] is Code.RESOURCE_EXHAUSTED


def test_boundaries_and_messages_are_counted() -> None:
    cutter = reader()
    data = framed(block(1, b"") + block(2, b"\x10\x01"))
    assert cutter.at_boundary
    for octet in data[:-1]:
        list(cutter.feed(bytes((octet,))))
        assert not cutter.at_boundary
    list(cutter.feed(data[-1:] + data))
    assert cutter.at_boundary
    assert cutter.messages == 2
