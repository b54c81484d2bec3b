"""Metadata of every awkward form means the same to an instance, with the switch between or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import h2.events
import pytest
from between import between
from fake_tei import FakeTei
from http2_peer import ANSWER, OK, Peer
from multiplexer import CHANNEL_OPTIONS, embed, framed, multiplexer, path

from tei_manager.grpc.proto.tei.v1 import tei_pb2

pytestmark = pytest.mark.asyncio

Pairs = Sequence[tuple[str, str | bytes]]

FORMS: dict[str, Pairs] = {
    "binary": [("x-a-bin", bytes(range(256))), ("x-a-bin", b""), ("x-a-bin", b"\x00,\xff")],
    "commas": [("x-a", "one,two, three"), ("x-a", ",")],
    "duplicates": [("x-a", "2"), ("x-b", "between"), ("x-a", "1"), ("x-a", "2")],
    "empty": [("x-a", ""), ("x-b", "set"), ("x-a", "")],
    "8 KiB": [("x-a", "v" * 4_096), ("x-a-bin", b"\x80" * 3_072)],
}
"""By what is awkward about them; base64 makes 4 KiB of the last one."""

LARGE = (("grpc.max_metadata_size", 16_384), ("grpc.absolute_max_metadata_size", 16_384))


async def echoed(channel: Any, to: str, message: bytes, pairs: Pairs, tei: FakeTei) -> list[Any]:
    """What the instance got, and what came back of the same pairs as initial and trailing."""
    tei.initial = tei.trailing = tuple(pairs)
    call = channel.unary_unary(to)(message, metadata=tuple(pairs), timeout=20)
    await call
    lists = (tei.calls[-1].metadata, await call.initial_metadata(), await call.trailing_metadata())
    return [[(n, v) for n, v in found if n.startswith("x-")] for found in lists]


@pytest.mark.parametrize("form", FORMS)
async def test_our_own_calls_carry_it_as_a_direct_call_does(form: str) -> None:
    tei = FakeTei()
    await tei.start(0, *LARGE)
    try:
        async with multiplexer(("a", tei.port)) as mux:
            address = f"127.0.0.1:{tei.port}"
            async with grpc.aio.insecure_channel(address, (*CHANNEL_OPTIONS, *LARGE)) as channel:
                request = tei_pb2.EmbedRequest(inputs="text").SerializeToString()
                direct = await echoed(channel, "/tei.v1.Embed/Embed", request, FORMS[form], tei)
            through = mux.channel(*LARGE)
            assert await echoed(through, path("Embed"), embed(), FORMS[form], tei) == direct
            assert sorted(map(str, direct[0])) == sorted(map(str, FORMS[form]))
    finally:
        await tei.stop()


RAW = [
    ("x-list-bin", "AAE=,,/w,Zm9v"),  # padded, empty, not padded: a list with commas
    ("x-a", "one"),
    ("x-list-bin", ""),
    ("x-empty", ""),
    ("x-a", "two,three"),
    ("x-a", "one"),
    ("x-list-bin", "/w=="),
    ("x-long-bin", "gICA" * 2_048),
]
"""Fields as they stand on the wire: order, padding and repetition are the sender's own."""


@pytest.mark.parametrize("to", [path("Embed"), "/any.v1.Service/Do"], ids=["ours", "any other"])
async def test_every_field_travels_both_ways_in_the_octets_and_the_order_that_it_came_in(
    to: str,
) -> None:
    async def echo(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.StreamEnded)).stream_id
        peer.h2.send_headers(call, [*ANSWER, *RAW])
        peer.h2.send_data(call, framed(b"answer"))
        peer.h2.send_headers(call, [*OK, *RAW], end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with between(echo, passthrough="any") as three:
        call = three.client.request(to, *RAW, data=framed(embed()), end=True)
        await three.client.flush()
        assert await three.client.status(call) == (0, "")
        for found in (*three.requests(), *three.answers()):
            assert [field for field in found if field[0].startswith("x-")] == RAW
        assert (len(three.requests()), len(three.answers())) == (1, 2)
