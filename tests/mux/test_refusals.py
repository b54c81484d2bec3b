"""Calls that go nowhere: who waits is slowed down, who does not is ended, and nobody else pays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

import h2.errors
import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import connect
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.mux import refusals
from tei_manager.routes import Route, RouteState
from tei_manager.wire import frames, hpack
from tei_manager.wire.limits import AbuseBudget, TokenBucket

pytestmark = pytest.mark.asyncio

BURST, RATE = 200, 100
NOBODY = framed(embed(name="nobody"))


def call(
    stream_id: int,
    where: str,
    body: bytes = b"",
    content_type: bytes = b"application/grpc",
    flags: int = frames.END_STREAM,
) -> bytes:
    """The frames of a call, whole unless ``flags`` say otherwise."""
    head = b"".join(
        hpack.literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", where.encode()),
            (b"content-type", content_type),
        )
    )
    wire = frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, head)
    return wire + frames.frame(frames.DATA, flags, stream_id, body)


KINDS = {
    "unknown name": lambda n: call(n, path("Embed"), NOBODY),
    "unknown method": lambda n: call(n, "/no.such/Method"),
    "no target": lambda n: call(n, path("Embed"), framed(b"\x12\x00")),
    "no message": lambda n: call(n, path("Embed")),
    "garbage": lambda n: call(n, path("EmbedStream"), framed(b"\xff")),
    "no grpc": lambda n: call(n, "/", content_type=b"text/html"),
    "reset at once": lambda n: (
        call(n, path("Embed"), NOBODY, flags=0) + frames.rst_stream(n, frames.ErrorCode.CANCEL)
    ),
}


async def test_a_loop_that_asks_for_a_stopped_instance_is_slowed_down_and_not_ended() -> None:
    stopped = Route("nobody", "org/m", port=1, state=RouteState.STOPPED)
    async with multiplexer(stopped) as mux, connect(mux.port) as client:
        start = monotonic()
        for _ in range(BURST + RATE):
            asked = client.request(path("Embed"), data=NOBODY, end=True)
            await client.flush()
            assert (await client.status(asked))[0] == 14
            client.seen.clear()
            client.events.clear()
        assert monotonic() - start >= 0.9
        await mux.settled()


async def test_a_good_call_passes_those_of_its_connection_that_are_held_back() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        lost = [client.request(path("Embed"), data=NOBODY, end=True) for _ in range(BURST + 300)]
        good = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        assert (await client.status(good))[0] == 0
        over = [e for e in client.seen if isinstance(e, h2.events.StreamEnded)]
        assert len(over) < len(lost)
        for asked in lost:
            assert (await client.status(asked, limit=20))[0] == 5


async def test_a_refused_call_keeps_its_slot_until_it_is_answered_even_if_it_is_reset() -> None:
    async with multiplexer(max_parallel_streams=10) as mux, connect(mux.port) as client:
        await client.next(h2.events.RemoteSettingsChanged)
        (served,) = mux.switch.endpoints
        served.connection.budget._futile = TokenBucket(0, 0.1)  # every answer waits for 5 s
        asked = [client.request(path("Embed"), data=NOBODY) for _ in range(10)]
        for one in asked:
            client.h2.reset_stream(one, h2.errors.ErrorCodes.CANCEL)
        refused = client.request(path("Embed"), data=NOBODY, end=True)
        await client.flush()
        reset = await client.next(h2.events.StreamReset, refused)
        assert reset.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        await mux.settled(20)


async def test_a_client_that_goes_while_its_answers_wait_leaves_nothing() -> None:
    async with multiplexer() as mux:
        async with connect(mux.port) as client:
            for _ in range(BURST + 300):
                client.request(path("Embed"), data=NOBODY, end=True)
            await client.flush()
            await until(lambda: mux.switch.counters.rejected.get("held_back", 0) > 20)
            client.cut()
        await mux.settled()


async def attack(port: int, kind: str) -> None:
    """Send calls of a kind without waiting for any, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ended = asyncio.create_task(swallow(reader))
    writer.write(frames.PREFACE + frames.settings({}))
    for first in range(0, 30_000, 20):
        writer.write(b"".join(KINDS[kind](2 * (first + n) + 1) for n in range(20)))
        with suppress(ConnectionError):
            await writer.drain()
        if ended.done():
            break
    async with asyncio.timeout(20):
        await ended
    writer.close()


async def swallow(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass


@pytest.mark.parametrize("kind", KINDS)
async def test_twenty_clients_that_do_not_wait_are_all_ended_beside_an_honest_one(
    kind: str,
) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        ask = mux.channel().unary_unary(path("Embed"))
        attackers = [asyncio.create_task(attack(mux.port, kind)) for _ in range(20)]
        answered = 0
        while not all(task.done() for task in attackers):
            assert await ask(embed(), timeout=10)
            answered += 1
        assert answered
        await asyncio.gather(*attackers)
        ended = mux.switch.counters.broken["client"]
        await until(lambda: sum(ended.values()) == 20)
        calm = {"too_many_calls_that_go_nowhere", "too_many_resets"}
        assert ended.keys() <= calm | {"too_many_streams_above_the_limit"}


async def test_a_client_that_keeps_to_all_other_limits_is_ended_when_its_debt_only_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "MAX_OWED", 100)

    async with multiplexer() as mux, connect(mux.port) as client:
        for _ in range(BURST + 400):
            client.request(path("Embed"), data=NOBODY, end=True)
        await client.flush()
        ended = await client.next(h2.events.ConnectionTerminated)
        assert ended.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert ended.additional_data == b"too many calls that go nowhere"
        await mux.settled()


async def test_one_who_waits_for_each_answer_never_owes_more_than_one_call() -> None:
    budget, now = AbuseBudget(), 0.0
    for _ in range(100_000):
        seconds, owed = budget.futile(now)
        assert owed <= 1
        now += seconds + 1e-4
