"""Transports: what is closed, by when, and what one turn of the loop may cost."""

from __future__ import annotations

import asyncio
import gc
import socket
from functools import partial
from itertools import pairwise
from time import monotonic
from typing import Any

import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import Peer, connect, scripted
from multiplexer import embed, framed, multiplexer, path, until
from switchboard import request_block
from wire_pair import HELLO

from tei_manager.mux import endpoint, upstream
from tei_manager.mux.call import Call
from tei_manager.mux.exchange import Exchange
from tei_manager.mux.listener import Client
from tei_manager.mux.local import LocalCall
from tei_manager.wire import frames
from tei_manager.wire.connection import Connection
from tei_manager.wire.stream import Stream

pytestmark = pytest.mark.asyncio


async def test_a_client_that_does_not_read_and_breaks_http2_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its transport is full, so no write would ever come back to say that it is time to close."""
    monkeypatch.setattr(endpoint, "CLOSE_SECONDS", 0.2)
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        _reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        window = b"\0\0\x04\x08\0\0\0\0\0\x70\0\0\0"
        settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\x70\0\0\0"
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + window)
        async with connect(mux.port) as other:  # borrows its encoder for a sound header block
            other.request(path("EmbedAll"), data=framed(embed("flood 4 4000000")), end=True)
            frames_ = other.h2.data_to_send()
        writer.write(frames_[frames_.index(b"\x01\x04\0\0\0\x01") - 3 :])
        await until(lambda: any(not e.connection.writable for e in mux.switch.endpoints))
        (client,) = [e for e in mux.switch.endpoints if not e.connection.writable]
        writer.write(b"\0\0\x05\x06\0\0\0\0\0hello")  # a PING of five octets
        await until(lambda: client.connection.closing)
        await until(lambda: client not in mux.switch.endpoints)
        await mux.settled()
        writer.close()


async def test_a_turn_of_the_loop_reads_one_buffer_of_each_client() -> None:
    """The loop itself would read up to 32 times what one client has sent before it goes on."""
    part = b"\1" + (60_000).to_bytes(4, "big") + bytes(16_000)  # compressed, so it is held
    gzip = (b"grpc-encoding", b"gzip")
    sent = HELLO + b"".join(
        frames.frame(frames.HEADERS, 4, number, request_block("EmbedStream", [gzip]))
        + frames.frame(frames.DATA, 0, number, part)
        for number in range(1, 129, 2)
    )
    async with multiplexer() as mux, connect(mux.port):
        with socket.create_connection(("127.0.0.1", mux.port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(sent))
            sock.setblocking(False)
            assert sock.send(sent) == len(sent)
            traffic, turns = mux.switch.client_traffic, [0]
            async with asyncio.timeout(10):
                while traffic.received < len(sent):
                    await asyncio.sleep(0)
                    turns.append(traffic.received)
            steps = [later - sooner for sooner, later in pairwise(turns)]
            assert max(steps) <= endpoint.READ_BUFFER < len(sent) // 10
        await mux.settled()


async def test_an_instance_that_does_not_close_its_side_is_cut_and_nothing_stops_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our side of an idle connection is closed long before; it must be left alone from then on."""
    monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(endpoint, "CLOSE_SECONDS", 1.5)

    async def deaf(peer: Peer, _number: int) -> None:
        await peer.start()
        asked = await peer.next(h2.events.StreamEnded)
        peer.answer(asked.stream_id, framed(b"hi"))
        await peer.flush()
        await asyncio.Event().wait()

    async with scripted(deaf) as instance, multiplexer(("a", instance.port)) as mux:
        for _ in range(2):
            async with connect(mux.port) as client:
                call = client.request(path("Embed"), data=framed(embed()), end=True)
                await client.flush()
                assert await client.status(call) == (0, "")
            await until(lambda: not mux.switch.endpoints, limit=15)
        assert instance.connections == 2


def _has_heard(client: endpoint.Endpoint, octets: int) -> bool:
    return client.transport is None or client.traffic.received >= octets


async def test_a_client_that_goes_on_talking_gets_its_answer_from_a_connection_that_closes() -> (
    None
):
    """Frames that come after a close are answered with a reset, which drops what waits there."""
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        window = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20})
        writer.write(frames.PREFACE + window)
        async with connect(mux.port) as other:  # borrows its encoder for a sound header block
            other.request(path("EmbedAll"), data=framed(embed("flood 1 50000")), end=True)
            question = other.h2.data_to_send()
            writer.write(question[question.index(b"\x01\x04\0\0\0\x01") - 3 :])
            await until(lambda: bool(mux.switch.counters.to_json()["responses"]))
            (client,) = [e for e in mux.switch.endpoints if e.connection.peer_streams]
            client.connection.drain()
            mux.switch.flush()
            writer.write(frames.ping(b"draining", ack=True))
            await until(lambda: client._close_by > 0)
            traffic = mux.switch.client_traffic
            heard = traffic.received
            for count in range(1, 4):
                writer.write(frames.ping(b"going on"))
                await until(partial(_has_heard, client, heard + 17 * count))
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            data = await asyncio.wait_for(reader.read(-1), 5)
        assert len(data) > 50_000
        writer.close()
        await mux.settled()


async def test_a_client_that_says_nothing_is_closed_after_the_time_for_its_hello() -> None:
    async with multiplexer() as mux:
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        start = monotonic()
        async with asyncio.timeout(12):
            data = await reader.read(-1)
        assert b"the peer was too slow" in data
        assert 4.5 < monotonic() - start < 9
        writer.close()


async def test_a_flood_of_calls_on_one_connection_does_not_hold_the_loop() -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            start = monotonic()
            await asyncio.sleep(0)
            longest = max(longest, monotonic() - start)

    async with multiplexer() as mux, connect(mux.port) as client:
        await client.next(h2.events.RemoteSettingsChanged)
        for _ in range(1000):
            client.request(path("Embed"), data=framed(embed(name="nobody")), end=True)
        data = client.h2.data_to_send()
        client.writer.write(data)
        watching = asyncio.create_task(watch())
        await until(
            lambda: (
                sum(mux.switch.counters.to_json()["responses"].get("embed", {}).values()) == 1000
            )
        )
        watching.cancel()
        assert longest < 0.5


async def test_calls_leave_no_object_behind_with_the_collector_off() -> None:
    """Reference counts alone must free everything: the collector hardly ever runs in a worker."""

    def live() -> list[Any]:
        kinds = (Call, Exchange, Stream, LocalCall, Client, Connection)
        found = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
        return [thing for thing in found if getattr(thing, "client", None) is not True]  # shared

    async def calls_of_every_kind(client: Peer) -> None:
        names = ["Embed", "EmbedStream", "RerankStream"]
        finish = [
            client.request(path("Embed"), data=framed(embed()), end=True),
            client.request(path("Embed"), data=framed(embed(name="x")), end=True),
            client.request(path("Embed"), data=framed(b"\xff"), end=True),
            client.request("/grpc.health.v1.Health/Check", data=framed(b""), end=True),
        ]
        cancel = [client.request(path(name), data=framed(embed("hang"))) for name in names]
        cancel.append(client.request("/grpc.health.v1.Health/Watch", data=framed(b"")))
        await client.flush()
        for call in finish:
            await client.status(call)
        for call in cancel:
            client.h2.reset_stream(call, 8)
        await client.flush()

    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        gc.collect()
        before = len(live())
        gc.disable()
        try:
            for _ in range(10):  # a connection may reset 200 young streams
                async with connect(mux.port) as client:
                    for _ in range(25):
                        await calls_of_every_kind(client)
                    await mux.settled()
            await until(lambda: not mux.switch.counters.client_connections)
            assert len(live()) <= before
        finally:
            gc.enable()
