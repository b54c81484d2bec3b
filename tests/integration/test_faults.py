"""Clients, instances and the multiplexer itself that end in mid-call: who hears of it, and when."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import h2.errors
import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import ANSWER, Peer, connect, scripted
from multiplexer import CHANNEL_OPTIONS, embed, framed, multiplexer_process, path
from wire_pair import HELLO

from tei_manager.wire import frames, hpack

pytestmark = pytest.mark.asyncio

logger = logging.getLogger(__name__)

SAMPLES = 200
LATE = 0.5
"""Seconds that news may take on a machine that does other work; 0.005 to 0.02 are promised, and
what it was is logged."""

CALL = b"".join(
    hpack.literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path("EmbedStream").encode()),
        (b"content-type", b"application/grpc"),
    )
)


def tell(what: str, seconds: list[float]) -> float:
    """Log what news took, and return the 99th percentile."""
    took = sorted(seconds)
    half, most = took[len(took) // 2], took[len(took) * 99 // 100]
    logger.info("%s: median %.1f ms, 99th percentile %.1f ms", what, half * 1e3, most * 1e3)
    return most


class Watched:
    """An instance that answers nothing, and says when calls come and when they are reset."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[None] = asyncio.Queue()
        self.reset: asyncio.Queue[float] = asyncio.Queue()

    async def serve(self, peer: Peer, _number: int) -> None:
        await peer.start()
        while True:
            event = await peer.next(h2.events.Event, limit=60)
            if isinstance(event, h2.events.RequestReceived):
                self.came.put_nowait(None)
            elif isinstance(event, h2.events.StreamReset):
                self.reset.put_nowait(monotonic())


async def test_a_cancel_reaches_the_instance_within_milliseconds() -> None:
    watched, took = Watched(), []
    async with (
        scripted(watched.serve) as tei,
        multiplexer_process(("a", tei.port)) as mux,
        AsyncExitStack() as clients,
    ):
        for number in range(SAMPLES):
            if number % 100 == 0:  # as a client may reset 200 young calls
                client = await clients.enter_async_context(connect(mux.port))
            call = client.request(path("EmbedStream"), data=framed(embed()))
            await client.flush()
            await watched.came.get()
            start = monotonic()
            client.h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)
            await client.flush()
            took.append(await asyncio.wait_for(watched.reset.get(), 10) - start)
    assert tell("cancel", took) < LATE


async def test_a_client_that_is_killed_is_noticed_within_milliseconds() -> None:
    """A connection whose last holder is another process, which is killed with -9."""
    watched, took = Watched(), []
    data = frames.frame(frames.DATA, 0, 1, framed(embed()))
    wire = HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, CALL) + data
    async with scripted(watched.serve) as tei, multiplexer_process(("a", tei.port)) as mux:
        for _ in range(SAMPLES):
            with socket.create_connection(("127.0.0.1", mux.port)) as client:
                client.sendall(wire)
                await asyncio.wait_for(watched.came.get(), 10)
                holder = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
                    ("sleep", "60"), pass_fds=(client.fileno(),)
                )
            start = monotonic()
            holder.kill()
            took.append(await asyncio.wait_for(watched.reset.get(), 10) - start)
            holder.wait()
    assert tell("kill", took) < LATE


async def test_an_instance_that_dies_in_mid_stream_fails_its_own_calls_at_once() -> None:
    """Its sockets are cut, as a killed process' kernel does; twenty streams each time."""
    took: list[float] = []

    async def mortal(peer: Peer, _number: int) -> None:
        await peer.start()
        while True:
            call = (await peer.next(h2.events.RequestReceived, limit=60)).stream_id
            peer.h2.send_headers(call, ANSWER)
            peer.h2.send_data(call, b"\0\0\0\0\2hi")
            await peer.flush()

    async with (
        fake_tei() as other,
        scripted(mortal) as tei,
        multiplexer_process(("a", tei.port), ("b", other.port)) as mux,
        connect(mux.port) as client,
    ):
        spared = client.request(path("EmbedStream"), data=framed(embed(name="b")))
        await client.flush()
        await client.next(h2.events.DataReceived, spared)
        for deaths in range(1, 11):
            calls = [client.request(path("EmbedStream"), data=framed(embed())) for _ in range(20)]
            await client.flush()
            for call in calls:
                await client.next(h2.events.DataReceived, call)
            start = monotonic()
            tei.peers[deaths - 1].cut()
            for call in calls:
                code, message = await client.status(call)
                took.append(monotonic() - start)
                assert (code, message[:34]) == (14, "connection to instance 'a' lost: r")
            await come_back(client)
        client.h2.send_data(spared, framed(embed(name="b")), end_stream=True)
        await client.flush()
        assert await client.status(spared) == (0, "")
    assert tell("death of an instance", took) < LATE


async def come_back(client: Peer) -> None:
    """Call until the instance is reached again."""
    while True:
        call = client.request(path("EmbedStream"), data=framed(embed()))
        await client.flush()
        while True:
            event = await client.next(h2.events.Event)
            if getattr(event, "stream_id", None) != call:
                continue
            if isinstance(event, h2.events.DataReceived):
                return
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                break


async def test_a_thousand_calls_of_five_clients_survive_sigterm() -> None:
    async with (
        fake_tei() as tei,
        multiplexer_process(("a", tei.port)) as mux,
        AsyncExitStack() as channels,
    ):
        calls = []
        for _ in range(5):
            channel: Any = await channels.enter_async_context(
                grpc.aio.insecure_channel(mux.address, options=CHANNEL_OPTIONS)
            )
            ask = channel.unary_unary(path("Embed"))
            calls += [asyncio.ensure_future(ask(embed("sleep 3"), timeout=60)) for _ in range(200)]
        for _ in calls:
            await tei.call(limit=30)
        mux.process.send_signal(signal.SIGTERM)
        done = await asyncio.gather(*calls, return_exceptions=True)
        lost = [answer for answer in done if isinstance(answer, BaseException)]
        assert not lost, f"{len(lost)} of {len(done)} lost: {lost[0]!r}"
        async with asyncio.timeout(10):
            assert await mux.process.wait() == 0
