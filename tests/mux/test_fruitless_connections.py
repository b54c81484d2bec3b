"""Instances whose connections come and go without an answer: they are not called in a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import h2.events
import pytest
from http2_peer import Peer, connect, scripted
from multiplexer import embed, framed, multiplexer, path

from tei_manager.wire import frames

pytestmark = pytest.mark.asyncio

NO_ROOM = frames.settings({frames.MAX_CONCURRENT_STREAMS: 0})
GOODBYE = frames.goaway(0, frames.ErrorCode.NO_ERROR)

MOST = 50
"""Connections in a second: one in 25 ms, and a few before the first pause."""


async def close_without_room(peer: Peer, _number: int) -> None:
    peer.writer.write(NO_ROOM)


async def say_goodbye_without_room(peer: Peer, _number: int) -> None:
    peer.writer.write(NO_ROOM + GOODBYE)
    await peer.reader.read()


async def say_goodbye_at_once(peer: Peer, _number: int) -> None:
    peer.writer.write(frames.settings({}) + GOODBYE)
    await peer.reader.read()


async def say_goodbye_to_each_call(peer: Peer, _number: int) -> None:
    await peer.start()
    await peer.next(h2.events.RequestReceived)
    peer.writer.write(GOODBYE)
    await peer.reader.read()


async def die_of_each_call(peer: Peer, _number: int) -> None:
    await peer.start()
    await peer.next(h2.events.RequestReceived)
    peer.cut()


SCRIPTS = (
    close_without_room,
    say_goodbye_without_room,
    say_goodbye_at_once,
    say_goodbye_to_each_call,
    die_of_each_call,
)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_an_instance_that_never_answers_is_not_called_in_a_loop(
    script: Callable[[Peer, int], Awaitable[None]],
) -> None:
    """A client asks again as soon as it has heard that its call failed."""
    async with (
        scripted(script) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        start = monotonic()
        while monotonic() - start < 1:
            question = framed(embed())
            call = client.request(path("Embed"), ("grpc-timeout", "300m"), data=question, end=True)
            await client.flush()
            assert (await client.status(call))[0] in (4, 14)
            client.seen.clear()
        assert 1 < tei.connections < MOST
        await mux.settled()


async def test_an_instance_that_goes_after_each_answer_is_called_for_each_call() -> None:
    async def answer_once(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.StreamEnded)).stream_id
        peer.answer(call, b"\0\0\0\0\2hi")
        await peer.flush()

    async with (
        scripted(answer_once) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        async with asyncio.timeout(5):
            for _ in range(20):
                call = client.request(path("Embed"), data=framed(embed()), end=True)
                await client.flush()
                assert (await client.status(call))[0] == 0
                await mux.settled()
        assert tei.connections == 20
