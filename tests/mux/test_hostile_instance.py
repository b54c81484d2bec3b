"""An instance that floods: it loses its connection, and nobody but its own callers notices."""

from __future__ import annotations

import h2.events
import pytest
from fake_tei import answer, fake_tei
from http2_peer import ANSWER, Peer, connect, scripted
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.wire import frames

pytestmark = pytest.mark.asyncio

FLOODS = {
    "answers to pings that nobody sent": frames.ping(b"12345678", ack=True),
    "answers to pings of resets that nobody made": frames.ping(b"reset-ok", ack=True),
    "data of one octet": frames.frame(frames.DATA, 0, 1, b"\0"),
    "unknown frames": frames.frame(0x20, 0, 0),
    "goodbyes that never go": frames.goaway(1, 0, bytes(100)),
    "windows that flap": frames.settings({4: 0}) + frames.settings({4: 65_535}),
    "tables that flap": frames.settings({1: 0}) + frames.settings({1: 4096}),
    "priorities": frames.frame(frames.PRIORITY, 0, 1, bytes(4) + b"\1"),
    "window of an octet": frames.window_update(0, 1),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_an_instance_that_floods_fails_its_own_calls_and_no_others(flood: str) -> None:
    async def hostile(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.RequestReceived)).stream_id
        peer.h2.send_headers(call, ANSWER)
        await peer.flush()
        for _ in range(20):
            peer.writer.write(FLOODS[flood] * 100)
            await peer.writer.drain()
        await peer.closed()

    async with (
        fake_tei() as good,
        scripted(hostile) as bad,
        multiplexer(("a", good.port), ("b", bad.port)) as mux,
        connect(mux.port) as client,
    ):
        lost = client.request(path("Embed"), data=framed(embed(name="b")), end=True)
        await client.flush()
        code, message = await client.status(lost)
        assert code == 14
        assert message.startswith("connection to instance 'b' lost: too m")
        assert message.endswith("(ENHANCE_YOUR_CALM)")
        ask = mux.channel().unary_unary(path("Embed"))
        want = answer(1, "Embed", tei_pb2.EmbedRequest(inputs="Hello world").SerializeToString())
        assert await ask(embed(), timeout=5) == want


async def test_answers_to_our_own_pings_are_no_flood() -> None:
    """More than 900 resets one after the other, each with a PING behind it that is answered."""

    async def patient(peer: Peer, _number: int) -> None:
        await peer.start()
        await peer.closed(60)

    async with scripted(patient) as tei, multiplexer(("a", tei.port)) as mux:
        for _ in range(6):  # clients, as each may reset 200 young calls
            async with connect(mux.port) as client:
                for _ in range(160):
                    call = client.request(path("Embed"), data=framed(embed()))
                    await client.flush()
                    await until(lambda: mux.switch.backends["a"].in_flight == 1)
                    client.h2.reset_stream(call, 8)
                    await client.flush()
                    await mux.settled()
        assert tei.connections == 1
