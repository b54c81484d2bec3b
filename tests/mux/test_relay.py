"""What travels between a client and an instance, both ways, and what does not."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import h2.events
import pytest
from fake_tei import HEADERS, FakeTei, answer, fake_tei
from http2_peer import ANSWER, Peer, answer_all, connect, fields, scripted
from multiplexer import embed, framed, multiplexer, multiplexer_process, path, table

from tei_manager.grpc.methods import METHODS, Kind, Method
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.routes import Route

pytestmark = pytest.mark.asyncio

RELAYED = [method for method in METHODS.values() if method.kind is not Kind.CLIENT_STREAM]
TARGET = mux_pb2.Target(instance_name="a").SerializeToString()


def question(method: Method, text: str) -> bytes:
    """A request of the instance's own service, with a field that nobody knows behind it."""
    request: Any
    match method.name.removesuffix("Stream"):
        case "Info":
            return b""
        case "PredictPair":
            request = tei_pb2.PredictPairRequest(inputs=[text, text])
        case "Rerank":
            request = tei_pb2.RerankRequest(query=text, texts=["x", "y"])
        case "Decode":
            request = tei_pb2.DecodeRequest(ids=[7, 70_000])
        case _:
            request = tei_pb2.EmbedRequest(inputs=text)
    return bytes(request.SerializeToString()) + b"\xa2\x06\x05later"


def wrap(method: Method, request: bytes) -> bytes:
    """What a client sends to the multiplexer for a request: field 1 and, but for Info, field 2."""
    head = b"\x0a" + bytes((len(TARGET),)) + TARGET
    return head if method.name == "Info" else head + b"\x12" + bytes((len(request),)) + request


async def ask(channel: Any, to: str, messages: list[bytes]) -> list[bytes]:
    call = channel.stream_stream(to)(iter(messages))
    return [message async for message in call]


@pytest.mark.parametrize("method", RELAYED, ids=lambda method: method.name)
async def test_an_answer_has_the_bytes_of_the_instance_asked_directly(method: Method) -> None:
    texts = ["one"] if method.kind is Kind.UNARY else ["one", "two words", "drei"]
    direct = [question(method, text) for text in texts]
    wrapped = [wrap(method, message) for message in direct]
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        direct_channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{tei.port}")
        async with direct_channel as channel:
            expected = await ask(channel, method.backend_path, direct)
        assert await ask(mux.channel(), method.path, wrapped) == expected
        assert [call.messages for call in tei.calls] == [direct, direct]
        await mux.settled()


async def test_blocking_grpcio_clients_of_a_worker_process_get_the_same_bytes() -> None:
    def through(address: str) -> dict[str, list[bytes]]:
        untyped: Any = grpc.insecure_channel(address)
        with untyped as channel:
            return {
                method.name: list(
                    channel.stream_stream(method.path)(
                        iter([wrap(method, question(method, "one"))]), timeout=10
                    )
                )
                for method in RELAYED
            }

    async with fake_tei() as tei, multiplexer_process(("a", tei.port)) as mux:
        replies = await asyncio.to_thread(through, mux.address)
    assert replies == {
        method.name: [answer(1, method.name, question(method, "one"))] for method in RELAYED
    }


async def test_the_public_stubs_get_messages_and_what_nobody_knows_in_them() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        stub: Any = mux_grpc.TeiMultiplexerStub(mux.channel())
        target = mux_pb2.Target(instance_name="a")
        info = await stub.Info(mux_pb2.InfoRequest(target=target))
        assert info.model_id == "org/model-1"
        request = mux_pb2.EmbedRequest(target=target, request=tei_pb2.EmbedRequest(inputs="hi"))
        reply = await stub.Embed(request)
        assert reply.metadata.compute_chars == 2
        assert reply.SerializeToString().endswith(b"new")


async def test_metadata_travels_to_the_instance_in_order_and_with_its_duplicates() -> None:
    metadata = (
        ("x-one", "1"),
        ("x-bytes-bin", b"\x00\xff\x10"),
        ("x-one", "2"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("grpc-unknown-to-us", "yes"),
        ("x-one", "1"),
        ("x-long", "v" * 6000),
    )
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        await mux.channel().unary_unary(path("Embed"))(embed(), metadata=metadata)
        seen = [item for item in tei.calls[0].metadata if item in metadata]
        assert sorted(seen, key=str) == sorted(metadata, key=str)  # C-core groups some names
        assert tei.calls[0].values("x-one") == ["1", "2", "1"]
        (agent,) = tei.calls[0].values("user-agent")
        assert str(agent).startswith("grpc-python")


async def test_what_is_for_us_alone_never_reaches_an_instance() -> None:
    metadata = [
        ("authorization", "Bearer of-the-caller"),
        ("proxy-authorization", "Basic xyz"),
        ("cookie", "session=1"),
        ("x-tei-instance", "b"),
        ("x-tei-model", "m"),
        ("x-tei-index", "7"),
        ("content-length", str(len(framed(embed())))),
        ("host", "test"),
    ]
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path("Embed"), *metadata, data=framed(embed()), end=True)
        await client.flush()
        assert (await client.status(call))[0] == 0
        names = {name for name, _ in tei.calls[0].metadata}
        assert not names & {name for name, _ in metadata}


async def test_an_instance_gets_its_own_key_and_clients_never_see_one() -> None:
    async with fake_tei() as tei:
        route = Route("a", port=tei.port, api_key="secret-of-a")
        tei.initial = (("authorization", "Bearer leaked"), ("set-cookie", "a=b"), ("x-kept", "1"))
        async with multiplexer(route) as mux:
            call = mux.channel().unary_unary(path("Embed"))(
                embed(), metadata=(("authorization", "Bearer of-the-caller"),)
            )
            await call
            assert tei.calls[0].values("authorization") == ["Bearer secret-of-a"]
            initial = {str(name) for name, _ in await call.initial_metadata()}
            assert initial == {"x-kept"}


async def test_teis_eight_headers_and_trailers_of_any_kind_reach_the_client() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        tei.trailing = (("x-trailer", "1"), ("x-trailer", "2"), ("x-raw-bin", b"\x00\x01"))
        call = mux.channel().unary_unary(path("Embed"))(embed())
        await call
        assert tuple(await call.initial_metadata()) == HEADERS
        assert tuple(await call.trailing_metadata()) == tuple(tei.trailing)


@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_an_instances_own_status_passes_with_message_and_details(method: str) -> None:
    text = "fail 9 Grüße: 100 % \x7f voll"
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        tei.trailing = (("grpc-status-details-bin", b"\x08\x09\x12\x03why"),)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await ask(mux.channel(), path(method), [embed(text)])
        assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert failure.value.details() == "Grüße: 100 % \x7f voll"
        assert list(failure.value.trailing_metadata() or ()) == list[Any](tei.trailing)
        await mux.settled()


async def test_an_answer_of_trailers_alone_stays_one() -> None:
    async def fail(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.RequestReceived)
        status = [*ANSWER, ("grpc-status", "8"), ("grpc-message", "100%25%zz"), ("x-why", "1")]
        peer.h2.send_headers(request.stream_id, status, end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with (
        scripted(fail) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        call = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        assert await client.status(call) == (8, "100%25%zz")
        (headers,) = [e for e in client.seen if isinstance(e, h2.events.ResponseReceived)]
        assert ("x-why", "1") in fields(headers)
        assert not [e for e in client.seen if isinstance(e, h2.events.TrailersReceived)]


async def test_interim_answers_are_not_taken_for_the_answer() -> None:
    async def early(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(request.stream_id, [(":status", "103"), ("link", "x")])
        peer.answer(request.stream_id, framed(b"hi"))
        await peer.flush()
        await peer.closed(60)

    async with scripted(early) as tei, multiplexer(("a", tei.port)) as mux:
        reply = await mux.channel().unary_unary(path("Embed"))(embed(), timeout=5)
        assert reply == b"hi"


@pytest.mark.parametrize(
    ("http", "code"), [("401", 16), ("404", 12), ("503", 14), ("500", 2), ("302", 2)]
)
async def test_a_plain_http_answer_becomes_the_status_that_it_means(http: str, code: int) -> None:
    async def refuse(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(request.stream_id, [(":status", http), ("content-type", "text/html")])
        peer.h2.send_data(request.stream_id, b"<html>", end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with scripted(refuse) as tei, multiplexer(("a", tei.port)) as mux:
        async with connect(mux.port) as client:
            call = client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            message = f"instance 'a' answered with HTTP status {http}"
            assert await client.status(call) == (code, message)
        await mux.settled()


async def test_an_answer_without_a_status_is_an_error_and_not_a_success() -> None:
    async def forget(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(request.stream_id, ANSWER)
        peer.h2.send_data(request.stream_id, framed(b"hi"), end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with scripted(forget) as tei, multiplexer(("a", tei.port)) as mux:
        async with connect(mux.port) as client:
            call = client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            assert await client.status(call) == (
                13,
                "instance 'a' ended the call without a status",
            )
        await mux.settled()


@pytest.mark.parametrize("size", [1, 5, 6, 100])
async def test_a_message_in_pieces_arrives_as_one(size: int) -> None:
    message = framed(embed("a text of some length"))
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path("Embed"))
        for start in range(0, len(message), size):
            client.h2.send_data(call, message[start : start + size])
            await client.flush()
        client.h2.end_stream(call)
        await client.flush()
        assert (await client.status(call))[0] == 0
        request = tei_pb2.EmbedRequest(inputs="a text of some length")
        assert tei.calls[0].messages == [request.SerializeToString()]


async def test_several_messages_in_one_frame_arrive_as_several() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        data = b"".join(framed(embed(text)) for text in ("one", "two", "three"))
        call = client.request(path("EmbedStream"), data=data, end=True)
        await client.flush()
        assert (await client.status(call))[0] == 0
        assert len(tei.calls[0].messages) == 3


async def test_a_message_goes_on_before_the_next_one_comes() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        call = mux.channel().stream_stream(path("EmbedStream"))(timeout=10)
        for text in ("one", "two"):
            await call.write(embed(text))
            request = tei_pb2.EmbedRequest(inputs=text).SerializeToString()
            assert await call.read() == answer(1, "EmbedStream", request)
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_an_instance_that_answers_before_the_upload_ends_is_heard_at_once() -> None:
    async def early(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.RequestReceived)
        status = [*ANSWER, ("grpc-status", "8"), ("grpc-message", "busy")]
        peer.h2.send_headers(request.stream_id, status, end_stream=True)
        await peer.flush()
        await answer_all(peer)

    async with scripted(early) as tei, multiplexer(("a", tei.port)) as mux:
        async with connect(mux.port) as client:
            call = client.request(path("EmbedStream"), data=framed(embed()))
            await client.flush()
            assert await client.status(call) == (8, "busy")
            reset = await client.next(h2.events.StreamReset, call)
            assert reset.error_code == 0
        await mux.settled()


@pytest.mark.parametrize("layout", ["ours", "the reference's"])
async def test_both_numberings_of_index_and_model_are_understood(layout: str) -> None:
    ours = layout == "ours"
    index = b"\x10\x01" if ours else b"\x18\x01"
    model = (b"\x1a\x05" if ours else b"\x12\x05") + b"org/b"
    inner = tei_pb2.EmbedRequest(inputs="hi").SerializeToString()
    async with (
        fake_tei(1) as one,
        fake_tei(2) as two,
        multiplexer(("a", one.port), ("b", two.port)) as mux,
    ):
        for target in (index, model):
            head = b"\x0a" + bytes((len(target),)) + target
            message = head + b"\x12" + bytes((len(inner),)) + inner
            reply = await mux.channel().unary_unary(path("Embed"))(message)
            assert reply == answer(2, "Embed", inner)


async def test_a_new_table_counts_from_the_next_call_and_spares_the_one_under_way() -> None:
    async with fake_tei(1) as one, fake_tei(2) as two, multiplexer(("a", one.port)) as mux:
        channel = mux.channel()
        stream = channel.stream_stream(path("EmbedStream"))(timeout=10)
        await stream.write(embed("one"))
        inner = tei_pb2.EmbedRequest(inputs="one").SerializeToString()
        assert await stream.read() == answer(1, "EmbedStream", inner)

        mux.worker.apply(table(("a", two.port), version=2))
        reply = await channel.unary_unary(path("Embed"))(embed("one"))
        assert reply == answer(2, "Embed", inner)

        await stream.write(embed("one"))
        assert await stream.read() == answer(1, "EmbedStream", inner)
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        await mux.settled()


async def test_a_model_is_served_by_the_instance_with_the_fewest_calls() -> None:
    async with fake_tei(1) as one, fake_tei(2) as two:
        routes = [
            Route(name, "org/m", port=tei.port, ordinal=n)
            for n, (name, tei) in enumerate((("a", one), ("b", two)))
        ]
        async with multiplexer(*routes) as mux:
            channel = mux.channel()
            hanging = channel.unary_unary(path("Embed"))(embed("hang"))
            busy: FakeTei = one
            while not one.calls:
                await one.call()
            unary = channel.unary_unary(path("Embed"))
            before = len(two.calls)
            for _ in range(5):
                await unary(embed(model="org/m"))
            assert (len(busy.calls), len(two.calls) - before) == (1, 5)
            hanging.cancel()
            await one.calls[0].ended()
            await mux.settled()
            for _ in range(10):
                await unary(embed(model="org/m"))
            assert (len(one.calls), len(two.calls)) == (6, 10)
