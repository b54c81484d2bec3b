"""Frames of one stream that stand behind each other give what they give one by one."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from wire_pair import data, greeted, padded, request

from tei_manager.wire import connection, frames, run

HEADER = data(1, bytes(20))[:9]
"""Of the commonest frame below, as a payload may hold it as well."""

PAYLOADS = {
    "zeros": bytes(20),
    "ones": b"\xff" * 20,
    "header first": HEADER + bytes(11),
    "header last": bytes(11) + HEADER,
    "headers": HEADER * 2 + b"ab",
    "longer": bytes(21),
    "tiny": bytes(4),
    "none": b"",
    "half": bytes(9_000),
    "full": bytes(16_384),
}
OTHERS = {
    "ping": frames.ping(bytes(8)),
    "padded": padded(1, bytes(20), 3),
    "request": request(5, end=False),
}

one = st.tuples(st.sampled_from([1, 1, 1, 3, 5]), st.sampled_from([*PAYLOADS]), st.booleans())
many = st.tuples(st.integers(2, 30), st.sampled_from([*PAYLOADS][:5]))
pieces = st.one_of(one, many, st.sampled_from([*OTHERS]))


def octets(piece: Any) -> bytes:
    if isinstance(piece, str):
        return OTHERS[piece]
    if len(piece) == 2:
        return data(1, PAYLOADS[piece[1]]) * int(piece[0])
    return data(piece[0], PAYLOADS[piece[1]], piece[2])


def heard(chunk: bytes) -> tuple[Any, ...]:
    """Return what calls heard of these octets and what was written back."""
    side = greeted(max_streams=4)
    side.feed(request(1, end=False) + request(3, end=False) + chunk)
    bodies = [(call.body, call.ended) for call in side.calls]
    windows = {number: found.recv_window for number, found in side.connection.streams.items()}
    return bodies, windows, side.connection.recv_window, side.take(), side.connection.error


@given(st.lists(pieces, max_size=8), st.integers(0, 30))
@example([(20, "zeros"), (1, "zeros", True)], 0)
@example([(5, "header first")], 1)
@example([(3, "full")], 0)
def test_a_run_gives_what_its_frames_give(sent: list[Any], short: int) -> None:
    chunk = b"".join(map(octets, sent))
    chunk = chunk[: len(chunk) - short]
    in_runs = heard(chunk)
    with patch.object(connection, "data_run", lambda *_: (0, 0)):
        one_by_one = heard(chunk)
    assert repr(in_runs) == repr(one_by_one)


def test_equal_frames_and_others_are_taken_as_one() -> None:
    taken: list[int] = []
    ask = run.data_run

    def asked(*arguments: Any) -> tuple[int, int]:
        end, count = ask(*arguments)
        taken.append(count)
        return end, count

    with patch.object(connection, "data_run", asked):
        heard(data(1, bytes(20)) * 30 + data(1, bytes(21)) + data(1, bytes(9), True))
    assert taken == [32]
