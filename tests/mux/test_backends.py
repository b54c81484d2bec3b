"""Connections to instances: when they are made, how many, and what a caller hears if not."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic

import grpc
import grpc.aio
import h2.events
import h2.settings
import pytest
from fake_tei import fake_tei
from http2_peer import Peer, answer_all, connect, scripted
from multiplexer import Multiplexer, embed, framed, multiplexer, path, table, until

from tei_manager.mux import backends
from tei_manager.mux.backends import MAX_CONNECTIONS
from tei_manager.routes import Route

pytestmark = pytest.mark.asyncio


async def one(mux: Multiplexer, limit: float = 5) -> tuple[int, str]:
    """Make one call on a connection of its own and return how it ends."""
    async with connect(mux.port) as client:
        call = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        return await client.status(call, limit)


async def test_no_connection_is_made_before_the_first_call_and_one_serves_all() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        assert mux.switch.counters.to_json()["connections"] == {}
        ask = mux.channel().unary_unary(path("Embed"))
        await asyncio.gather(*(ask(embed()) for _ in range(50)))
        assert mux.switch.counters.to_json()["connections"] == {"a": 1}
        assert mux.switch.counters.to_json()["connections_open"] == {"a": 1}


async def test_an_instance_that_is_not_there_is_unavailable_with_its_address_and_the_cause() -> (
    None
):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    async with multiplexer(("a", port)) as mux:
        message = f"cannot connect to instance 'a' at 127.0.0.1:{port}: connection refused"
        for _ in range(3):
            assert await one(mux) == (14, message)
        await mux.settled()


async def test_a_host_that_cannot_be_a_name_is_unavailable_too() -> None:
    async with multiplexer(Route("a", host="x" * 300, port=1)) as mux:
        code, message = await one(mux)
        assert (code, message.startswith("cannot connect to instance 'a'")) == (14, True)
        await mux.settled()


async def test_an_instance_that_accepts_and_says_nothing_is_given_up_in_time() -> None:
    async def silent(peer: Peer, _number: int) -> None:
        await peer.reader.read()

    async with (
        scripted(silent) as tei,
        multiplexer(("a", tei.port), connect_timeout_secs=0.3) as mux,
    ):
        start = monotonic()
        code, message = await one(mux)
        assert (code, message.endswith(": no HTTP/2 settings in time")) == (14, True)
        assert 0.3 <= monotonic() - start < 2
        await mux.settled()


@pytest.mark.parametrize(
    "words",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, b"SSH-2.0-OpenSSH_9.9\r\n", b""],
    ids=["HTTP/1", "garbage", "SSH", "nothing"],
)
async def test_an_instance_that_speaks_something_else_is_unavailable_at_once(words: bytes) -> None:
    async def speak(peer: Peer, _number: int) -> None:
        peer.writer.write(words)
        await peer.writer.drain()

    async with scripted(speak) as tei, multiplexer(("a", tei.port)) as mux:
        start = monotonic()
        code, message = await one(mux)
        assert code == 14
        assert message.startswith(f"cannot connect to instance 'a' at 127.0.0.1:{tei.port}: ")
        assert monotonic() - start < 2
        await mux.settled()


async def test_calls_beyond_the_instances_limit_open_connections_and_then_wait() -> None:
    """An instance with room for one call a connection, and twenty callers."""
    go_on, under_way, most = asyncio.Event(), 0, 0

    async def narrow(peer: Peer, _number: int) -> None:
        nonlocal under_way, most
        peer.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1},
        )
        await peer.start()
        while True:
            event = await peer.next(h2.events.StreamEnded, limit=60)
            under_way += 1
            most = max(most, under_way)
            await go_on.wait()
            under_way -= 1
            peer.answer(event.stream_id, framed(b"hi"))
            await peer.flush()

    async with scripted(narrow) as tei, multiplexer(("a", tei.port)) as mux:
        ask = mux.channel().unary_unary(path("Embed"))
        calls = [asyncio.ensure_future(ask(embed(), timeout=10)) for _ in range(20)]
        await until(lambda: under_way == MAX_CONNECTIONS)
        assert mux.switch.backends.waiting() == 20 - MAX_CONNECTIONS
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await ask(embed(), timeout=0.2)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        go_on.set()
        assert await asyncio.gather(*calls) == [b"hi"] * 20
        assert (tei.connections, most) == (MAX_CONNECTIONS, MAX_CONNECTIONS)
        await mux.settled()


async def test_too_many_waiting_calls_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "MAX_WAITING", 3)

    async def silent(peer: Peer, _number: int) -> None:
        await peer.reader.read()

    async with scripted(silent) as tei, multiplexer(("a", tei.port)) as mux:
        async with connect(mux.port) as client:
            for _ in range(3):
                client.request(path("Embed"), data=framed(embed()), end=True)
            last = client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            message = "too many calls wait for a stream to instance 'a' (3)"
            assert await client.status(last) == (8, message)
        await mux.settled()


async def test_another_process_on_the_same_port_never_gets_a_call_of_the_old_one() -> None:
    async with fake_tei(1) as tei:
        old = Route("a", port=tei.port, key="pid 1")
        new = Route("a", port=tei.port, key="pid 2")
        async with multiplexer(old) as mux:
            assert (await one(mux))[0] == 0
            first = mux.switch.backends["a"]
            mux.worker.apply(table(new, version=2))
            assert mux.switch.backends["a"] is not first
            await until(lambda: not mux.switch.counters.to_json()["connections_open"]["a"])
            assert (await one(mux))[0] == 0
            assert mux.switch.counters.to_json()["connections"] == {"a": 2}


async def test_an_unchanged_route_keeps_its_connection_over_a_new_table() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        assert (await one(mux))[0] == 0
        mux.worker.apply(table(("a", tei.port), ("b", 1), version=2))
        assert (await one(mux))[0] == 0
        assert mux.switch.counters.to_json()["connections"] == {"a": 1}


async def test_withdrawing_a_route_spares_calls_under_way_and_closes_behind_them() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        stream = mux.channel().stream_stream(path("EmbedStream"))(timeout=10)
        await stream.write(embed("one"))
        assert await stream.read()
        mux.worker.apply(table(version=2))
        assert await one(mux) == (5, "Instance 'a' not found")
        await stream.write(embed("two"))
        assert await stream.read()
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        await until(lambda: len(mux.switch.endpoints) == 1)  # the client's own


async def test_withdrawing_a_route_while_it_is_connected_fails_what_waits_and_closes() -> None:
    hello = asyncio.Event()

    async def late(peer: Peer, _number: int) -> None:
        await hello.wait()
        await peer.start()
        await answer_all(peer)

    async with scripted(late) as tei, multiplexer(("a", tei.port)) as mux:
        call = asyncio.create_task(one(mux))
        await until(lambda: mux.switch.backends.waiting() == 1 and tei.connections == 1)
        mux.worker.apply(table(version=2))
        code, message = await call
        assert (code, message.endswith("it was stopped or replaced")) == (14, True)
        hello.set()
        await until(lambda: not mux.switch.endpoints)


async def test_a_thousand_callers_of_an_instance_that_comes_back_share_one_connection() -> None:
    hello = asyncio.Event()

    async def late(peer: Peer, _number: int) -> None:
        await hello.wait()
        peer.h2.local_settings = h2.settings.Settings(client=False)
        await peer.start()
        await answer_all(peer)

    async with scripted(late) as tei, multiplexer(("a", tei.port)) as mux:
        ask = mux.channel().unary_unary(path("Embed"))
        calls = [asyncio.ensure_future(ask(embed(), timeout=20)) for _ in range(1000)]
        await until(lambda: mux.switch.backends.waiting() == 1000)
        hello.set()
        assert await asyncio.gather(*calls) == [b"hi"] * 1000
        assert tei.connections == 1
        await mux.settled()
