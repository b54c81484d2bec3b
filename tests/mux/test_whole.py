"""Calls that are seen as a whole and calls that go frame by frame give the same octets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiplexer import embed, framed
from switchboard import LAST, Board, block, cut, feed, request_block

from tei_manager.mux.upstream import Upstream
from tei_manager.wire import frames, hpack

pytestmark = pytest.mark.asyncio


def carry(questions: Sequence[bytes], answers: Sequence[bytes]) -> tuple[bytes, bytes, str]:
    """Return what instance and client get, and what was counted, for one division into chunks."""
    board = Board()
    try:
        feed(board.client, questions)
        feed(board.instance, answers)
        report = board.switch.counters.to_json()
        counted = f"{report['responses']}{report['in_flight']}"
        return bytes(board.up.written), bytes(board.down.written), counted
    finally:
        board.close()


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
        head = request_block("Embed", metadata)
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
            frames.HEADERS, frames.END_HEADERS, number, request_block("Embed")
        ) + frames.frame(frames.DATA, frames.END_STREAM, number, framed(embed("x", "a")))
        answers += frames.frame(frames.HEADERS, frames.END_HEADERS, number, answer)
        answers += frames.frame(frames.DATA, 0, number, framed(b"an answer"))
        answers += frames.frame(frames.HEADERS, LAST, number, block((b"grpc-status", b"0")))
    carry([questions], [answers])
    assert taken == [True]
