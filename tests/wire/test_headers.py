"""What a header list comes to: malformed, refused, or a head with what travels on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hpack as oracle
import pytest
from header_views import CONTENT, outcome, travels
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_pair import REQUEST, block

from tei_manager.grpc.status import Code
from tei_manager.wire import headers, hpack
from tei_manager.wire.answers import client_heads, read_response, read_response_trailers
from tei_manager.wire.frames import ErrorCode, StreamError
from tei_manager.wire.headers import (
    MAX_AUTHORIZATION,
    MAX_MEMO,
    MAX_MEMO_OCTETS,
    MAX_NEW_FIELDS,
    TOO_LONG,
    read_request,
    read_request_trailers,
    server_heads,
)

Pairs = tuple[tuple[bytes, bytes], ...]


def fields(*pairs: tuple[bytes, bytes]) -> list[hpack.Field]:
    return [(name, value, hpack.literal(name, value)) for name, value in pairs]


def asked(*pairs: tuple[bytes, bytes]) -> headers.RequestHead:
    return read_request(fields(*REQUEST, *pairs))


lines = st.sampled_from(
    [
        *REQUEST,
        CONTENT,
        (b"grpc-timeout", b"1S"),
        (b"grpc-timeout", b"soon"),
        (b"x-a", b"1"),
        (b"x-a", b"\r"),
        (b"x-bin", b"AAA"),
        (b"x-bin", b"not base64"),
        (b"host", b"test"),
        (b"X", b"capital"),
        (b":status", b"200"),
        (b"x-long", b"v" * 1900),
    ]
)
lists = st.one_of(
    st.lists(lines, max_size=5).map(lambda more: (*REQUEST, *more)),
    st.lists(lines, max_size=6).map(lambda more: ((b":status", b"200"), *more)),
    st.lists(lines, max_size=6).map(tuple),
)
conversations = st.lists(
    st.tuples(lists, st.booleans(), st.booleans(), st.none() | st.sampled_from([0, 100, 4096])),
    max_size=20,
)


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (server_heads, read_request, read_request_trailers),
        (client_heads, read_response, read_response_trailers),
    ],
    ids=["server", "client"],
)
@settings(deadline=None)
@given(script=conversations)
def test_a_memo_gives_what_decoding_gives(make: Any, first: Any, second: Any, script: Any) -> None:
    """One encoder, with and without its table; every block goes to a reader and a bare decoder."""
    reader, bare = make(), hpack.Decoder()
    encoder = oracle.Encoder()
    for pairs, trailers, indexes, size in script:
        if size is not None and indexes:
            encoder.header_table_size = size
        wire = encoder.encode([*pairs]) if indexes else block(*pairs)
        for repeat in range(1 if indexes else 2):
            build = second if trailers else first
            want = outcome(build, bare.decode(wire))
            got = outcome(reader.read_trailers if trailers else reader.read, wire)
            assert got == want, (repeat, pairs)


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
alike = st.tuples(  # of one length, so that a rest looks like the one before
    st.sampled_from([(b"traceparent", TRACE + b"1"), (b"traceparent", TRACE + b"2"),
                     (b"traceparent", TRACE + b"\r"), (b"tracestates", TRACE + b"1")]),
    st.sampled_from([(b"grpc-timeout", b"9123456u"), (b"grpc-timeout", b"8123456m"),
                     (b"grpc-timeout", b"812345xu"), (b"grpc-timeouu", b"8123456m")]),
)  # fmt: skip
new = st.lists(
    st.sampled_from(
        [
            (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01"),
            (b"grpc-timeout", b"9123456u"),
            (b"grpc-timeout", b"x"),
            (b"host", b"localhost"),
            (b"host", b"elsewhere"),
            (b"content-length", b"7"),
            (b"x-tei-model", b"m"),
            (b":authority", b"localhost"),
            (b"x-bin", b"?"),
        ]
    ),
    max_size=3,
)


@given(
    st.lists(st.tuples(new, st.integers(0, 9).map(lambda n: n == 9)), min_size=1, max_size=9)
    | st.lists(st.tuples(alike, st.just(False)), min_size=4, max_size=9),
    st.integers(3, 6),
    st.booleans(),
)
def test_a_known_beginning_gives_what_decoding_gives(
    script: list[tuple[Sequence[tuple[bytes, bytes]], bool]], shared: int, indexes: bool
) -> None:
    """Calls of one client differ behind the fields that all of them have."""
    reader, bare, encoder = server_heads(), hpack.Decoder(), oracle.Encoder()
    common = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a/B"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"u" * 70),
    ][:shared]
    known = encoder.encode(common) if indexes else block(*common)
    for position, (fields, inserts) in enumerate(script):
        wire = known + block(*fields)
        if inserts and fields:
            wire += b"\x40" + block((b"x-n", b"%d" % position))[1:]
        assert outcome(reader.read, wire) == outcome(read_request, bare.decode(wire))
        if indexes:
            known = encoder.encode(common) if not inserts else block(*common)
        indexes = indexes and not inserts


def test_what_is_remembered_of_a_client_is_bounded() -> None:
    """A thousand connections may each say as much as a header list may hold, with new lengths."""
    reader = server_heads()
    for number in range(40):
        many = [(b"x-%d" % n, b"v") for n in range(number % 60)]
        reader.read(block(*REQUEST, CONTENT, *many))
        reader.read(block(*REQUEST, CONTENT, (b"x" * (3_000 + number), b"v")))
    rests = [rest for beginning in reader._beginnings for rest in beginning.rests.items()]
    assert all(
        length <= MAX_MEMO_OCTETS and len(slots) <= MAX_NEW_FIELDS for length, slots in rests
    )


def test_equal_blocks_are_read_once_until_the_table_moves() -> None:
    reader, wire = server_heads(), block(*REQUEST)
    head = reader.read(wire)
    assert reader.read(wire) is head
    reader.skip(b"\x40\x01x\x01y")
    assert reader.read(wire) is not head


def test_a_peer_cannot_fill_the_memory_with_blocks_to_remember() -> None:
    reader = server_heads()
    for number in range(3 * MAX_MEMO):
        reader.read(block(*REQUEST, (b"x-number", b"%d" % number)))
        reader.read(block(*REQUEST, (b"x-long", b"%d" % number + b"v" * 10_000)))
        reader.read(block(*REQUEST, (b"grpc-encoding", b"%d" % number + b"v" * 10_000)))
        reader.read_trailers(block((b"x-number", b"%d" % number)))
    for memo in (reader._memo, reader.trailers_memo):
        assert len(memo) <= MAX_MEMO
        held = sum(len(w) + len(head.forward) + len(head.opaque) for w, head in memo.items())
        assert held <= MAX_MEMO * headers.MAX_MEMO_OCTETS


MALFORMED: dict[str, Pairs] = {
    "no method": REQUEST[1:],
    "no scheme": (REQUEST[0], *REQUEST[2:]),
    "no path": (*REQUEST[:2], REQUEST[3]),
    "empty path": (*REQUEST[:2], (b":path", b""), REQUEST[3]),
    "two methods": (REQUEST[0], *REQUEST),
    "late pseudo": (*REQUEST[:3], CONTENT, REQUEST[3]),
    "unknown pseudo": ((b":protocol", b"websocket"), *REQUEST),
    "capital": (*REQUEST, (b"X-A", b"1")),
    "empty name": (*REQUEST, (b"", b"1")),
    "space in name": (*REQUEST, (b"x a", b"1")),
    "colon in name": (*REQUEST, (b"x:a", b"1")),
    "NUL": (*REQUEST, (b"x", b"\0")),
    "CR": (*REQUEST, (b"x", b"a\rb")),
    "LF": (*REQUEST, (b"x", b"a\nb")),
    "connection": (*REQUEST, (b"connection", b"close")),
    "keep-alive": (*REQUEST, (b"keep-alive", b"1")),
    "proxy-connection": (*REQUEST, (b"proxy-connection", b"close")),
    "transfer-encoding": (*REQUEST, (b"transfer-encoding", b"chunked")),
    "upgrade": (*REQUEST, (b"upgrade", b"h2c")),
    "te": (*REQUEST, (b"te", b"gzip")),
    "length": (*REQUEST, (b"content-length", b"+1")),
    "lengths": (*REQUEST, (b"content-length", b"1"), (b"content-length", b"2")),
    "huge length": (*REQUEST, (b"content-length", b"9" * 19)),
    "other host": (*REQUEST, (b"host", b"elsewhere")),
    "two hosts": (*REQUEST, (b"host", b"elsewhere"), (b"host", b"test")),
}


@pytest.mark.parametrize("pairs", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_a_stream_error(pairs: Pairs) -> None:
    with pytest.raises(StreamError) as raised:
        read_request(fields(*pairs))
    assert raised.value.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        (CONTENT,),
        ((b":status", b""),),
        ((b":status", b"20"),),
        ((b":status", b"2000"),),
        ((b":status", b"abc"),),
        (CONTENT, (b":status", b"200")),
        ((b":status", b"200"), (b":status", b"200")),
        ((b":status", b"200"), (b"x", b"\r")),
    ],
)
def test_a_malformed_response_is_a_stream_error(pairs: Pairs) -> None:
    with pytest.raises(StreamError):
        read_response(fields(*pairs))


def test_authorization_is_kept_for_us_within_bounds() -> None:
    def kept(*values: bytes) -> bytes:
        return bytes(asked(CONTENT, *((b"authorization", value) for value in values)).authorization)

    assert kept() == b""
    assert kept(b"Bearer x") == b"Bearer x"
    assert kept(b"Bearer x", b"Bearer x") == b"Bearer x, Bearer x"
    assert kept(b"x" * MAX_AUTHORIZATION) == b"x" * MAX_AUTHORIZATION
    for long in ((b"x" * (MAX_AUTHORIZATION + 1),), (b"x" * 300, b"x" * 300)):
        assert kept(*long) == TOO_LONG


def test_what_belongs_to_this_hop_stays_and_the_rest_travels_in_order() -> None:
    head = asked(
        CONTENT,
        (b"te", b"trailers"),
        (b"host", b"test"),
        (b"authorization", b"Bearer x"),
        (b"grpc-timeout", b"2S"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"content-length", b"7"),
        (b"x-tei-instance", b"a"),
        (b"x-b", b"1"),
        (b"grpc-previous-rpc-attempts", b"1"),
        (b"x-b", b"2"),
        (b"trace-bin", b"AAECAw=="),
    )
    assert travels(head.forward) == [
        (b"x-b", b"1"),
        (b"grpc-previous-rpc-attempts", b"1"),
        (b"x-b", b"2"),
        (b"trace-bin", b"AAECAw=="),
    ]
    assert (head.timeout, head.encoding, head.content_length) == (2.0, b"gzip", 7)
    assert head.targets == {b"x-tei-instance": b"a"}
    assert head.refusal is None


@pytest.mark.parametrize(
    "pair", [(b"trace-bin", b"!"), (b"grpc-timeout", b"1"), (b"grpc-timeout", b"123456789S")]
)
def test_a_broken_call_in_sound_http_is_refused_with_a_status(pair: tuple[bytes, bytes]) -> None:
    refusal = asked(pair).refusal
    assert refusal is not None
    assert refusal.code in (Code.INVALID_ARGUMENT, Code.INTERNAL)


def test_a_list_above_the_limits_is_refused_and_the_table_stays_in_step() -> None:
    reader, encoder = server_heads(), oracle.Encoder()
    head = reader.read(encoder.encode([*REQUEST, (b"x-a", b"1"), (b"x-long", b"v" * 17_000)]))
    assert head.refusal is not None
    assert head.refusal.code is Code.RESOURCE_EXHAUSTED
    assert travels(reader.read(encoder.encode([*REQUEST, (b"x-a", b"1")])).forward) == [
        (b"x-a", b"1")
    ]
    many = reader.read(block(*REQUEST, *((b"cookie", b"%d" % n) for n in range(97))))
    assert many.refusal is not None


def test_trailers_above_the_limits_or_malformed_end_their_stream() -> None:
    for reader in (server_heads(), client_heads()):
        with pytest.raises(StreamError):
            reader.read_trailers(block((b"x", b"v" * 17_000)))
        with pytest.raises(StreamError):
            reader.read_trailers(block((b":path", b"/")))


@pytest.mark.parametrize(
    ("value", "status"), [(b"0", 0), (b"16", 16), (b"", 2), (b"x", 2), (b"9" * 11, 2), (b"-1", 2)]
)
def test_any_grpc_status_of_a_backend_is_a_number(value: bytes, status: int) -> None:
    assert read_response_trailers(fields((b"grpc-status", value))).grpc_status == status


def test_what_an_answer_forwards_is_what_may_travel() -> None:
    head = read_response(
        fields(
            (b":status", b"200"),
            CONTENT,
            (b"content-length", b"5"),
            (b"set-cookie", b"x"),
            (b"connection", b"close"),
            (b"x-compute-time", b"12"),
            (b"grpc-encoding", b"identity"),
        )
    )
    assert head.status == 200
    assert travels(head.forward) == [
        CONTENT,
        (b"x-compute-time", b"12"),
        (b"grpc-encoding", b"identity"),
    ]


def test_a_status_of_our_own_is_read_as_it_was_meant() -> None:
    message = "Instanz 'ä' fehlt\n100 %"
    trailers = client_heads().read_trailers(headers.status_trailers(5, message))
    assert trailers.grpc_status == 5
    assert travels(trailers.forward)[1] == (
        b"grpc-message",
        b"Instanz '%C3%A4' fehlt%0A100 %25",
    )
    assert travels(headers.status_trailers(0, "")) == [(b"grpc-status", b"0")]
