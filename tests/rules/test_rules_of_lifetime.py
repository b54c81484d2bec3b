"""Cancels, goodbyes, second tries, PINGs and limits of streams: rules 22 to 29."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.errors
import h2.events
import pytest
from between import Script, between
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http2_peer import ANSWER, Peer, answer_all
from multiplexer import embed, framed, path, table, until

from tei_manager.mux.upstream import LARGEST_ID
from tei_manager.routes import Route, RouteState
from tei_manager.wire import frames

pytestmark = pytest.mark.asyncio

CALM = h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def first_call(act: Any) -> Script:
    """An instance that does ``act`` with the first call of a connection, and serves the others."""

    async def script(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.StreamEnded)).stream_id
        act(peer, call)
        await peer.flush()
        await answer_all(peer)

    return script


@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
@pytest.mark.parametrize("how", ["reset", "close", "deadline"])
async def test_r22_a_client_that_gives_up_is_a_reset_for_the_instance_and_no_half_close(
    method: str, how: str
) -> None:
    events: list[h2.events.Event] = []

    async def wait(peer: Peer, _number: int) -> None:
        await peer.start()
        events.append(await peer.next(h2.events.StreamReset, limit=20))
        events.extend(event for event in peer.seen if isinstance(event, h2.events.StreamEnded))
        await peer.closed(60)

    async with between(wait) as all_three:
        client = all_three.client
        timeout = [("grpc-timeout", "300m")] if how == "deadline" else []
        call = client.request(path(method), *timeout, data=framed(embed()))
        await client.flush()
        if how != "deadline":
            await until(lambda: bool(all_three.received()), 10)
        if how == "reset":
            client.h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)
            await client.flush()
        elif how == "close":
            client.writer.close()
        await until(lambda: bool(events), 10)
        (reset,) = events
        assert isinstance(reset, h2.events.StreamReset)
        assert reset.error_code == h2.errors.ErrorCodes.CANCEL


async def test_r23_a_goodbye_in_two_steps_loses_no_call_and_repeats_none() -> None:
    async def leave(peer: Peer, number: int) -> None:
        await peer.start()
        if number == 1:
            call = (await peer.next(h2.events.StreamEnded)).stream_id
            peer.writer.write(frames.goaway(frames.LARGEST_STREAM_ID, 0))
            leaving.set()
            await second_asked.wait()
            peer.writer.write(frames.goaway(call, 0))
            peer.answer(call, framed(b"old"))
            await peer.flush()
            await peer.closed(20)
        else:
            await answer_all(peer, framed(b"new"))

    leaving, second_asked = asyncio.Event(), asyncio.Event()
    async with between(leave) as all_three:
        ask = all_three.mux.channel().unary_unary(path("Embed"))
        first = asyncio.ensure_future(ask(embed(), timeout=20))
        await asyncio.wait_for(leaving.wait(), 20)
        await until(lambda: not all_three.mux.switch.backends["a"]._endpoints, 20)
        assert await ask(embed(), timeout=20) == b"new"
        second_asked.set()
        assert await first == b"old"
        assert len(all_three.requests()) == 2


@pytest.mark.parametrize("code", [0x0, 0x1, 0x2, 0x8, 0xB])
async def test_r23_what_an_instance_may_have_acted_on_is_not_sent_again(code: int) -> None:
    async with between(first_call(lambda peer, call: peer.h2.reset_stream(call, code))) as three:
        assert (await three.ask())[0] != 0
        assert len(three.requests()) == 1
        assert (await three.ask())[0] == 0


async def test_r23_a_lost_connection_loses_its_calls_and_they_are_not_sent_again() -> None:
    async with between(first_call(lambda peer, _: peer.cut())) as all_three:
        code, message = await all_three.ask()
        assert code == 14
        assert message.startswith("connection to instance 'a' lost: ")
        assert len(all_three.requests()) == 1


async def test_r23_a_refusal_behind_the_beginning_of_an_answer_is_not_tried_again() -> None:
    def act(peer: Peer, call: int) -> None:
        peer.h2.send_headers(call, ANSWER)
        peer.h2.reset_stream(call, h2.errors.ErrorCodes.REFUSED_STREAM)

    async with between(first_call(act)) as all_three:
        assert (await all_three.ask())[0] == 14
        assert len(all_three.requests()) == 1


@pytest.mark.parametrize("pushback", ["0", "1500", "-1", "soon"])
async def test_r24_pushback_and_the_number_of_attempts_pass(pushback: str) -> None:
    """And we hold to it in the simplest way: no call that was answered is sent again."""
    status = [*ANSWER, ("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)]

    def act(peer: Peer, call: int) -> None:
        peer.h2.send_headers(call, status, end_stream=True)

    async with between(first_call(act)) as all_three:
        assert (await all_three.ask(("grpc-previous-rpc-attempts", "2")))[0] == 14
        (request,), (answer,) = all_three.requests(), all_three.answers()
        assert ("grpc-previous-rpc-attempts", "2") in request
        assert ("grpc-retry-pushback-ms", pushback) in answer


async def test_r26_every_ping_is_answered_in_order_with_its_octets_by_both_sides() -> None:
    pings = [b"%08d" % number for number in range(50)]

    async def pinging(peer: Peer, _number: int) -> None:
        await peer.start()
        await ping_all(peer)
        answered.set()
        await answer_all(peer)

    async def ping_all(peer: Peer) -> None:
        for ping in pings:
            peer.h2.ping(ping)
        await peer.flush()
        acks = [await peer.next(h2.events.PingAckReceived) for _ in pings]
        assert [ack.ping_data for ack in acks] == pings

    answered = asyncio.Event()
    async with between(pinging) as all_three:
        assert (await all_three.ask())[0] == 0
        await ping_all(all_three.client)
        assert answered.is_set()


async def test_r26_a_client_that_pings_too_often_is_told_in_words_that_slow_it_down() -> None:
    """GRPC's libraries double their keep-alive for just this debug data (gRFC A8)."""
    async with between() as all_three:
        all_three.client.writer.write(frames.ping(b"12345678") * 150)
        goodbye = await all_three.client.next(h2.events.ConnectionTerminated)
        assert goodbye.error_code == CALM
        assert goodbye.additional_data == b"too_many_pings"


async def test_r28_a_connection_is_replaced_before_its_numbers_run_out() -> None:
    async with between() as all_three:
        assert (await all_three.ask())[0] == 0
        (old,) = all_three.mux.switch.backends["a"]._endpoints
        old.connection.next_id = LARGEST_ID - 1
        for _ in range(3):
            assert (await all_three.ask())[0] == 0
        (first, second) = all_three.instance.peers
        ended = [
            [event.stream_id for event in peer.seen if isinstance(event, h2.events.StreamEnded)]
            for peer in (first, second)
        ]
        assert ended == [[1, LARGEST_ID - 1], [1, 3]]
        assert LARGEST_ID == (1 << 31) * 3 // 4


async def test_r29_watchers_hear_nothing_of_connections_that_come_and_go() -> None:
    """What the manager says of an instance is its health; a lost connection is not."""

    async def dies(peer: Peer, _number: int) -> None:
        await peer.start()
        await peer.next(h2.events.StreamEnded)
        peer.cut()

    async with between(dies) as all_three:
        mux = all_three.mux
        stub: Any = health_pb2_grpc.HealthStub(mux.channel())
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="a"))
        seen = [(await watch.read()).status]
        for _ in range(5):
            assert (await all_three.ask())[0] == 14
        stopped = Route("a", port=all_three.instance.port, state=RouteState.STOPPING)
        mux.worker.apply(table(stopped, version=2))
        seen.append((await asyncio.wait_for(watch.read(), 10)).status)
        assert seen == [health_pb2.HealthCheckResponse.SERVING, 2]
        watch.cancel()
        await until(lambda: not mux.switch.health._watchers, 10)


@pytest.mark.parametrize(
    "service",
    [
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.channelz.v1.Channelz/GetServers",
        "other.Service/Method",
    ],
)
async def test_r29_no_call_of_another_service_ever_reaches_an_instance(service: str) -> None:
    async with between() as all_three:
        client = all_three.client
        call = client.request("/" + service, ("x-tei-instance", "a"), data=framed(b""), end=True)
        await client.flush()
        assert (await client.status(call))[0] in (0, 12)
        assert all_three.instance.connections == 0
