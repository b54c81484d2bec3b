"""When calls do not wait: what failed is set aside, and is in use again as soon as it is back."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import h2.events
import h2.settings
import pytest
from fake_tei import FakeTei, fake_tei
from http2_peer import Peer, answer_all, connect, scripted
from multiplexer import Multiplexer, embed, framed, multiplexer, path, table, until

from tei_manager.mux import connector
from tei_manager.mux.upstream import Upstream
from tei_manager.routes import Route

pytestmark = pytest.mark.asyncio


class Caller:
    """Calls one after the other on one connection, so that each is measured without a handshake."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def call(self, limit: float = 5) -> tuple[int, str]:
        """Make one call and return how it ends."""
        call = self._peer.request(path("Embed"), data=framed(embed()), end=True)
        await self._peer.flush()
        return await self._peer.status(call, limit)

    async def timed(self) -> tuple[float, int, str]:
        """Make one call and return how long it took and how it ended."""
        start = monotonic()
        code, message = await self.call()
        return monotonic() - start, code, message


@asynccontextmanager
async def caller(mux: Multiplexer) -> AsyncIterator[Caller]:
    async with connect(mux.port) as peer:
        yield Caller(peer)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def set_aside(mux: Multiplexer, name: str = "a") -> bool:
    return mux.switch.backends[name]._connector.failure is not None


async def die_in_mid_call(peer: Peer, _number: int) -> None:
    await peer.start()
    await peer.next(h2.events.StreamEnded)
    peer.cut()


async def test_calls_after_a_loss_hear_its_cause_and_never_wait() -> None:
    """The instance accepts again but says nothing: waiting for it would take the time-out."""

    async def die_once(peer: Peer, number: int) -> None:
        if number == 1:
            await die_in_mid_call(peer, number)
        await peer.reader.read()

    async with (
        scripted(die_once) as tei,
        multiplexer(("a", tei.port)) as mux,
        caller(mux) as client,
    ):
        lost = (14, "connection to instance 'a' lost: reset by peer")
        assert await client.call() == lost
        took = []
        for _ in range(50):
            seconds, *end = await client.timed()
            assert tuple(end) == lost
            took.append(seconds)
        assert sorted(took)[25] < 0.005
        assert not mux.switch.backends.waiting()
        await mux.settled()


async def test_a_refused_port_answers_within_5_ms() -> None:
    async with multiplexer(("a", free_port())) as mux, caller(mux) as client:
        took = [(await client.timed())[0] for _ in range(100)]
        assert sorted(took)[50] < 0.005
        await mux.settled()


@pytest.mark.parametrize("listens", [False, True], ids=["refused", "silent"])
async def test_attempts_that_fail_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    """Without a collection of garbage, which a worker makes seldom: it has few cycles."""
    made: list[weakref.ref[Upstream]] = []

    def attempt(*arguments: Any) -> Upstream:
        upstream = Upstream(*arguments)
        made.append(weakref.ref(upstream))
        return upstream

    monkeypatch.setattr(connector, "Upstream", attempt)
    gc.disable()
    try:
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1] if listens else free_port()
            mux = multiplexer(("a", port), connect_timeout_secs=0.1)
            async with mux as switch, caller(switch) as client:
                while len(made) < 4:
                    assert (await client.call())[0] == 14
                await until(lambda: all(each() is None for each in made[:3]))
    finally:
        gc.enable()


async def test_an_instance_that_comes_back_serves_at_once() -> None:
    took = []
    for _ in range(5):
        port = free_port()
        tei = FakeTei()
        async with multiplexer(("a", port)) as mux, caller(mux) as client:
            for _ in range(20):
                assert (await client.call())[0] == 14
            await tei.start(port)
            opened = monotonic()
            while (await client.call())[0]:
                pass
            took.append(monotonic() - opened)
            await tei.stop()
    assert sorted(took)[2] < 0.25


async def test_callers_of_an_instance_that_is_away_cost_one_attempt_in_25_ms() -> None:
    attempts = 0

    async def refuse(peer: Peer, _number: int) -> None:
        nonlocal attempts
        attempts += 1
        peer.writer.close()

    async with scripted(refuse) as tei, multiplexer(("a", tei.port)) as mux, caller(mux) as client:
        start, calls = monotonic(), 0
        while attempts < 10:
            assert (await client.call())[0] == 14
            calls += 1
        assert monotonic() - start > 9 * connector.ASKED_PAUSE
        assert calls > 3 * attempts


async def test_without_calls_attempts_end_and_the_next_call_waits_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connector, "LONGEST_PAUSE", 0.05)
    port = free_port()
    async with multiplexer(("a", port)) as mux, caller(mux) as client:
        assert (await client.call())[0] == 14
        assert set_aside(mux)
        await until(lambda: not set_aside(mux))
        await until(lambda: mux.switch.backends["a"]._connector._task is None)
        tei = FakeTei()
        await tei.start(port)
        assert (await client.call())[0] == 0
        await tei.stop()


@pytest.mark.parametrize("how", ["closed without calls", "GOAWAY"])
async def test_a_goodbye_in_peace_sets_nothing_aside(how: str) -> None:
    hello = asyncio.Event()

    async def leave(peer: Peer, number: int) -> None:
        if number == 1:
            await peer.start()
            call = await peer.next(h2.events.StreamEnded)
            peer.answer(call.stream_id, framed(b"hi"))
            if how == "GOAWAY":
                peer.writer.write(b"\0\0\x08\x07" + bytes(8) + b"\1" + bytes(4))
            await peer.flush()
            return
        await hello.wait()
        await peer.start()
        await answer_all(peer)

    async with scripted(leave) as tei, multiplexer(("a", tei.port)) as mux, caller(mux) as client:
        assert (await client.call())[0] == 0
        await until(lambda: not mux.switch.backends["a"]._endpoints)
        assert not set_aside(mux)
        waits = asyncio.create_task(client.call())
        await until(lambda: mux.switch.backends.waiting() == 1)
        hello.set()
        assert (await waits)[0] == 0


async def test_an_instance_that_breaks_whenever_it_is_idle_is_not_called_back() -> None:
    async def break_down(peer: Peer, _number: int) -> None:
        await peer.start()
        call = await peer.next(h2.events.StreamEnded)
        peer.answer(call.stream_id, framed(b"hi"))
        await peer.flush()
        peer.writer.write(b"\xff" * 64)
        await peer.closed()

    async with (
        scripted(break_down) as tei,
        multiplexer(("a", tei.port)) as mux,
        caller(mux) as client,
    ):
        for number in range(1, 4):
            assert (await client.call())[0] == 0
            await until(lambda: not mux.switch.backends["a"]._endpoints)
            assert not set_aside(mux)
            assert mux.switch.backends["a"]._connector._task is None
            assert tei.connections == number


async def test_one_broken_connection_of_several_sets_nothing_aside() -> None:
    """The instance takes one call a connection; a second caller opened a second one."""
    both, die = asyncio.Event(), asyncio.Event()

    async def narrow(peer: Peer, number: int) -> None:
        peer.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1}
        )
        await peer.start()
        call = await peer.next(h2.events.StreamEnded)
        if number == 2:
            both.set()
            await die.wait()
            peer.cut()
            return
        await die.wait()
        peer.answer(call.stream_id, framed(b"hi"))
        await peer.flush()
        await answer_all(peer)

    async with (
        scripted(narrow) as tei,
        multiplexer(("a", tei.port)) as mux,
        caller(mux) as one,
        caller(mux) as other,
    ):
        calls = [asyncio.create_task(client.call()) for client in (one, other)]
        await asyncio.wait_for(both.wait(), 5)
        die.set()
        assert sorted([code for code, _ in await asyncio.gather(*calls)]) == [0, 14]
        assert not set_aside(mux)
        assert (await one.call())[0] == 0


async def test_a_model_is_served_by_its_other_instance_while_one_is_set_aside() -> None:
    async with fake_tei() as tei:
        routes = [
            Route("a", "org/m", port=free_port(), ordinal=0),
            Route("b", "org/m", port=tei.port, ordinal=1),
        ]
        async with multiplexer(*routes) as mux, connect(mux.port) as peer:
            codes = []
            for _ in range(20):
                message = framed(embed(model="org/m"))
                call = peer.request(path("Embed"), data=message, end=True)
                await peer.flush()
                codes.append((await peer.status(call))[0])
            assert codes.count(14) <= 1
            assert codes[2:] == [0] * 18


async def test_a_route_that_goes_ends_the_attempts() -> None:
    async with multiplexer(("a", free_port())) as mux, caller(mux) as client:
        assert (await client.call())[0] == 14
        gone = mux.switch.backends["a"]._connector
        mux.worker.apply(table(version=2))
        await until(lambda: gone._task is None)
        gone.start()
        assert gone._task is None


async def test_name_that_hangs_is_looked_up_once_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More names than the loop's library has threads for, and several attempts at each."""
    names, system = [f"far-{number}.example" for number in range(8)], socket.getaddrinfo
    asked, answered = list[str](), threading.Event()

    def answer(host: Any, *rest: Any, **options: Any) -> Any:
        if str(host).endswith(".example"):
            asked.append(host)
            answered.wait(60)
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return system(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    try:
        async with fake_tei() as tei:
            far = [
                Route(name.partition(".")[0], host=name, port=80, ordinal=number)
                for number, name in enumerate(names)
            ]
            near = Route("a", host="localhost", port=tei.port, ordinal=len(far))
            async with (
                multiplexer(*far, near, connect_timeout_secs=0.05) as mux,
                connect(mux.port) as client,
            ):
                for route in far:
                    data = framed(embed(name=route.name))
                    call = client.request(path("Embed"), data=data, end=True)
                    await client.flush()
                    assert (await client.status(call, 5))[0] == 14
                await until(lambda: not any(set_aside(mux, it.name) for it in far), 20)
                assert (await Caller(client).call())[0] == 0
                assert sorted(asked) == names
    finally:
        answered.set()
