"""Who may call, and what the others are told."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.errors
import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import connect, fields
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.mux.listener import MAX_METADATA
from tei_manager.wire import frames, hpack

pytestmark = pytest.mark.asyncio


async def raw(port: int, data: bytes) -> bytes:
    """Send octets and return everything until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(-1), 5)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("method", "content_type"),
    [
        ("GET", None),
        ("POST", None),
        ("POST", "application/json"),
        ("POST", "application/grpcweb"),
        ("PUT", "application/grpc"),
    ],
)
async def test_a_request_that_is_not_grpc_gets_415_and_a_sentence(
    method: str, content_type: str | None
) -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        headers = [
            (":method", method),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "test"),
        ]
        if content_type:
            headers.append(("content-type", content_type))
        call = client.h2.get_next_available_stream_id()
        client.h2.send_headers(call, headers, end_stream=True)
        await client.flush()
        answer = await client.next(h2.events.ResponseReceived, call)
        assert dict(fields(answer))[":status"] == "415"
        body = await client.next(h2.events.DataReceived, call)
        assert body.data == b"This port speaks gRPC: POST with content-type application/grpc.\n"
        await client.next(h2.events.StreamEnded, call)
        assert mux.switch.counters.rejected == {"not_grpc": 1}
        await mux.settled()


async def test_a_long_body_that_is_not_grpc_is_answered_before_its_end() -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        call = client.request("/", ("content-type", "text/html"))
        for _ in range(3):
            client.h2.send_data(call, bytes(16_384))
        await client.flush()
        answer = await client.next(h2.events.ResponseReceived, call)
        assert dict(fields(answer))[":status"] == "415"
        reset = await client.next(h2.events.StreamReset, call)
        assert reset.error_code == h2.errors.ErrorCodes.NO_ERROR
        await mux.settled()


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"]
)
async def test_every_form_of_grpcs_content_type_is_taken(content_type: str) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path("Embed")),
            ("content-type", content_type),
        ]
        client.h2.send_headers(call, headers)
        client.h2.send_data(call, framed(embed()), end_stream=True)
        await client.flush()
        assert (await client.status(call))[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01",
        b"\0" * 30,
        b"PRI * HTTP/2.1",
    ],
    ids=["HTTP/1", "TLS", "zeros", "almost"],
)
async def test_a_client_that_speaks_something_else_is_told_by_goaway_and_closed(
    words: bytes,
) -> None:
    async with multiplexer() as mux:
        answer = await raw(mux.port, words)
        assert b"not an HTTP/2 preface" in answer
        await until(lambda: not mux.switch.endpoints)
        await mux.settled()


@pytest.mark.parametrize(
    "where",
    ["/", "/tei_multiplexer.v1.TeiMultiplexer/Nothing", "/other.Service/Do", "/" + "x" * 500],
)
async def test_an_unknown_method_is_unimplemented_by_its_name(where: str) -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        call = client.request(where, data=framed(b""), end=True)
        await client.flush()
        message = f"Method '{where[:128]}' is not served here"
        assert await client.status(call) == (12, message)
        assert mux.switch.counters.rejected == {"unimplemented": 1}
        assert mux.switch.counters.to_json()["responses"] == {"other": {"12": 1}}
        await mux.settled()


async def test_calls_above_a_clients_limit_are_refused_and_the_others_served() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port), max_parallel_streams=3) as mux:
        async with connect(mux.port) as client:
            calls = [
                client.request(path("Embed"), data=framed(embed("sleep 0.2")), end=True)
                for _ in range(4)  # at once, before our SETTINGS can be known
            ]
            await client.flush()
            reset = await client.next(h2.events.StreamReset, calls[3])
            assert reset.error_code == 7
            for call in calls[:3]:
                assert (await client.status(call))[0] == 0
        await mux.settled()


async def test_a_client_that_breaks_http2_takes_its_own_calls_with_it_and_no_others() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as good:
        async with connect(mux.port) as bad:
            for client in (bad, good):
                client.request(path("Embed"), data=framed(embed("hang")), end=True)
                await client.flush()
                await tei.call()
            bad.writer.write(b"\0\0\x05\x06\0\0\0\0\0hello")  # a PING of five octets
            await bad.closed()
        assert (await tei.calls[0].ended(2)).cancelled
        assert not tei.calls[1].over.is_set()
        call = good.request(path("Embed"), data=framed(embed()), end=True)
        await good.flush()
        assert (await good.status(call))[0] == 0


async def test_a_keep_alive_that_never_rests_may_go_on_for_ever() -> None:
    """30 s is recommended to users; here a thousand pings between two calls each."""
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        for _ in range(30):
            for number in range(90):
                client.h2.ping(number.to_bytes(8, "big"))
            call = client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            assert (await client.status(call))[0] == 0


async def test_clients_are_counted_while_they_are_connected() -> None:
    async with multiplexer() as mux:
        clients: list[Any] = [
            await asyncio.open_connection("127.0.0.1", mux.port) for _ in range(3)
        ]
        await until(lambda: mux.switch.counters.client_connections == 3)
        assert not mux.switch.quiet.is_set()
        for _, writer in clients:
            writer.close()
        await until(lambda: mux.switch.counters.client_connections == 0)
        assert mux.switch.quiet.is_set()


async def test_metadata_that_a_table_blows_up_is_refused_and_given_back() -> None:
    """An entry of 3,800 octets, three times in each of 1,000 calls that send nothing."""
    head = b"".join(
        hpack.literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path("Embed").encode()),
            (b"content-type", b"application/grpc"),
        )
    )
    entry = b"\x40" + hpack.literal(b"x-big", b"v" * 3_800)[1:]
    wire = frames.PREFACE + frames.settings({})
    wire += frames.frame(frames.HEADERS, frames.END_HEADERS, 1, head + entry + b"\xbe" * 2)
    for number in range(1, 1000):
        block = head + b"\xbe" * 3
        wire += frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, block)
    async with multiplexer(("a", 1)) as mux:
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        writer.write(wire)
        await until(lambda: mux.switch.counters.rejected.get("resource_exhausted", 0) > 90)
        assert mux.switch.pool.queued <= MAX_METADATA + 3 * 4_000
        assert b"too many broken streams" in await asyncio.wait_for(reader.read(-1), 5)
        writer.close()
        await mux.settled()
