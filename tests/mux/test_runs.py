"""Messages of a stream come through in order and whole, however frames and chunks divide them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiplexer import embed, framed
from switchboard import LAST, Board, block, cut, feed, payload, request_block

from tei_manager.wire import frames, hpack
from tei_manager.wire.envelope import split_canonical

pytestmark = pytest.mark.asyncio

ANSWER = hpack.STATUS_200 + block((b"content-type", b"application/grpc"))
CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)


def data(messages: list[bytes], end: bool) -> bytes:
    """A DATA frame for each message."""
    last = len(messages) - 1
    return b"".join(
        frames.frame(frames.DATA, frames.END_STREAM if end and n == last else 0, 1, message)
        for n, message in enumerate(messages)
    )


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=200),
    st.lists(st.integers(0, 300), min_size=1, max_size=200),
    CUTS,
    CUTS,
)
async def test_a_stream_is_carried_whole_both_ways(
    asked: list[int], answered: list[int], cuts: list[int], more_cuts: list[int]
) -> None:
    questions = [framed(embed("x" * size, "a")) for size in asked]
    answers = [framed(b"y" * size) for size in answered]
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, request_block("EmbedStream"))
    tail = frames.frame(frames.HEADERS, LAST, 1, block((b"grpc-status", b"0")))
    answer = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, ANSWER)
    board = Board()
    try:
        feed(board.client, cut(head + data(questions, True), cuts))
        feed(board.instance, cut(answer + data(answers, False) + tail, more_cuts))
        inner = [split_canonical(question, 4) for question in questions]
        there, _ = payload(board.up.written[len(frames.PREFACE) :])
        assert there == b"".join(whole[1] for whole in inner if whole is not None)
        assert payload(board.down.written)[0] == b"".join(answers)
        assert board.switch.counters.to_json()["responses"] == {"embed_stream": {"0": 1}}
    finally:
        board.close()


@pytest.mark.parametrize("bad", [b"b", b""], ids=["another instance", "no instance"])
async def test_a_message_in_a_run_that_goes_elsewhere_ends_the_call(bad: bytes) -> None:
    """The messages before it were passed on; none behind it is."""
    sound = framed(embed("x", "a"))
    run = [sound] * 5 + [framed(embed("y", bad.decode()))] + [sound] * 5
    board = Board()
    try:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, request_block("EmbedStream"))
        feed(board.client, [head + data(run, True)])
        whole = split_canonical(sound, 4)
        assert whole is not None
        assert payload(board.up.written[len(frames.PREFACE) :])[0] == whole[1] * 5
        assert list(board.switch.counters.to_json()["responses"]["embed_stream"]) != ["0"]
    finally:
        board.close()


async def test_the_messages_of_a_run_share_frames() -> None:
    messages = [framed(embed("x" * 40, "a"))] * 100
    board = Board()
    try:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, request_block("EmbedStream"))
        feed(board.client, [head + data(messages, True)])
        assert payload(board.up.written[len(frames.PREFACE) :])[1] == 2  # the first, and the rest
    finally:
        board.close()
