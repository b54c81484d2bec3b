"""Clients that hold what they do not use: calls that never begin, connections without calls."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import Peer, connect
from multiplexer import Multiplexer, embed, framed, multiplexer, path, until
from wire_pair import HELLO

from tei_manager.mux.endpoint import CLOSE_SECONDS
from tei_manager.mux.listener import Client
from tei_manager.wire import frames
from tei_manager.wire.frames import LARGEST_STREAM_ID

pytestmark = pytest.mark.asyncio

WATCH = "/grpc.health.v1.Health/Watch"
BEGINNING = framed(embed())[:9]


def clients(mux: Multiplexer) -> list[Client]:
    return [endpoint for endpoint in mux.switch.endpoints if isinstance(endpoint, Client)]


async def goodbyes(port: int) -> list[int]:
    """Connect, call nothing, and return the last stream of each GOAWAY until the end.

    (hyper-h2 takes the first GOAWAY for the end of the connection, and answers no PING behind it.)
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HELLO)
    last: list[int] = []
    with contextlib.suppress(asyncio.IncompleteReadError):
        async with asyncio.timeout(5):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == frames.GOAWAY:
                    last.append(int.from_bytes(payload[:4], "big"))
                elif head[3] == frames.PING:
                    writer.write(frames.ping(payload, ack=True))
    writer.close()
    return last


async def alive(peer: Peer) -> None:
    """Let a PING come back."""
    peer.h2.ping(b"aliveyes")
    await peer.flush()
    await peer.next(h2.events.PingAckReceived)


@pytest.mark.parametrize("said", [None, BEGINNING], ids=["nothing", "half a message"])
@pytest.mark.parametrize(
    "called", [path("Embed"), path("EmbedStream"), path("RerankStream"), WATCH]
)
async def test_a_call_that_does_not_begin_is_ended(called: str, said: bytes | None) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), first_message_secs=0.3) as mux,
        connect(mux.port) as client,
    ):
        start = monotonic()
        call = client.request(called, data=said)
        await client.flush()
        code, message = await client.status(call)
        assert code == 14
        assert message.endswith("no message within 0.3 seconds")
        assert 0.3 <= monotonic() - start < 3
        assert not tei.calls
        await mux.settled()


async def test_a_call_that_has_begun_may_be_silent_for_as_long_as_it_likes() -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), first_message_secs=0.3) as mux,
        connect(mux.port) as client,
    ):
        begun = client.request(path("EmbedStream"), data=framed(embed()))
        watch = client.request(WATCH, data=framed(b""))
        await client.flush()
        await client.next(h2.events.DataReceived, begun)
        for _ in range(2):
            silent = client.request(path("EmbedStream"))
            await client.flush()
            assert (await client.status(silent))[0] == 14
        client.h2.send_data(begun, framed(embed()), end_stream=True)
        await client.flush()
        assert await client.status(begun) == (0, "")
        assert watch in clients(mux)[0].connection.streams


async def test_a_deadline_that_comes_first_ends_a_call_that_does_not_begin() -> None:
    async with multiplexer(("a", 1), first_message_secs=5) as mux, connect(mux.port) as client:
        call = client.request(path("EmbedStream"), ("grpc-timeout", "200m"))
        await client.flush()
        assert (await client.status(call))[0] == 4
        await mux.settled()


async def test_a_connection_without_calls_is_drained_and_one_that_pings_is_kept() -> None:
    async with multiplexer(("a", 1), client_idle_secs=0.8) as mux, connect(mux.port) as pinging:
        start = monotonic()
        idle = asyncio.create_task(goodbyes(mux.port))
        while not idle.done():
            await alive(pinging)
            await asyncio.wait((idle,), timeout=0.1)
        assert 0.8 <= monotonic() - start < 4
        assert await idle == [LARGEST_STREAM_ID, 0]
        await alive(pinging)
        assert len(clients(mux)) == 1


async def test_the_keep_alive_that_we_recommend_keeps_a_connection_without_calls() -> None:
    """C-core's own pings, 30 s made shorter as the rest is."""
    async with fake_tei() as tei, multiplexer(("a", tei.port), client_idle_secs=1) as mux:
        channel = mux.channel(
            ("grpc.keepalive_time_ms", 300),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        )
        ask = channel.unary_unary(path("Embed"))
        await ask(embed())
        kept = clients(mux)
        for _ in range(2):  # twice the time after which one without pings is gone
            await goodbyes(mux.port)
        await until(lambda: clients(mux) == kept)
        await ask(embed())


async def test_a_connection_is_idle_from_its_last_call_on_and_not_from_its_last_octet() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path("EmbedStream"), data=framed(embed()))
        await client.flush()
        await client.next(h2.events.DataReceived, call)
        endpoint = clients(mux)[0]
        long_after = monotonic() + 1000
        endpoint.check(long_after)  # the call still runs
        client.h2.reset_stream(call, 8)
        await client.flush()
        await mux.settled()
        endpoint.check(long_after + 299)
        assert not endpoint.connection._draining
        endpoint.check(long_after + 301)
        assert endpoint.connection._draining


async def test_a_client_that_does_not_answer_the_goodbye_is_cut() -> None:
    async with multiplexer(("a", 1)) as mux:
        _, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        writer.write(HELLO)
        await until(lambda: any(c.connection.settled for c in clients(mux)))
        endpoint = clients(mux)[0]
        now = monotonic()
        endpoint.check(now + 301)
        assert endpoint.connection._draining
        endpoint.check(now + 302 + CLOSE_SECONDS)
        assert endpoint.connection.closing
        mux.switch.flush()
        await until(lambda: not clients(mux))
        writer.close()
