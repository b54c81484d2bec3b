"""The cap on messages that an instance has not answered: it holds, and it never holds for ever.

The property runs two sides in memory through a real switch, so that every interleaving is a choice
of hypothesis and nothing is left to the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import h2.events
import pytest
import uvloop
from fake_tei import answer, fake_tei
from http2_peer import ANSWER, Peer, connect, scripted
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multiplexer import embed, framed, multiplexer, path, table, until
from wire_pair import OK_HEAD, OK_TRAILERS, Recorder, Side, block

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.mux import endpoint as endpoint_module
from tei_manager.mux.endpoint import Endpoint
from tei_manager.mux.listener import Client
from tei_manager.mux.switch import Options, Switch
from tei_manager.mux.upstream import Upstream
from tei_manager.telemetry.counters import Counters
from tei_manager.wire.messages import MessageReader

EMBED_STREAM = block(
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", path("EmbedStream").encode()),
    (b":authority", b"test"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


def inner(text: str) -> bytes:
    return bytes(tei_pb2.EmbedRequest(inputs=text).SerializeToString())


class Pipe(asyncio.Transport):
    """A transport into a list."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Never full."""

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += data

    def is_closing(self) -> bool:
        """Never."""
        return False

    def abort(self) -> None:
        """Nothing to cut."""

    close = abort


class Line:
    """A side of our own at the far end of an endpoint of the switch."""

    def __init__(self, endpoint: Endpoint, side: Side) -> None:
        self.endpoint, self.side, self.pipe = endpoint, side, Pipe()
        endpoint.connection_made(self.pipe)

    def carry(self) -> bool:
        """Carry what either end has for the other; False if that was nothing."""
        arrived, sent = bytes(self.pipe.written), self.side.take()
        self.pipe.written.clear()
        self.side.feed(arrived)
        step = endpoint_module.READ_BUFFER - 1  # a full one would pause until the loop runs
        for start in range(0, len(sent), step):
            part = sent[start : start + step]
            self.endpoint.get_buffer(0)[: len(part)] = part
            self.endpoint.buffer_updated(len(part))
        return bool(arrived or sent)


class Dialogue:
    """One EmbedStream call through a switch: the client's end, and an instance that is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cap: int) -> None:
        self.switch = Switch(loop, Options(max_unanswered=cap), Counters())
        self.switch.apply(table(("a", 1)))
        self.client = Side(client=True)
        self.instance = Side(client=False, answer=lambda _call: None)
        backend = self.switch.backends["a"]
        self.lines = [
            Line(Upstream(self.switch, backend), self.instance),
            Line(Client(self.switch, lambda: None), self.client),
        ]
        self.settle()
        stream = self.client.connection.open_stream()
        self.call = Recorder(self.client, stream)
        stream.owner = self.call
        self.client.connection.send_headers(stream, EMBED_STREAM, False)
        self._reader = MessageReader(1 << 30)
        self._read = 0
        self.got: list[bytes] = []
        self.answered = 0

    def settle(self) -> None:
        """Carry everything everywhere; what the instance has now is in ``got``."""
        while sum(line.carry() for line in self.lines):  # each of them, in every turn
            self.switch.flush()
        if self.instance.calls:
            body = self.instance.calls[0].body
            self.got += self._reader.feed(body[self._read :])
            self._read = len(body)

    def reply(self, count: int, cut: int) -> None:
        """Answer ``count`` messages, in DATA frames that end wherever ``cut`` says."""
        call = self.instance.calls[0]
        connection = self.instance.connection
        if not self.answered:
            connection.send_headers(call.stream, OK_HEAD, False)
        octets = framed(b"an answer") * count
        self.answered += count
        for part in (octets[:cut], octets[cut:]):
            if part:
                connection.send_data(call.stream, part, False)
        self.settle()

    def close(self) -> None:
        """End the call as an instance does, and see that nothing is left."""
        self.instance.connection.send_headers(self.instance.calls[0].stream, OK_TRAILERS, True)
        self.settle()
        assert self.call.trailers.grpc_status == 0
        assert self.call.body == framed(b"an answer") * self.answered
        assert self.switch.pool.queued == 0
        assert self.switch.counters.in_flight == 0
        self.switch.close()


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 150_000)), min_size=1, max_size=12),
    chunks=st.lists(st.integers(1, 70_000), min_size=1, max_size=4),
    bursts=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=6),
    cap=st.integers(1, 4),
    early_end=st.booleans(),
)
@example(sizes=[0, 0], chunks=[1, 23], bursts=[(1, 0)], cap=1, early_end=False)
def test_whatever_the_interleaving_the_cap_holds_and_every_message_is_answered(
    sizes: list[int],
    chunks: list[int],
    bursts: list[tuple[int, int]],
    cap: int,
    early_end: bool,
) -> None:
    """Messages beyond the window, answers late, in bursts and cut anywhere, an early half-close."""
    loop = uvloop.new_event_loop()
    try:
        dialogue = Dialogue(loop, cap)
        texts = ["x" * size for size in sizes]
        octets = b"".join(framed(embed(text)) for text in texts)
        stream, connection = dialogue.call.stream, dialogue.client.connection
        sent = turn = 0
        ended = False
        while dialogue.answered < len(texts):
            assert turn < 500, "deadlock"
            if sent < len(octets):
                size = max(chunks[turn % len(chunks)], len(octets) // 50)
                ended = early_end and sent + size >= len(octets)
                connection.send_data(stream, octets[sent : sent + size], ended)
                sent += size
                dialogue.settle()
            unanswered = len(dialogue.got) - dialogue.answered
            assert unanswered <= cap
            count, cut = bursts[turn % len(bursts)]
            turn += 1
            if unanswered and (unanswered == cap or turn % 3 == 0):
                dialogue.reply(min(count, unanswered), cut)
        if not ended:
            connection.send_data(stream, b"", True)
            dialogue.settle()
        assert dialogue.got == [inner(text) for text in texts]
        assert dialogue.instance.calls[0].ended
        dialogue.close()
    finally:
        loop.close()


def test_an_instance_that_never_answers_gets_the_cap_and_the_client_one_window() -> None:
    loop = uvloop.new_event_loop()
    dialogue = Dialogue(loop, 256)
    message = framed(embed())
    stream, connection = dialogue.call.stream, dialogue.client.connection
    connection.send_data(stream, message * 10_000, False)
    dialogue.settle()
    assert len(dialogue.got) == 256
    passed = 10_000 * len(message) - stream.queued
    assert passed <= 65_535 + 256 * len(message)
    assert dialogue.switch.pool.queued <= 65_535
    dialogue.reply(256, 0)
    assert len(dialogue.got) == 512
    connection.reset(stream, 8)
    dialogue.settle()
    assert dialogue.switch.pool.queued == 0
    dialogue.switch.close()
    loop.close()


def test_octets_sent_one_by_one_beyond_the_cap_are_held_as_one() -> None:
    loop = uvloop.new_event_loop()
    dialogue = Dialogue(loop, 1)
    message = framed(embed())
    stream, connection = dialogue.call.stream, dialogue.client.connection
    for octet in message * 15:  # so few that they are acted on in one turn
        connection.send_data(stream, bytes((octet,)), False)
    dialogue.settle()
    assert len(dialogue.got) == 1
    for _ in range(14):
        dialogue.reply(1, 3)
    assert len(dialogue.got) == 15
    connection.send_data(stream, b"", True)
    dialogue.reply(1, 0)
    dialogue.close()
    loop.close()


def test_answers_to_nothing_buy_no_place() -> None:
    loop = uvloop.new_event_loop()
    dialogue = Dialogue(loop, 2)
    stream, connection = dialogue.call.stream, dialogue.client.connection
    connection.send_data(stream, framed(embed()), False)
    dialogue.settle()
    dialogue.reply(50, 7)
    connection.send_data(stream, framed(embed()) * 10, False)
    dialogue.settle()
    assert len(dialogue.got) == 3
    connection.reset(stream, 8)
    dialogue.settle()
    dialogue.switch.close()
    loop.close()


def test_a_later_message_for_another_instance_is_found_when_its_turn_comes() -> None:
    """It may be held for long before it is read; the call still ends with the right status."""
    loop = uvloop.new_event_loop()
    dialogue = Dialogue(loop, 1)
    stream, connection = dialogue.call.stream, dialogue.client.connection
    connection.send_data(stream, framed(embed()) + framed(embed(name="b")), True)
    dialogue.settle()
    assert not dialogue.call.ended
    dialogue.reply(1, 0)
    assert dialogue.call.trailers.grpc_status == 3
    assert dialogue.instance.calls[0].reset == 8
    assert dialogue.switch.pool.queued == 0
    dialogue.switch.close()
    loop.close()


@pytest.mark.asyncio
async def test_2000_messages_pass_a_cap_of_8_in_order() -> None:
    texts = [f"text {number}" for number in range(2000)]

    async def ask() -> AsyncIterator[bytes]:
        for text in texts:
            yield embed(text)

    async with fake_tei() as tei, multiplexer(("a", tei.port), max_unanswered=8) as mux:
        call = mux.channel().stream_stream(path("EmbedStream"))(ask(), timeout=20)
        replies = [cast(bytes, reply) async for reply in call]
        assert replies == [answer(1, "Embed", inner(text)) for text in texts]
        await mux.settled()


@pytest.mark.asyncio
async def test_unary_calls_have_no_cap_and_a_capped_stream_ends_by_its_deadline() -> None:
    async def deaf(peer: Peer, _number: int) -> None:
        await peer.start()
        first = await peer.next(h2.events.RequestReceived)
        peer.h2.send_headers(first.stream_id, ANSWER)
        await peer.flush()
        await peer.closed(60)

    async with (
        scripted(deaf) as tei,
        multiplexer(("a", tei.port), max_unanswered=4) as mux,
        connect(mux.port) as client,
    ):
        call = client.request(
            path("PredictStream"), ("grpc-timeout", "300m"), data=framed(embed()) * 50
        )
        await client.flush()
        await until(lambda: mux.switch.pool.queued == 46 * len(framed(embed())))
        assert (await client.status(call))[0] == 4
        await mux.settled()
