"""Clients that do not take their answers, and those that sit idle while memory is short."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic

import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import Peer, connect
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.mux import endpoint
from tei_manager.wire import frames

pytestmark = pytest.mark.asyncio

FLOOD = framed(embed("flood 4 1000000"))


async def test_a_client_whose_window_stays_shut_is_ended_with_its_call() -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), send_timeout_secs=0.1, client_idle_secs=0.5) as mux,
        connect(mux.port) as client,
    ):
        client.acknowledge = False
        start = monotonic()
        client.request(path("EmbedAll"), data=FLOOD, end=True)
        await client.flush()
        ended = await client.next(h2.events.ConnectionTerminated)
        assert ended.additional_data == b"answers are not read"
        assert monotonic() - start >= 0.5
        await (await tei.call()).ended()
        assert mux.switch.counters.broken["client"] == {"answers_are_not_read": 1}
        await mux.settled()


async def test_a_client_that_does_not_read_its_socket_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its windows are open, so what waits is in the transport and in the kernel."""
    monkeypatch.setattr(endpoint, "CLOSE_SECONDS", 0.2)
    large = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), send_timeout_secs=0.5) as mux,
        connect(mux.port) as client,
    ):
        sock: socket.socket = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.writer.write(large + frames.window_update(0, 1 << 30))
        client.request(path("EmbedAll"), data=framed(embed("flood 40 1000000")), end=True)
        await client.flush()
        await tei.call()
        await until(lambda: mux.switch.counters.client_connections == 1)
        await until(lambda: not mux.switch.counters.client_connections, limit=20)
        await mux.settled()


async def test_a_client_that_takes_a_little_now_and_then_is_left_in_peace() -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), send_timeout_secs=2, client_idle_secs=2) as mux,
        connect(mux.port) as client,
    ):
        client.acknowledge = False
        call = client.request(path("EmbedAll"), data=FLOOD, end=True)
        await client.flush()
        start = monotonic()
        await client.next(h2.events.ResponseReceived, call)
        while monotonic() - start < 4:
            size = (await client.next(h2.events.DataReceived, call)).flow_controlled_length
            await asyncio.sleep(0.1)  # it is slow
            client.h2.acknowledge_received_data(size, call)
            await client.flush()
        client.acknowledge = True
        assert not mux.switch.counters.broken["client"]


async def test_a_client_whose_call_is_long_has_nothing_to_take_and_stays() -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), send_timeout_secs=0.5) as mux,
        connect(mux.port) as client,
    ):
        call = client.request(path("Embed"), data=framed(embed("sleep 2")), end=True)
        await client.flush()
        assert await client.status(call) == (0, "")


async def test_when_memory_is_critical_idle_clients_go_and_calls_go_on() -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), memory_limit_mb=100) as mux,
        connect(mux.port) as busy,
        connect(mux.port) as idle,
    ):
        call = busy.request(path("Embed"), data=framed(embed("sleep 1.5")), end=True)
        await busy.flush()
        await tei.call()
        await until(lambda: mux.switch.counters.client_connections == 2)
        mux.switch.pool.queued += 96 << 20
        ended = await idle.next(h2.events.ConnectionTerminated)
        assert ended.additional_data == b"idle while memory is short"
        assert await busy.status(call) == (0, "")
        mux.switch.pool.queued -= 96 << 20


async def test_between_the_two_marks_idle_clients_stay() -> None:
    async with multiplexer(memory_limit_mb=100) as mux, connect(mux.port) as idle:
        await idle.next(h2.events.RemoteSettingsChanged)
        mux.switch.pool.queued += 90 << 20
        (client,) = mux.switch.endpoints
        client.check(monotonic())
        assert not client.connection.closing
        mux.switch.pool.queued -= 90 << 20


async def upload(client: Peer, part: bytes) -> bool:
    """Begin a call with octets that do not end it; say whether it was refused on the way."""
    call = client.request(path("Embed"))

    def refused() -> bool:
        kinds = (h2.events.ResponseReceived, h2.events.StreamReset)
        return any(isinstance(e, kinds) and e.stream_id == call for e in client.seen)

    for start in range(0, len(part), 16_384):
        piece = part[start : start + 16_384]
        while not refused() and client.h2.local_flow_control_window(call) < len(piece):
            await client.next(h2.events.Event)
        if refused():
            return True
        client.h2.send_data(call, piece)
        await client.flush()
    return False


async def test_a_real_pile_of_held_messages_is_refused_at_the_mark_and_given_back() -> None:
    """Each call holds 3 MiB of a message that cannot be cut through, and 100 MiB is the limit."""
    beginning = framed(embed("x" * (3 << 19)) * 2)[: 3 << 20]
    async with fake_tei() as tei, multiplexer(("a", tei.port), memory_limit_mb=100) as mux:
        async with connect(mux.port) as other, connect(mux.port) as client:
            held = 0
            while not await upload(client, beginning):
                held += 1
                assert held < 40
            assert held >= 25
            assert mux.switch.pool.queued <= 84 << 20
            call = other.request(path("Embed"), data=framed(embed()), end=True)
            await other.flush()
            assert (await other.status(call))[0] == 8
        await mux.settled()
