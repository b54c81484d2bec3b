"""Beside a call that an instance takes nothing of: other calls, long ones too, go through."""

from __future__ import annotations

from collections import Counter
from functools import partial

import h2.events
import pytest
from http2_peer import Peer, connect, scripted
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.mux.backends import MAX_CONNECTIONS
from tei_manager.mux.upstream import Upstream

pytestmark = pytest.mark.asyncio

HALF = 65_535 // 2
STALL = framed(embed("x" * 60_000))


class Halves:
    """An instance that gives credit for half a window at a time, as nghttp2 does.

    It takes nothing of the first call of each connection up to number ``stubborn``.
    """

    def __init__(self, stubborn: int) -> None:
        self.stubborn = stubborn

    async def serve(self, peer: Peer, number: int) -> None:
        peer.acknowledge = False
        await peer.start()
        taken: Counter[int] = Counter()
        while True:
            event = await peer.next(h2.events.Event, limit=60)
            if isinstance(event, h2.events.DataReceived):
                if number <= self.stubborn and event.stream_id == 1:
                    continue
                for of in (0, event.stream_id):
                    taken[of] += event.flow_controlled_length
                    if taken[of] > HALF:
                        peer.h2.increment_flow_control_window(taken.pop(of), of or None)
            elif isinstance(event, h2.events.StreamEnded):
                peer.answer(event.stream_id, b"\0\0\0\0\2hi")
            await peer.flush()


async def stall(client: Peer) -> int:
    """Start a call with a message that fills nearly a window."""
    call = client.request(path("EmbedStream"))
    for start in range(0, len(STALL), 16_384):
        client.h2.send_data(call, STALL[start : start + 16_384])
    await client.flush()
    return call


def has(upstreams: list[Upstream], connections: int) -> bool:
    return len(upstreams) == connections


def crowded(upstreams: list[Upstream]) -> int:
    return sum(upstream.crowded for upstream in upstreams)


async def test_a_long_call_beside_a_stalled_one_gets_a_connection_of_its_own() -> None:
    halves = Halves(stubborn=1)
    async with (
        scripted(halves.serve) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        await stall(client)
        upstreams = mux.switch.backends["a"]._endpoints
        await until(lambda: len(upstreams) == 2, limit=20)
        ask = mux.channel().unary_unary(path("Embed"))
        for _ in range(3):
            assert await ask(embed("x" * 300_000), timeout=20) == b"hi"
        assert tei.connections == 2


async def test_when_a_stalled_call_has_gone_its_connection_is_used_again() -> None:
    halves = Halves(stubborn=1)
    async with (
        scripted(halves.serve) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        call = await stall(client)
        upstreams = mux.switch.backends["a"]._endpoints
        await until(lambda: len(upstreams) == 2, limit=20)
        client.h2.reset_stream(call, 8)
        await client.flush()
        first = tei.peers[0]
        first.h2.increment_flow_control_window(HALF)  # what it had of the call
        await first.flush()
        await until(lambda: not crowded(upstreams), limit=20)
        one = mux.channel().unary_unary(path("Embed"))(embed(), timeout=10)
        assert await one == b"hi"
        assert upstreams[0].connection.next_id == 5


async def test_stalled_calls_open_no_more_connections_than_there_may_be() -> None:
    halves = Halves(stubborn=100)
    async with (
        scripted(halves.serve) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        upstreams = mux.switch.backends["a"]._endpoints
        await client.next(h2.events.WindowUpdated)  # there is room for all of them
        for number in range(2, MAX_CONNECTIONS + 2):
            await stall(client)
            want = min(number, MAX_CONNECTIONS)
            await until(partial(has, upstreams, want), limit=20)
        await until(lambda: crowded(upstreams) == MAX_CONNECTIONS, limit=20)
        short = mux.channel().unary_unary(path("Embed"))(embed(), timeout=10)
        assert await short == b"hi"  # there is room for short ones all the same
        assert tei.connections == MAX_CONNECTIONS
