"""Deadlines: fired in time, reduced on the way, and cheap while they do not fire."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import ANSWER, Peer, connect, fields, scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from multiplexer import embed, framed, multiplexer, path

from tei_manager.mux.deadlines import MIN_TICKS, TICK_SECONDS, Deadlines
from tei_manager.wire.metadata import parse_timeout

pytestmark = pytest.mark.asyncio

LATE = 1.0
"""Allowed lateness. The promise is 10 to 20 ms; a machine that does other work can stop for far
longer at any moment, and that is not what these tests are to find."""


class Entry:
    def __init__(self, fired: asyncio.Queue[Entry]) -> None:
        self.fired = fired
        self.at = 0.0

    def expire(self) -> None:
        self.at = monotonic()
        self.fired.put_nowait(self)


async def test_deadlines_fire_in_order_never_early_and_within_two_ticks() -> None:
    wheel, fired = Deadlines(asyncio.get_running_loop()), asyncio.Queue[Entry]()
    start = monotonic()
    due = {Entry(fired): start + delay for delay in (0.05, 0.02, 0.021, 0.1, -1.0)}
    for entry, when in due.items():
        wheel.add(entry, when)
    order = [await asyncio.wait_for(fired.get(), 2) for _ in due]
    assert [due[e] for e in order] == sorted(due.values()) or abs(
        due[order[1]] - due[order[2]]
    ) < TICK_SECONDS
    for entry in order:
        assert due[entry] <= entry.at < max(due[entry], start) + 2 * TICK_SECONDS + LATE


async def test_a_deadline_fires_within_10_ms_more_often_than_not() -> None:
    """The median, because single ones depend on what else the machine does."""
    wheel, fired = Deadlines(asyncio.get_running_loop()), asyncio.Queue[Entry]()
    start = monotonic()
    due = {Entry(fired): start + 0.02 * number for number in range(1, 32)}
    for entry, when in due.items():
        wheel.add(entry, when)
    for _ in due:
        await asyncio.wait_for(fired.get(), 5)
    late = sorted(entry.at - when for entry, when in due.items())
    assert late[0] >= 0
    assert late[len(late) // 2] < 0.01


async def test_a_removed_deadline_never_fires_and_leaves_nothing() -> None:
    wheel, fired = Deadlines(asyncio.get_running_loop()), asyncio.Queue[Entry]()
    early, late = Entry(fired), Entry(fired)
    tick = wheel.add(early, monotonic() + 0.01)
    wheel.add(late, monotonic() + 0.03)
    wheel.remove(early, tick)
    wheel.remove(early, tick)
    assert await asyncio.wait_for(fired.get(), 2) is late
    assert fired.empty()
    assert repr(wheel) == "<Deadlines 0 due>"


async def test_far_deadlines_of_finished_calls_do_not_pile_up() -> None:
    """A client that gives each call a day would leave an entry for each until tomorrow."""
    wheel, fired = Deadlines(asyncio.get_running_loop()), asyncio.Queue[Entry]()
    stay = wheel.add(Entry(fired), monotonic() + 3600)
    for call in range(20_000):
        entry = Entry(fired)
        wheel.remove(entry, wheel.add(entry, monotonic() + 86_400 + call))
    assert stay in wheel._ticks
    assert len(wheel._order) == len(wheel._ticks) <= MIN_TICKS + 4
    wheel.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60))
async def test_whatever_is_added_and_not_removed_fires_exactly_once(
    plan: list[tuple[int, bool]],
) -> None:
    wheel, fired = Deadlines(asyncio.get_running_loop()), asyncio.Queue[Entry]()
    expected = set()
    for delay, stays in plan:
        entry = Entry(fired)
        tick = wheel.add(entry, monotonic() + delay * TICK_SECONDS / 4)
        if stays:
            expected.add(entry)
        else:
            wheel.remove(entry, tick)
    got = [await asyncio.wait_for(fired.get(), 2) for _ in expected]
    assert set(got) == expected
    assert len(got) == len(expected)
    assert not any(wheel._ticks.values())
    wheel.close()


@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_a_deadline_fires_in_time_and_the_instance_hears_of_it(method: str) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        timeout = ("grpc-timeout", "200m")
        start = monotonic()
        call = client.request(path(method), timeout, data=framed(embed("hang")))
        await client.flush()
        assert (await client.status(call))[0] == 4  # a stream's instance may be the first to say so
        assert 0.2 <= monotonic() - start < 0.2 + LATE
        seen = await tei.calls[0].ended(1)
        assert seen.cancelled
        assert seen.time_remaining is not None
        assert 0 < seen.time_remaining <= 0.2
        again = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        assert (await client.status(again))[0] == 0
        await mux.settled()


async def test_the_timeout_that_the_instance_gets_is_never_longer_and_less_the_time_spent() -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def note(peer: Peer, _number: int) -> None:
        await peer.start()
        while True:
            request = await peer.next(h2.events.RequestReceived, limit=60)
            seen.put_nowait(dict(fields(request)).get("grpc-timeout", "none"))

    async with (
        scripted(note) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        for value in ("3S", "99999999H", "2500000u", "1H"):
            client.request(path("Embed"), ("grpc-timeout", value), data=framed(embed()))
            await client.flush()
            sent = parse_timeout((await asyncio.wait_for(seen.get(), 5)).encode())
            asked = parse_timeout(value.encode())
            assert asked - 1 - asked / 1e6 < sent <= asked

        slow = client.request(path("Embed"), ("grpc-timeout", "5S"))
        await client.flush()
        client.h2.ping(b"00000000")
        await client.flush()
        await client.next(h2.events.PingAckReceived)
        client.h2.send_data(slow, framed(embed()))
        await client.flush()
        assert parse_timeout((await asyncio.wait_for(seen.get(), 5)).encode()) < 5


async def test_our_own_time_limit_is_enforced_here_and_not_told_to_the_instance() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port), request_timeout_secs=0.2) as mux:
        channel = mux.channel()
        start = monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary(path("Embed"))(embed("hang"))
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.2 <= monotonic() - start < 0.2 + LATE
        assert (await tei.calls[0].ended(1)).cancelled
        assert tei.calls[0].time_remaining is None

        stream: Any = channel.stream_stream(path("EmbedStream"))()
        await stream.write(embed("sleep 0.4"))  # a stream has no limit of ours
        assert await stream.read()
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        await mux.settled()


@pytest.mark.parametrize("method", ["Embed", "RerankStream"])
async def test_cancelled_by_the_instance_after_the_deadline_is_the_deadline(method: str) -> None:
    """TEI says CANCELLED, "Timeout expired", when a call's time is up."""

    async def late(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        await asyncio.sleep(0.06)  # what an instance does with a call whose time is up
        status = [*ANSWER, ("grpc-status", "1"), ("grpc-message", "Timeout expired")]
        peer.h2.send_headers(request.stream_id, status, end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with scripted(late) as tei, multiplexer(("a", tei.port)) as mux:
        # The wheel stands still, so that it is the instance who speaks first.
        mux.switch.deadlines._arm = lambda tick: None  # type: ignore[method-assign]
        async with connect(mux.port) as client:
            timeout = ("grpc-timeout", "50m")
            call = client.request(path(method), timeout, data=framed(embed()), end=True)
            await client.flush()
            assert await client.status(call) == (4, "")


async def test_cancelled_by_the_instance_before_the_deadline_stays_cancelled() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await mux.channel().unary_unary(path("Embed"))(embed("fail 1 why"), timeout=10)
        assert failure.value.code() is grpc.StatusCode.CANCELLED
        assert failure.value.details() == "why"


async def test_a_call_that_waits_for_a_connection_keeps_its_deadline() -> None:
    async def silent(peer: Peer, _number: int) -> None:
        await peer.reader.read()

    async with scripted(silent) as tei, multiplexer(("a", tei.port)) as mux:
        start = monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await mux.channel().unary_unary(path("Embed"))(embed(), timeout=0.2)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert monotonic() - start < 0.2 + LATE
        await mux.settled()


async def test_a_thousand_deadlines_at_once_end_a_thousand_calls() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        timeout = ("grpc-timeout", "300m")
        await client.next(h2.events.RemoteSettingsChanged)
        calls = [
            client.request(path("Embed"), timeout, data=framed(embed("hang")), end=True)
            for _ in range(1000)
        ]
        await client.flush()
        for call in calls:
            assert (await client.status(call))[0] == 4
        await mux.settled(10)
