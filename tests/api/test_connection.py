"""Connections of the control API over real sockets: what slow, broken and many peers may hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from control_plane import running

from tei_manager.api import bodies, connection
from tei_manager.api.server import _api

pytestmark = pytest.mark.asyncio

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """Where the API of a manager without instances listens."""
    async with running(tmp_path) as rig:
        listener = socket.create_server(("127.0.0.1", 0))
        async with _api(rig.manager, listener):
            yield listener.getsockname()[1]


class Peer:
    """One connection of a client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, octets: bytes) -> None:
        self._writer.write(octets)

    async def answer(self) -> tuple[int, Any]:
        """Status and body of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next(line for line in lines if line.startswith("content-length:"))
        body = await self._reader.readexactly(int(length.partition(":")[2]))
        return int(lines[0].split()[1]), json.loads(body)

    async def ended(self) -> bytes:
        """What comes until the server closes."""
        return await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def _peer(port: int) -> AsyncIterator[Peer]:
    async with asyncio.timeout(30):
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        try:
            yield peer
        finally:
            await peer.close()


async def test_answers_do_not_wait_for_the_client_to_acknowledge_their_heads(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head and body go out one after the other: the kernel would hold the second for 40 ms."""
    made: list[asyncio.Transport] = []
    begin = connection.Connection.connection_made

    def connection_made(self: connection.Connection, transport: asyncio.Transport) -> None:
        begin(self, transport)
        made.append(transport)

    monkeypatch.setattr(connection.Connection, "connection_made", connection_made)
    async with _peer(port) as peer:
        peer.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await peer.answer())[0] == 200
        accepted = made[0].get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("begin", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nA: b\r\n"])
async def test_head_that_does_not_come_is_ended(
    port: int, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    async with _peer(port) as peer:
        peer.send(begin)
        assert await _refusal(peer) == (408, "REQUEST_TIMEOUT")
        assert await peer.ended() == b""


async def _refusal(peer: Peer) -> tuple[int, str]:
    """Status and code of the next answer, which must be an error in the one shape."""
    status, body = await peer.answer()
    assert set(body) == {"error", "code", "timestamp"}
    return status, body["code"]


async def test_head_that_trickles_in_gets_no_more_time_than_one_that_does_not_come(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    async with _peer(port) as peer:

        async def trickle() -> None:
            peer.send(b"GET /health HTTP/1.1\r\n")
            while True:
                peer.send(b"A: b\r\n")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert (await peer.answer())[0] == 408
        trickling.cancel()


async def test_second_head_of_a_connection_is_held_to_the_same_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    async with _peer(port) as peer:
        peer.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await peer.answer())[0] == 200
        peer.send(b"GET /health")
        assert (await peer.answer())[0] == 408


async def test_request_that_is_worked_on_is_not_late(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.5)
    async with _peer(port) as peer:
        peer.send(b"POST /instances HTTP/1.1\r\nContent-Length: 9\r\n" + HOST + JSON + b"\r\n")
        status, body = await peer.answer()
        assert (status, body["error"]) == (408, "The body did not come within 0.5 s")
        assert await peer.ended() == b""


async def test_body_over_the_limit_is_answered_although_it_is_still_being_sent(port: int) -> None:
    async with _peer(port) as peer:
        head = b"POST /instances HTTP/1.1\r\nContent-Length: 400000\r\n"
        peer.send(head + HOST + JSON + b"\r\n" + b" " * 400_000)
        assert (await peer.answer())[0] == 413
        assert await peer.ended() == b""


@pytest.mark.parametrize(
    "octets",
    [b"\x16\x03\x01\x00\xa5\x01\x00", b"GET\r\n\r\n",
     b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
     b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
     b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n", b"GET / HTTP/1.1\r\n A: b\r\n\r\n"],
)  # fmt: skip
async def test_what_is_no_request_is_refused_in_the_one_shape(port: int, octets: bytes) -> None:
    async with _peer(port) as peer:
        peer.send(octets)
        assert await _refusal(peer) == (400, "BAD_REQUEST")


async def _ask_for_ever(peer: Peer, octets: bytes) -> None:
    while True:
        peer.send(octets)
        await peer._writer.drain()


async def test_client_that_does_not_read_is_ended(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.1)
    async with _peer(port) as peer:
        many = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        with pytest.raises(ConnectionError):
            await _ask_for_ever(peer, many * 100)


async def test_one_connection_too_many_is_told_so_and_others_go_on(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    request = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    async with _peer(port) as first, _peer(port) as second:
        for peer in (first, second):
            peer.send(request)
            assert (await peer.answer())[0] == 200
        async with _peer(port) as third:
            assert await _refusal(third) == (503, "TOO_MANY_CONNECTIONS")
        first.send(request)
        assert (await first.answer())[0] == 200


async def test_head_of_a_followed_log_ends_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a", autostart=False)
        listener = socket.create_server(("127.0.0.1", 0))
        async with _api(rig.manager, listener), _peer(listener.getsockname()[1]) as peer:
            peer.send(b"HEAD /instances/a/logs?follow=1 HTTP/1.1\r\nConnection: close\r\n")
            peer.send(HOST + b"\r\n")
            assert (await peer.ended()).startswith(b"HTTP/1.1 200 ")


async def test_refusal_reaches_a_client_whose_body_comes_late(port: int) -> None:
    async with _peer(port) as peer:
        head = b"POST /instances HTTP/1.1\r\nContent-Length: 2\r\nOrigin: http://evil.example\r\n"
        peer.send(head + HOST + JSON + b"\r\n")
        await peer._writer.drain()
        peer.send(b"{}")
        assert await _refusal(peer) == (403, "FORBIDDEN")
        peer.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await peer.answer())[0] == 200, "the connection goes on"
