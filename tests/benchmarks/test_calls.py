"""What the load writes, read by libraries that know nothing of it."""

from __future__ import annotations

import re

import h2.config
import h2.connection
import h2.events
import hpack
import pytest

from benchmarks.calls import SMALL_ANSWER, TEXT, UNARY, CallEncoder, data_frame, embed_message
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.wire import frames

MESSAGE = embed_message(TEXT + SMALL_ANSWER)
CALLS = 40


def served(octets: bytes) -> list[h2.events.Event]:
    """Let h2 be the server of a connection, and return what it saw."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    return server.receive_data(frames.PREFACE + frames.settings({}) + octets)


def headers() -> list[dict[bytes, bytes]]:
    encoder, decoder = CallEncoder(UNARY), hpack.Decoder()
    return [dict(decoder.decode(encoder.block(), raw=True)) for _ in range(CALLS)]


def test_a_server_sees_whole_calls_in_order_with_the_message_as_it_is() -> None:
    encoder = CallEncoder(UNARY, MESSAGE)
    events = served(b"".join(encoder.unary() for _ in range(CALLS)))
    begun = [event for event in events if isinstance(event, h2.events.RequestReceived)]
    data = [event for event in events if isinstance(event, h2.events.DataReceived)]
    ended = [event.stream_id for event in events if isinstance(event, h2.events.StreamEnded)]
    assert [event.stream_id for event in begun] == ended == list(range(1, 2 * CALLS, 2))
    assert [event.data for event in data] == [MESSAGE] * CALLS


def test_a_stream_is_open_until_its_last_data() -> None:
    encoder = CallEncoder(UNARY)
    octets = encoder.headers() + data_frame(1, MESSAGE) + data_frame(1, MESSAGE, end=True)
    kinds = [type(event) for event in served(octets)]
    assert kinds[-3:] == [h2.events.DataReceived, h2.events.DataReceived, h2.events.StreamEnded]


def test_a_header_block_says_the_same_with_indices_as_with_literals() -> None:
    first, *later = headers()
    assert first[b":path"] == b"/tei_multiplexer.v1.TeiMultiplexer/Embed"
    assert first[b":method"] == b"POST"
    assert first[b"te"] == b"trailers"
    assert all(block.items() >= first.items() for block in later)


def test_every_second_call_has_a_trace_and_a_timeout_that_no_other_call_has() -> None:
    blocks = headers()
    plain, varied = blocks[::2], blocks[1::2]
    assert not any(b"traceparent" in block or b"grpc-timeout" in block for block in plain)
    assert len({block[b"traceparent"] for block in varied}) == len(varied)
    assert len({block[b"grpc-timeout"] for block in varied}) == len(varied)


def test_traces_and_timeouts_have_the_forms_that_w3c_and_grpc_ask_for() -> None:
    for block in headers()[1::2]:
        assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", block[b"traceparent"])
        assert re.fullmatch(rb"[0-9]{1,8}u", block[b"grpc-timeout"])


@pytest.mark.parametrize("text", ["a.", "long" * 100 + "!"])
def test_the_message_is_a_request_whose_last_octet_ends_the_text(text: str) -> None:
    framed = embed_message(text)
    assert framed[:5] == b"\0" + (len(framed) - 5).to_bytes(4, "big")
    request = mux_pb2.EmbedRequest.FromString(framed[5:])
    assert (request.target.instance_name, request.request.inputs) == ("bench", text)
    assert framed.endswith(text.encode())


def test_a_later_connection_does_not_repeat_the_traces() -> None:
    traces = [block[b"traceparent"] for block in (*headers()[1::2], *headers()[1::2])]
    assert len(set(traces)) == len(traces)
