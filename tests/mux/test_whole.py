"""Calls that are seen as a whole and calls that go frame by frame give the same octets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiplexer import embed, framed, path

from tei_manager.mux import endpoint
from tei_manager.mux.listener import Client
from tei_manager.mux.switch import Options, Switch
from tei_manager.mux.upstream import Upstream
from tei_manager.routes import Route, RouteTable
from tei_manager.telemetry.counters import Counters
from tei_manager.wire import frames, hpack

pytestmark = pytest.mark.asyncio

SETTINGS = frames.settings({}) + frames.window_update(0, 1 << 20)
LAST = frames.END_HEADERS | frames.END_STREAM


class Pipe(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def set_write_buffer_limits(self, *_limits: Any, **_more: Any) -> None: ...

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(hpack.literal(name, value) for name, value in fields)


def request_block(metadata: list[tuple[bytes, bytes]]) -> bytes:
    return block(
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path("Embed").encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *metadata,
    )


def feed(side: endpoint.Endpoint, chunks: Sequence[bytes]) -> None:
    """Give octets to one side as the event loop would."""
    for chunk in chunks:
        for start in range(0, len(chunk), endpoint.READ_BUFFER):
            part = chunk[start : start + endpoint.READ_BUFFER]
            side.get_buffer(-1)[: len(part)] = part
            side.buffer_updated(len(part))
            side.switch.flush()


def cut(wire: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(wire) + 1) for place in at), len(wire)]
    return [wire[start:stop] for start, stop in pairwise(places)]


def carry(questions: Sequence[bytes], answers: Sequence[bytes]) -> tuple[bytes, bytes, str]:
    """Return what instance and client get, and what was counted, for one division into chunks."""
    switch = Switch(asyncio.get_running_loop(), Options(request_timeout_secs=0), Counters())
    try:
        switch.apply(RouteTable(1, [Route("a", port=1)]))
        instance, client = Upstream(switch, switch.backends["a"]), Client(switch)
        down, up = Pipe(), Pipe()
        instance.connection_made(up)
        feed(instance, [SETTINGS])
        client.connection_made(down)
        feed(client, [frames.PREFACE + SETTINGS])
        feed(client, questions)
        feed(instance, answers)
        report = switch.counters.to_json()
        return bytes(up.written), bytes(down.written), f"{report['responses']}{report['in_flight']}"
    finally:
        switch.close()


NAMES = st.sampled_from([b"x-compute-tokens", b"date", b"server", b"set-cookie", b"traceparent"])
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([b"", b"7", b"12", b"00-4bf9-01"])))


CALLS = st.lists(
    st.tuples(
        st.text(max_size=40),
        st.sampled_from(["a", "a", "a", "b", ""]),  # a alone exists
        FIELDS,
        FIELDS,
        st.sampled_from([b"0", b"0", b"0", b"5", b"x"]),
        FIELDS,
        st.sampled_from([1, 1, 1, 4090]),
    ),
    min_size=1,
    max_size=6,
)


def as_frames(calls: list[Any]) -> tuple[list[bytes], list[bytes]]:
    """Return what the client sends and what the instance answers, a frame each."""
    asked: list[bytes] = []
    answered: list[bytes] = []
    there = 1
    for number, (text, name, metadata, fields, status, more, size) in enumerate(calls):
        here, data = 2 * number + 1, framed(embed(text, name))
        head = request_block(metadata)
        asked.append(frames.frame(frames.HEADERS, frames.END_HEADERS, here, head))
        asked.append(frames.frame(frames.DATA, frames.END_STREAM, here, data))
        if name == "a":
            answer = hpack.STATUS_200 + block((b"content-type", b"application/grpc"), *fields)
            trailers = block((b"grpc-status", status), *more)
            body = framed(b"1234" * size)
            answered.append(frames.frame(frames.HEADERS, frames.END_HEADERS, there, answer))
            answered.append(frames.frame(frames.DATA, 0, there, body))
            answered.append(frames.frame(frames.HEADERS, LAST, there, trailers))
            there += 2
    return asked, answered


@given(CALLS, st.lists(st.integers(0, 1 << 16), max_size=8))
async def test_any_division_into_chunks_gives_the_same_octets(
    calls: list[Any], at: list[int]
) -> None:
    asked, answered = as_frames(calls)
    in_frames = carry(asked, answered)
    assert carry([b"".join(asked)], [b"".join(answered)]) == in_frames
    assert carry(cut(b"".join(asked), at), cut(b"".join(answered), at)) == in_frames


async def test_the_second_common_call_of_a_connection_goes_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one teaches the fields that are plain."""
    taken: list[bool] = []
    take = Upstream.on_whole_answer

    def seen(self: Upstream, *arguments: Any) -> bool:
        taken.append(take(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(Upstream, "on_whole_answer", seen)
    questions, answers = b"", b""
    answer = hpack.STATUS_200 + block((b"content-type", b"application/grpc"))
    for number in (1, 3):
        questions += frames.frame(
            frames.HEADERS, frames.END_HEADERS, number, request_block([])
        ) + frames.frame(frames.DATA, frames.END_STREAM, number, framed(embed("x", "a")))
        answers += frames.frame(frames.HEADERS, frames.END_HEADERS, number, answer)
        answers += frames.frame(frames.DATA, 0, number, framed(b"an answer"))
        answers += frames.frame(frames.HEADERS, LAST, number, block((b"grpc-status", b"0")))
    carry([questions], [answers])
    assert taken == [True]
