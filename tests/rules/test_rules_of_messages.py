"""gRPC's messages, cut, compressed, announced, and one too many: rules 11 to 16."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import h2.events
import pytest
from between import between
from http2_peer import ANSWER, OK, Peer
from multiplexer import embed, framed, path

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2

pytestmark = pytest.mark.asyncio

INNER = framed(tei_pb2.EmbedRequest(inputs="Hello world").SerializeToString())
FOUR_GIB = b"\xff\xff\xff\xff"
ALLOWED = 1 << 20
"""Octets that a call may cost, which announces 4,096 times as many."""


async def test_r11_frames_may_be_cut_anywhere_and_the_instance_gets_the_same_octets() -> None:
    data = framed(embed()) * 2
    async with between() as all_three:
        for cut in range(1, len(data)):
            call = all_three.client.request(path("EmbedStream"), data=data[:cut])
            all_three.client.h2.send_data(call, data[cut:], end_stream=True)
            await all_three.client.flush()
            assert (await all_three.client.status(call))[0] == 0, cut
        assert all_three.received() == INNER * 2 * (len(data) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_r12_each_message_is_unpacked_on_its_own(encoding: str, method: str) -> None:
    packed = framed((gzip.compress if encoding == "gzip" else zlib.compress)(embed()), 1)
    count = 1 if method == "Embed" else 3
    async with between() as all_three:
        said = ("grpc-encoding", encoding)
        assert (await all_three.ask(said, method=method, data=packed * count))[0] == 0
        assert all_three.received() == INNER * count
        assert not any("grpc-encoding" in dict(request) for request in all_three.requests())


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "zstd", ""])
async def test_r12_a_plain_message_may_come_under_any_encoding(encoding: str) -> None:
    async with between() as all_three:
        assert (await all_three.ask(("grpc-encoding", encoding)))[0] == 0
        assert all_three.received() == INNER


@pytest.mark.parametrize(
    ("encoding", "flag", "code"),
    [
        ("gzip", 2, 13),
        ("identity", 255, 13),
        ("identity", 1, 13),
        ("", 1, 13),
        ("zstd", 1, 12),
        ("GZIP", 1, 12),
        ("gzip, deflate", 1, 12),
        ("gzip", 1, 13),
        ("deflate", 1, 13),
    ],
)
async def test_r12_a_flag_that_does_not_hold_ends_the_call(
    encoding: str, flag: int, code: int
) -> None:
    async with between() as all_three:
        said = ("grpc-encoding", encoding)
        assert (await all_three.ask(said, data=framed(embed(), flag)))[0] == code
        assert dict(all_three.answers()[0])["grpc-accept-encoding"] == "identity,deflate,gzip"
        assert not all_three.requests()
        assert (await all_three.ask())[0] == 0


async def test_r13_an_instance_is_asked_for_plain_answers_whatever_the_client_can_read() -> None:
    async with between() as all_three:
        assert (await all_three.ask(("grpc-accept-encoding", "gzip, zstd")))[0] == 0
        (request,) = all_three.requests()
        said = [value for name, value in request if name == "grpc-accept-encoding"]
        assert said == ["identity"]


async def test_r13_an_instance_that_compresses_all_the_same_is_passed_on_untouched() -> None:
    answers = framed(gzip.compress(b"hi"), 1) + framed(b"ho")

    async def packing(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(request.stream_id, [*ANSWER, ("grpc-encoding", "gzip")])
        peer.h2.send_data(request.stream_id, answers)
        peer.h2.send_headers(request.stream_id, OK, end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with between(packing) as all_three:
        assert (await all_three.ask(method="EmbedStream"))[0] == 0
        assert dict(all_three.answers()[0])["grpc-encoding"] == "gzip"
        kind = h2.events.DataReceived
        events = [event for event in all_three.client.seen if isinstance(event, kind)]
        assert b"".join(event.data or b"" for event in events) == answers


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("method", ["Embed", "EmbedStream", "Info", "RerankStream"])
async def test_r14_four_announced_gibibytes_are_refused_at_once_and_held_nowhere(
    method: str, encoding: str
) -> None:
    async with between() as all_three:
        assert (await all_three.ask(method="RerankStream", data=b"\2", end=True))[0]  # is loaded
        tracemalloc.start()
        try:
            data = bytes((encoding == "gzip",)) + FOUR_GIB
            said = ("grpc-encoding", encoding)
            code, message = await all_three.ask(said, method=method, data=data, end=False)
            assert (code, tracemalloc.get_traced_memory()[1] < ALLOWED) == (8, True)
        finally:
            tracemalloc.stop()
        assert message.startswith("message of 4294967295 bytes is larger than the limit")
        assert not all_three.requests()


async def test_r14_four_gibibytes_announced_by_an_instance_are_refused_where_read() -> None:
    """Ranking reads answers; every other method passes them on as they come."""

    async def boast(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.RequestReceived)
        peer.h2.send_headers(request.stream_id, ANSWER)
        peer.h2.send_data(request.stream_id, b"\0" + FOUR_GIB + bytes(100))
        await peer.flush()
        await peer.closed(60)

    inner = tei_pb2.RerankStreamRequest(query="q", text="t")
    to = mux_pb2.Target(instance_name="a")
    message = mux_pb2.RerankStreamRequest(target=to, request=inner).SerializeToString()
    async with between(boast) as all_three:
        code, text = await all_three.ask(method="RerankStream", data=framed(message))
        assert code == 8
        assert text.startswith("message of 4294967295 bytes is larger than the limit")


@pytest.mark.parametrize("cut", [None, 3, 20])
async def test_r15_a_unary_call_with_a_second_message_is_refused(cut: int | None) -> None:
    """Both in one frame, or the second in a frame of its own, behind part of the first."""
    data = framed(embed())
    async with between() as all_three:
        call = all_three.client.request(path("Embed"), data=(data * 2)[:cut] if cut else data)
        await all_three.client.flush()
        all_three.client.h2.send_data(call, (data * 2)[cut:] if cut else data, end_stream=True)
        await all_three.client.flush()
        assert await all_three.client.status(call) == (13, "Embed takes one message, not more")
        assert (await all_three.ask())[0] == 0


@pytest.mark.parametrize("method", ["Embed", "EmbedStream", "Info", "RerankStream"])
@pytest.mark.parametrize("left", [1, 4, 5, 9])
async def test_r15_an_end_inside_a_message_is_refused(method: str, left: int) -> None:
    async with between() as all_three:
        data = framed(embed())[:left]
        assert (await all_three.ask(method=method, data=data))[0] == 3
        assert not all_three.received()


@pytest.mark.parametrize("method", ["Embed", "EmbedStream", "Info", "RerankStream"])
async def test_r15_an_end_without_a_message_is_refused(method: str) -> None:
    async with between() as all_three:
        assert (await all_three.ask(method=method, data=b""))[0] == 3
        call = all_three.client.request(path(method), end=True)  # by its headers
        await all_three.client.flush()
        assert (await all_three.client.status(call))[0] == 3
        assert not all_three.requests()


async def test_r15_an_instance_that_answers_a_unary_call_twice_is_passed_on() -> None:
    """A client library must find it, as it would without us."""

    async def twice(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.answer(request.stream_id, framed(b"hi"), framed(b"ho"))
        await peer.flush()
        await peer.closed(60)

    async with between(twice) as all_three:
        assert (await all_three.ask())[0] == 0
        kind = h2.events.DataReceived
        events = [event for event in all_three.client.seen if isinstance(event, kind)]
        assert b"".join(event.data or b"" for event in events) == framed(b"hi") + framed(b"ho")


@pytest.mark.parametrize("other", [{"index": 1}, {"instance_name": "b"}, {"model": "org/b"}])
async def test_r16_a_later_message_for_elsewhere_ends_the_call_and_reaches_nobody(
    other: dict[str, Any],
) -> None:
    async with between() as all_three:
        data = framed(embed("one")) + framed(embed("two", **other))
        code, message = await all_three.ask(method="EmbedStream", data=data)
        assert (code, message[:28]) == (3, "This stream has one instance")
        assert b"two" not in all_three.received()
