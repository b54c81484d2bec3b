"""Clients that begin oddly: who goes on is served, who does not is told or closed, in time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import Peer, connect
from multiplexer import Multiplexer, embed, framed, multiplexer, path
from wire_pair import parse

from tei_manager.wire import frames
from tei_manager.wire.frames import GOAWAY, ErrorCode

pytestmark = pytest.mark.asyncio

UPGRADE = (
    b"POST /tei.v1.Embed/Embed HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: 0\r\n\r\n"
)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

NOT_HTTP2 = {
    "an upgrade to HTTP/2": UPGRADE,
    "an upgrade, and HTTP/2 without waiting": UPGRADE + frames.PREFACE + frames.settings({}),
    "HTTP/1.1 requests in a row": GET * 50,
    "garbage behind a request": GET + bytes(range(256)) * 200,
    "a preface, and again": frames.PREFACE + frames.settings({}) + frames.PREFACE,
    "a preface twice": frames.PREFACE * 2,
    "half a preface and then another": frames.PREFACE[:12] + GET,
    "a hand-shake of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a preface and an acknowledgement": frames.PREFACE + frames.SETTINGS_ACK,
}


async def last_words(mux: Multiplexer, octets: bytes) -> ErrorCode:
    """Send octets; return why the other side ended the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
    writer.write(octets)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    goodbye = parse(answer)[-1]
    assert goodbye.kind == GOAWAY
    return ErrorCode(int.from_bytes(goodbye.payload[4:8], "big"))


@pytest.mark.parametrize("octets", NOT_HTTP2.values(), ids=NOT_HTTP2)
async def test_what_is_not_http2_is_told_so_and_closed(octets: bytes) -> None:
    async with multiplexer() as mux:
        with suppress(ConnectionResetError):  # where it was still sending
            code = await last_words(mux, octets)
            assert code in (ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR)
        await mux.settled()


async def test_a_hello_and_a_call_may_come_an_octet_at_a_time() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        client = Peer(reader, writer, client=True)
        client.h2.initiate_connection()
        call = client.request(path("Embed"), data=framed(embed()), end=True)
        for octet in client.h2.data_to_send():
            writer.write(bytes((octet,)))
            await asyncio.sleep(0)
        assert await client.status(call) == (0, "")
        writer.close()
        await mux.settled()


async def test_trailers_inside_a_message_end_the_call_with_a_status() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        for method in ("Embed", "EmbedStream", "RerankStream"):
            call = client.request(path(method), data=framed(embed())[:-3])
            client.h2.send_headers(call, [("x-end", "now")], end_stream=True)
            await client.flush()
            code, message = await client.status(call)
            assert (code, message) == (3, "The request ends inside a message")
        assert not any(isinstance(e, h2.events.ConnectionTerminated) for e in client.seen)
        await mux.settled()
