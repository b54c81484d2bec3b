"""Accepting: how many, what the others are told, and what happens without file descriptors."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import grpc.aio
import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import connect
from multiplexer import (
    CHANNEL_OPTIONS,
    embed,
    framed,
    multiplexer,
    multiplexer_process,
    path,
    until,
)

from tei_manager.mux import acceptor
from tei_manager.mux.listener import Client

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.asyncio


async def turned_away(port: int) -> str:
    """Connect, and return what the goodbye says."""
    async with connect(port) as client:
        goodbye = await client.next(h2.events.ConnectionTerminated)
        assert goodbye.error_code == 11
        return (goodbye.additional_data or b"").decode()


async def test_a_client_above_the_limit_is_told_so_and_served_when_another_has_gone() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port), max_connections=2) as mux:
        async with connect(mux.port) as first, connect(mux.port):
            await first.next(h2.events.RemoteSettingsChanged)
            await until(lambda: mux.switch.counters.client_connections == 2)
            assert await turned_away(mux.port) == "too many connections (2)"
            assert mux.switch.counters.rejected == {"too_many_connections": 1}
            call = first.request(path("Embed"), data=framed(embed()), end=True)
            await first.flush()
            assert await first.status(call) == (0, "")
        await until(lambda: not mux.switch.counters.client_connections)
        assert await mux.channel().unary_unary(path("Embed"))(embed(), timeout=5)


async def test_one_address_gets_its_share_unless_it_is_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with multiplexer(max_connections_of_address=1) as mux, connect(mux.port):
        async with connect(mux.port):
            await until(lambda: mux.switch.counters.client_connections == 2)
        monkeypatch.setattr(acceptor, "is_loopback", lambda host: False)
        message = "too many connections from this address (1)"
        assert await turned_away(mux.port) == message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
async def test_every_way_to_write_loopback_is_known(host: str) -> None:
    assert acceptor.is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"])
async def test_other_addresses_are_not_taken_for_loopback(host: str) -> None:
    assert not acceptor.is_loopback(host)


async def test_clients_that_come_and_go_at_once_are_not_counted_for_ever() -> None:
    async with multiplexer(max_connections=5) as mux:
        for _ in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", mux.port)
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()
            await until(lambda: mux.switch.counters.client_connections < 5)
        await until(lambda: not mux.switch.counters.client_connections)
        async with connect(mux.port) as client:
            await client.next(h2.events.RemoteSettingsChanged)


async def test_small_frames_are_not_delayed_by_nagle() -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        await client.next(h2.events.RemoteSettingsChanged)
        (served,) = [e for e in mux.switch.endpoints if isinstance(e, Client)]
        assert served.transport is not None
        sock = served.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_without_descriptors_nobody_is_accepted_until_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with multiplexer() as mux, connect(mux.port) as early:
        await early.next(h2.events.RemoteSettingsChanged)
        monkeypatch.setattr(acceptor, "RESERVED_FILES", 1 << 40)
        async with connect(mux.port) as late:
            start = monotonic()
            rejected = mux.switch.counters.rejected
            await until(lambda: rejected.get("no_file_descriptors", 0) >= 4)
            assert monotonic() - start >= 0.25  # no busy loop: a look in 100 ms
            assert mux.switch.counters.client_connections == 1
            call = early.request(path("Embed"), data=framed(embed()), end=True)
            await early.flush()
            assert (await early.status(call))[0] == 5
            monkeypatch.setattr(acceptor, "RESERVED_FILES", 0)
            await late.next(h2.events.RemoteSettingsChanged)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of a process from /proc")
async def test_400_clients_of_256_descriptors_cost_no_call_and_no_time() -> None:
    """The kernel's limit itself, in a process of its own: fault 16 of the catalogue."""

    def cpu_seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async with (
        fake_tei() as tei,
        multiplexer_process(("a", tei.port), files=256) as mux,
        grpc.aio.insecure_channel(mux.address, options=CHANNEL_OPTIONS) as channel,
        AsyncExitStack() as crowd,
    ):
        raw: Any = channel  # octets go without a serializer
        ask = raw.unary_unary(path("Embed"))
        assert await ask(embed(), timeout=10)
        streams = []
        for _ in range(400):
            _, writer = await asyncio.open_connection("127.0.0.1", mux.port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            streams.append(writer)
            crowd.callback(writer.close)
        before, start = cpu_seconds(mux.process.pid), monotonic()
        await asyncio.sleep(2)  # the time over which its CPU is measured
        share = (cpu_seconds(mux.process.pid) - before) / (monotonic() - start)
        logger.info("share of a core while descriptors are short: %.1f %%", share * 100)
        assert share < 0.2
        assert await ask(embed(), timeout=10)
        for writer in streams:
            with suppress(ConnectionError):
                writer.close()
        async with connect(mux.port) as late:
            await late.next(h2.events.RemoteSettingsChanged, limit=20)
