"""What a call is refused for: each row of contracts.md 3.2 that a caller can cause, as it reads."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import grpc
import grpc.aio
import h2.events
import pytest
from fake_tei import answer, fake_tei
from http2_peer import connect, fields
from hypothesis import given, settings
from hypothesis import strategies as st
from multiplexer import Multiplexer, embed, framed, multiplexer, path, table

from tei_manager.grpc.methods import METHODS, Kind
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.grpc.status import Code, decode_message
from tei_manager.routes import Route, RouteState

pytestmark = pytest.mark.asyncio

INNER = tei_pb2.EmbedRequest(inputs="hi")
WITH_DIRECTION = sorted(m.name for m in METHODS.values() if m.direction_field)


async def refusal(mux: Multiplexer, method: str, *data: bytes, end: bool = True) -> tuple[int, str]:
    """Send octets as they are and return how the call ends."""
    async with connect(mux.port) as client:
        return await _refusal(client, method, *data, end=end)


async def _refusal(client: Any, method: str, *data: bytes, end: bool = True) -> tuple[int, str]:
    call = client.request(path(method))
    for piece in data:
        client.h2.send_data(call, piece)
    if end:
        client.h2.end_stream(call)
    await client.flush()
    code, message = await client.status(call)
    return code, decode_message(message.encode())


def request(**target: Any) -> bytes:
    to = mux_pb2.Target(**target)
    return framed(mux_pb2.EmbedRequest(target=to, request=INNER).SerializeToString())


NO_TARGET = framed(mux_pb2.EmbedRequest(request=INNER).SerializeToString())
EMPTY_TARGET = request()
UNKNOWN_FIELD = framed(
    mux_pb2.EmbedRequest(
        target=mux_pb2.Target.FromString(b"\x22\x01x"), request=INNER
    ).SerializeToString()
)
NO_REQUEST = framed(
    mux_pb2.EmbedRequest(target=mux_pb2.Target(instance_name="a")).SerializeToString()
)
NOT_UTF8 = framed(b"\x0a\x04\x0a\x02\xff\xfe\x12\x04\x0a\x02hi")

ROWS = {
    "no target": (NO_TARGET, 3, "The request has no target"),
    "target without a member": (
        EMPTY_TARGET,
        3,
        "The target names no instance: set instance_name, index or model",
    ),
    "empty name": (request(instance_name=""), 3, "target.instance_name is empty"),
    "empty model": (request(model=""), 3, "target.model is empty"),
    "name is not text": (
        NOT_UTF8,
        3,
        "The target is malformed: at byte 0: target.instance_name is not UTF-8",
    ),
    "fields of a later version": (UNKNOWN_FIELD, 12, "This routing strategy is not supported"),
    "no inner request": (NO_REQUEST, 3, "Embed: field 2, the request, is missing"),
    "unknown name": (request(instance_name="xxx"), 5, "Instance 'xxx' not found"),
    "stopped": (
        request(instance_name="b"),
        14,
        "Instance 'b' is not running (status: stopped)",
    ),
    "index past the end": (request(index=1), 5, "No running instance has index 1; 1 run"),
    "unknown model": (request(model="org/x"), 5, "No instance serves model 'org/x'; 1 run"),
    "model that does not run": (
        request(model="org/b"),
        14,
        "No instance of model 'org/b' is running",
    ),
    "long name": (request(instance_name="n" * 5000), 5, f"Instance '{'n' * 128}' not found"),
    "direction that TEI dies of": (
        framed(b"\x0a\x03\x0a\x01a\x12\x06\x0a\x02hi\x20\x07"),
        3,
        "Embed: truncation_direction 7 does not exist; use 0 (right) or 1 (left)",
    ),
    "flag that does not exist": (framed(embed(), 2), 13, "message flag 2 does not exist"),
    "compressed without an encoding": (
        framed(embed(), 1),
        13,
        "message is compressed but the call has no grpc-encoding",
    ),
    "4 GiB announced": (
        b"\0\xff\xff\xff\xff",
        8,
        "message of 4294967295 bytes is larger than the limit of 67108864 bytes",
    ),
    "ends inside a message": (framed(embed())[:-1], 3, "The request ends inside a message"),
    "ends inside a prefix": (b"\0\0", 3, "The request ends inside a message"),
    "no message": (b"", 3, "Embed: no request message"),
    "two messages": (framed(embed()) * 2, 13, "Embed takes one message, not more"),
}


@pytest.mark.parametrize("row", ROWS)
async def test_a_call_that_cannot_be_served_says_why(row: str) -> None:
    data, code, message = ROWS[row]
    async with fake_tei() as tei:
        stopped = Route("b", "org/b", port=tei.port, state=RouteState.STOPPED, ordinal=1)
        running = Route("a", "org/a", port=tei.port)
        async with multiplexer(running, stopped) as mux:
            assert await refusal(mux, "Embed", data) == (code, message)
            reply = await mux.channel().unary_unary(path("Embed"))(embed("hi"))
            assert reply == answer(1, "Embed", INNER.SerializeToString())
            await mux.settled()


@pytest.mark.parametrize("state", [s for s in RouteState if s is not RouteState.RUNNING])
async def test_only_a_running_instance_takes_calls(state: RouteState) -> None:
    async with multiplexer(Route("b", port=1, state=state)) as mux:
        message = f"Instance 'b' is not running (status: {state.value})"
        assert await refusal(mux, "Embed", request(instance_name="b")) == (14, message)


async def test_a_stream_without_a_message_is_not_an_empty_success() -> None:
    async with multiplexer() as mux:
        for method in ("EmbedStream", "RerankStream"):
            assert await refusal(mux, method) == (3, f"{method}: empty stream")
        async with connect(mux.port) as client:
            call = client.request(path("EmbedStream"), end=True)
            await client.flush()
            assert (await client.status(call))[0] == 3
        await mux.settled()


async def test_the_first_message_of_a_stream_needs_a_target_and_later_ones_do_not() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        assert await refusal(mux, "EmbedStream", NO_TARGET) == (3, "The request has no target")
        for later in (
            NO_TARGET,
            EMPTY_TARGET,
            request(instance_name="a"),
            request(index=0),
            request(model="org/a"),
        ):
            data = request(instance_name="a") + later
            assert (await refusal(mux, "EmbedStream", data))[0] == 0
            assert len(tei.calls[-1].messages) == 2


ELSEWHERE = {
    "another name": request(instance_name="b"),
    "another index": request(index=1),
    "another model": request(model="org/b"),
    "unknown name": request(instance_name="xxx"),
    "empty name": framed(b"\x0a\x02\x0a\x00\x12\x04\x0a\x02hi"),
    "index past the end": request(index=7),
    "unknown model": request(model="org/x"),
    "stopped": request(instance_name="c"),
    "fields of a later version": UNKNOWN_FIELD,
    "name is not text": NOT_UTF8,
}


@pytest.mark.parametrize("later", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_a_later_message_for_anywhere_else_ends_the_stream(later: bytes) -> None:
    stopped = Route("c", port=1, state=RouteState.STOPPED, ordinal=2)
    async with (
        fake_tei(1) as one,
        fake_tei(2) as two,
        multiplexer(("a", one.port), ("b", two.port), stopped) as mux,
    ):
        code, message = await refusal(mux, "EmbedStream", request(instance_name="a") + later)
        one_instance = "This stream has one instance, 'a'; a message names another"
        malformed = "The target is malformed: at byte 0: target.instance_name is not UTF-8"
        assert (code, message) == (3, malformed if later is NOT_UTF8 else one_instance)
        assert not two.calls
        await mux.settled()


async def test_a_stream_keeps_the_instance_that_its_index_meant_at_first() -> None:
    async with fake_tei(1) as one, fake_tei(2) as two, multiplexer(("a", one.port)) as mux:
        stream = mux.channel().stream_stream(path("EmbedStream"))(timeout=10)
        message = mux_pb2.EmbedRequest(target=mux_pb2.Target(index=0), request=INNER)
        await stream.write(message.SerializeToString())
        assert await stream.read()
        mux.worker.apply(table(("b", two.port), ("a", one.port), version=2))
        await stream.write(message.SerializeToString())
        assert await stream.read() == answer(1, "EmbedStream", INNER.SerializeToString())
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_message_without_a_request_in_mid_stream_is_no_silence() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        code, message = await refusal(mux, "EmbedStream", request(instance_name="a") + NO_REQUEST)
        assert (code, message) == (3, "EmbedStream: field 2, the request, is missing")


@pytest.mark.parametrize("method", WITH_DIRECTION)
@pytest.mark.parametrize("value", [b"\x02", b"\xff" * 9 + b"\x01", b"\x82\x80\x80\x80\x10"])
async def test_no_method_lets_a_direction_pass_that_ends_the_instance(
    method: str, value: bytes
) -> None:
    number = next(m.direction_field for m in METHODS.values() if m.name == method)
    inner = bytes((number << 3,)) + value
    message = b"\x0a\x03\x0a\x01a\x12" + bytes((len(inner),)) + inner
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        code, text = await refusal(mux, method, framed(message))
        assert code == 3
        assert "truncation_direction" in text
        assert not any(call.messages for call in tei.calls)
        await mux.settled()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_request_reaches_the_instance_plain(encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    data = framed(compress(embed("hi" * 1000)), 1) + framed(embed("plain"))
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path("EmbedStream"), ("grpc-encoding", encoding), data=data, end=True)
        await client.flush()
        assert (await client.status(call))[0] == 0
        first, second = tei.calls[0].messages
        assert first == tei_pb2.EmbedRequest(inputs="hi" * 1000).SerializeToString()
        assert second == tei_pb2.EmbedRequest(inputs="plain").SerializeToString()
        assert not tei.calls[0].values("grpc-encoding")
        await mux.settled()


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_grpcios_own_compression_works_through_the_multiplexer(
    algorithm: grpc.Compression,
) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        reply = await mux.channel().unary_unary(path("Embed"))(
            embed("hi" * 5000), compression=algorithm
        )
        inner = tei_pb2.EmbedRequest(inputs="hi" * 5000).SerializeToString()
        assert reply == answer(1, "Embed", inner)


async def test_an_encoding_that_nobody_knows_is_named_with_those_that_work() -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        data = framed(embed(), 1)
        call = client.request(path("Embed"), ("grpc-encoding", "zstd"), data=data, end=True)
        await client.flush()
        message = "grpc-encoding 'zstd' is not supported; use gzip or deflate"
        assert await client.status(call) == (12, message)
        (headers,) = [e for e in client.seen if isinstance(e, h2.events.ResponseReceived)]
        assert ("grpc-accept-encoding", "identity,deflate,gzip") in fields(headers)
        await mux.settled()


async def test_a_compressed_message_that_inflates_past_the_limit_is_refused() -> None:
    bomb = framed(gzip.compress(embed("x" * 5_000_000)), 1)
    async with multiplexer() as mux, connect(mux.port) as client:
        call = client.request(path("Embed"), ("grpc-encoding", "gzip"), data=bomb, end=True)
        await client.flush()
        code, message = await client.status(call)
        assert code == 8
        assert "inflates to more than the limit of 4194304 bytes" in message
        await mux.settled()


async def test_a_compressed_message_of_5_mb_is_refused_by_its_announced_length() -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        announced = b"\x01" + (5_000_000).to_bytes(4, "big")
        call = client.request(path("Embed"), ("grpc-encoding", "gzip"), data=announced)
        await client.flush()
        message = "message of 5000000 bytes is larger than the limit of 4194304 bytes"
        assert await client.status(call) == (8, message)


async def test_a_message_over_the_limit_is_refused_before_its_first_octet() -> None:
    async with multiplexer(max_message_mb=1) as mux:
        announced = b"\0" + ((1 << 20) + 1).to_bytes(4, "big")
        message = "message of 1048577 bytes is larger than the limit of 1048576 bytes"
        assert await refusal(mux, "Embed", announced, end=False) == (8, message)


async def test_a_text_of_3_mb_goes_through() -> None:
    inner = tei_pb2.EmbedRequest(inputs="x" * 3_000_000).SerializeToString()
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        reply = await mux.channel().unary_unary(path("Embed"))(embed("x" * 3_000_000))
        assert reply == answer(1, "Embed", inner)
        await mux.settled()


async def test_above_the_memory_mark_new_calls_are_refused_and_old_ones_go_on() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        stream = mux.channel().stream_stream(path("EmbedStream"))(timeout=10)
        await stream.write(embed("one"))
        assert await stream.read()
        mux.switch.pool.queued += 1 << 30
        message = "The multiplexer is at its memory limit; try again later"
        assert await refusal(mux, "Embed", framed(embed())) == (8, message)
        await stream.write(embed("two"))
        assert await stream.read()
        mux.switch.pool.queued -= 1 << 30
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        assert mux.switch.counters.rejected == {"resource_exhausted": 1}


@pytest.mark.parametrize("value", ["1", "123456789S", "1X", "-1S", "1.5S", ""])
async def test_a_timeout_that_is_none_is_refused_and_not_ignored(value: str) -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        call = client.request(path("Embed"), ("grpc-timeout", value), data=framed(embed()))
        await client.flush()
        code, message = await client.status(call)
        assert (code, message.startswith(f"grpc-timeout '{value}' is not")) == (3, True)
        await mux.settled()


async def test_metadata_that_is_not_base64_ends_its_own_call_only() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        bad = client.request(path("Embed"), ("x-bin", "%%%"), data=framed(embed()))
        good = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        assert await client.status(bad) == (3, "metadata 'x-bin' is not base64")
        assert (await client.status(good))[0] == 0


async def test_headers_over_the_limit_end_their_own_call_only() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        for _ in range(3):
            big = client.request(path("Embed"), ("x-big", "b" * 20_000), data=framed(embed()))
            good = client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            assert (await client.status(big))[0] == 8
            assert (await client.status(good))[0] == 0
        await mux.settled()


async def test_a_client_refused_450_times_keeps_its_connection() -> None:
    """A refusal resets what the client has not half-closed; that is no fault of the client's."""
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        stay = client.request(path("EmbedStream"), data=framed(embed()))
        for _ in range(15):
            calls = []
            for _ in range(30):
                call = client.request(path("Embed"), data=request(instance_name="xxx"))
                client.h2.send_data(call, b"", end_stream=True)
                calls.append(call)
            await client.flush()
            for call in calls:
                assert (await client.status(call))[0] == 5
        client.h2.end_stream(stay)
        await client.flush()
        assert (await client.status(stay))[0] == 0
        await mux.settled()


async def test_empty_frames_are_not_passed_on_to_the_instance() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path("EmbedStream"), data=framed(embed()))
        await client.flush()
        await tei.call()
        before = next(iter(mux.switch.backends["a"]._endpoints)).connection.data_frames
        for _ in range(9):
            client.h2.send_data(call, b"")
        client.h2.end_stream(call)
        await client.flush()
        assert (await client.status(call))[0] == 0
        after = next(iter(mux.switch.backends["a"]._endpoints)).connection.data_frames
        assert after == before + 1


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200) | st.binary(max_size=100).map(framed),
    method=st.sampled_from([m.name for m in METHODS.values() if m.kind is not Kind.CLIENT_STREAM]),
)
async def test_garbage_ends_in_a_status_and_holds_nothing(data: bytes, method: str) -> None:
    async with multiplexer(("a", 1)) as mux:
        code, message = await refusal(mux, method, data)
        ours = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.INTERNAL)
        assert code in (*ours, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
        assert message
        await mux.settled()
