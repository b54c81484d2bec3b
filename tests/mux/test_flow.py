"""Flow control end to end: nothing is held for ever, and nobody waits for somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import h2.events
import h2.settings
import pytest
from fake_tei import answer, fake_tei
from http2_peer import ANSWER, OK, Peer, answer_all, connect, scripted
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.mux import backends

pytestmark = pytest.mark.asyncio
EMBED = "Embed"


def inner(text: str) -> bytes:
    return bytes(tei_pb2.EmbedRequest(inputs=text).SerializeToString())


async def test_a_message_larger_than_every_window_opens_the_first_connection() -> None:
    """While the call waits for its connection the client may fill its window and must not stall."""
    text = "x" * 2_000_000
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        reply = await mux.channel().unary_unary(path(EMBED))(embed(text), timeout=10)
        assert reply == answer(1, EMBED, inner(text))
        assert mux.switch.counters.to_json()["connections"] == {"a": 1}
        await mux.settled()


async def test_a_window_filled_before_the_instance_says_hello_is_opened_again() -> None:
    started = asyncio.Event()

    async def slow_hello(peer: Peer, _number: int) -> None:
        await started.wait()
        await peer.start()
        await answer_all(peer)

    async with (
        scripted(slow_hello) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        message = framed(embed("x" * 100_000))
        call = client.request(path(EMBED))
        client.h2.send_data(call, message[:16_384])
        for start in range(16_384, 65_535, 16_384):
            client.h2.send_data(call, message[start : min(start + 16_384, 65_535)])
        await client.flush()
        await until(lambda: mux.switch.backends["a"]._waiting != {})
        started.set()
        while client.h2.local_flow_control_window(call) < len(message) - 65_535:
            await client.next(h2.events.WindowUpdated, limit=3)
        for start in range(65_535, len(message), 16_384):
            client.h2.send_data(call, message[start : start + 16_384])
        client.h2.end_stream(call)
        await client.flush()
        assert await client.status(call) == (0, "")


async def test_200_calls_at_once_on_one_connection_all_get_their_own_answer() -> None:
    texts = [f"text {number}" for number in range(200)]
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        ask = mux.channel().unary_unary(path(EMBED))
        replies = await asyncio.gather(*(ask(embed(text)) for text in texts))
        assert replies == [answer(1, EMBED, inner(text)) for text in texts]
        assert mux.switch.counters.client_connections == 1
        await mux.settled()


async def test_1000_unary_calls_one_after_the_other_leave_nothing_behind() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        ask = mux.channel().unary_unary(path(EMBED))
        expected = answer(1, EMBED, inner("Hello world"))
        for _ in range(1000):
            assert await ask(embed()) == expected
        await mux.settled()
        assert mux.switch.counters.to_json()["responses"] == {"embed": {"0": 1000}}


async def test_a_stream_of_5000_messages_is_answered_in_order() -> None:
    texts = [f"text {number}" for number in range(5000)]
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        call = mux.channel().stream_stream(path("EmbedStream"))(embed(text) for text in texts)
        replies = [reply async for reply in call]
        assert replies == [answer(1, EMBED, inner(text)) for text in texts]
        await mux.settled()


async def test_an_answer_of_30_mb_arrives_whole() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        reply = await mux.channel().unary_unary(path("EmbedAll"))(embed("flood 1 30000000"))
        assert len(reply) == 30_000_000
        await mux.settled()


async def test_a_client_that_does_not_read_holds_one_window_and_disturbs_nobody() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        async with connect(mux.port) as slow:
            slow.acknowledge = False
            stalled = [
                slow.request(path("EmbedAll"), data=framed(embed("flood 1 4000000")), end=True)
                for _ in range(8)
            ]
            await slow.flush()
            for call in stalled:
                await slow.next(h2.events.ResponseReceived, call)
            ask = mux.channel().unary_unary(path(EMBED))
            for number in range(50):
                text = f"text {number}"
                assert await ask(embed(text), timeout=2) == answer(1, EMBED, inner(text))
            assert mux.switch.pool.queued <= 8 * (1 << 20)
        await mux.settled()


async def test_a_slow_instance_throttles_the_client_that_uploads_to_it() -> None:
    """A stream of 20 MB towards an instance that takes one message and then none."""
    sent = 0
    text = "hang " + "x" * 99_995

    async def upload() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(200):
            yield embed(text)
            sent += len(text)

    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        call = mux.channel().stream_stream(path("EmbedStream"))(upload())
        await tei.call()
        ask = mux.channel().unary_unary(path(EMBED))
        while True:  # until a hundred calls in a row saw no progress of the upload
            before = sent
            for _ in range(100):
                await ask(embed(), timeout=2)
            if sent == before:
                break
        assert sent < 12_000_000
        assert mux.switch.pool.queued <= 2 << 20
        call.cancel()
        await mux.settled()


async def test_a_client_cannot_pile_up_answers_that_it_does_not_read() -> None:
    """A stream whose answer waits is still a stream: it counts against the client's limit."""
    limit = 20
    async with fake_tei() as tei, multiplexer(("a", tei.port), max_parallel_streams=limit) as mux:
        async with connect(mux.port) as client:
            client.acknowledge = False
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            await client.flush()
            await client.next(h2.events.SettingsAcknowledged)
            for number in range(limit):
                client.request(path(EMBED), data=framed(embed()), end=True)
                await client.flush()
                await client.next(h2.events.ResponseReceived, 2 * number + 1)
            await until(lambda: not mux.switch.counters.in_flight)
            client.h2.remote_settings._settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS][
                0
            ] = 10_000
            last = client.request(path(EMBED), data=framed(embed()), end=True)
            await client.flush()
            reset = await client.next(h2.events.StreamReset, last)
            assert reset.error_code == 7
        await mux.settled()


@pytest.mark.parametrize("end", ["answered", "cancelled", "client lost"])
async def test_messages_held_whole_are_counted_and_given_back(end: str) -> None:
    whole = embed("x" * 30_000)
    two_targets = whole + whole  # not canonical: held until it is whole
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path(EMBED))
        first, rest = framed(two_targets)[:50_000], framed(two_targets)[50_000:]
        for start in range(0, len(first), 16_384):
            client.h2.send_data(call, first[start : start + 16_384])
        await client.flush()
        await until(lambda: mux.switch.pool.queued == len(first) - 5)
        if end == "answered":
            client.h2.send_data(call, rest, end_stream=True)
            await client.flush()
            assert (await client.status(call))[0] == 0
        elif end == "cancelled":
            client.h2.reset_stream(call, 8)
            await client.flush()
        else:
            client.cut()
        await mux.settled()


@pytest.mark.parametrize("method", ["EmbedStream", "RerankStream"])
async def test_a_call_that_fails_inside_a_chunk_leaves_no_octets_counted(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk has a whole message, which is refused at once, and the beginning of another."""
    monkeypatch.setattr(backends, "MAX_WAITING", 0)
    twice = framed(embed() + embed("x"))
    async with multiplexer(("a", 1)) as mux, connect(mux.port) as client:
        call = client.request(path(method), data=twice + twice[:-1])
        await client.flush()
        message = "too many calls wait for a stream to instance 'a' (0)"
        assert await client.status(call) == (8, message)
        await mux.settled()


async def test_cancelling_a_stream_that_floods_does_not_end_its_neighbours() -> None:
    """Small answers on their way when a reset goes out are no attack of the instance."""

    async def flood(peer: Peer, _number: int) -> None:
        await peer.start()
        calls = [(await peer.next(h2.events.RequestReceived)).stream_id for _ in range(4)]
        for call in calls:
            peer.h2.send_headers(call, ANSWER)
        await peer.flush()
        await peer.next(h2.events.StreamReset)
        for _ in range(600):  # what was under way: the library does not send it on a reset stream
            for call in calls[:3]:
                peer.writer.write(b"\0\0\x07\0\0" + call.to_bytes(4, "big") + b"\0\0\0\0\x02hi")
        peer.h2.send_headers(calls[3], OK, end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with (
        scripted(flood) as tei,
        multiplexer(("a", tei.port)) as mux,
        connect(mux.port) as client,
    ):
        calls = [client.request(path("PredictStream"), data=framed(embed())) for _ in range(4)]
        await client.flush()
        for call in calls:
            await client.next(h2.events.ResponseReceived, call)
        for call in calls[:3]:
            client.h2.reset_stream(call, 8)
        await client.flush()
        assert await client.status(calls[3]) == (0, "")


async def test_data_that_a_larger_window_frees_comes_behind_our_acknowledgement() -> None:
    """C-core resets a stream whose DATA is ahead of the ACK of the window that it needs."""
    kinds: list[int] = []

    async def widen(peer: Peer, _number: int) -> None:
        peer.acknowledge = False
        await peer.start()
        peer.h2.increment_flow_control_window(1 << 20)  # the connection has room
        await peer.flush()
        got = 0
        while got < 65_535:
            got += (await peer.next(h2.events.DataReceived)).flow_controlled_length
        peer.writer.write(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x10\0\0")  # and now every stream
        while 0 not in kinds:
            head = await peer.reader.readexactly(9)
            await peer.reader.readexactly(int.from_bytes(head[:3], "big"))
            kinds.append(head[3])

    async with scripted(widen) as tei, multiplexer(("a", tei.port)) as mux:
        call = mux.channel().unary_unary(path(EMBED))(embed("x" * 100_000), timeout=5)
        await until(lambda: 0 in kinds)
        assert 4 in kinds[: kinds.index(0)]
        call.cancel()
        await mux.settled()
