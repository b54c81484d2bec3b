"""Frame writers against hyperframe, which shares no code with them."""

from __future__ import annotations

from typing import Any

from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.wire import frames
from tei_manager.wire.frames import ErrorCode, ProtocolError, StreamError

stream_ids = st.integers(1, frames.LARGEST_STREAM_ID)
words = st.integers(0, (1 << 32) - 1)


def read(wire: bytes) -> list[Any]:
    found = []
    while wire:
        frame, length = Frame.parse_frame_header(memoryview(wire[:9]))
        frame.parse_body(memoryview(wire[9 : 9 + length]))
        found.append(frame)
        wire = wire[9 + length :]
    return found


@given(stream_ids, st.binary(max_size=500), st.booleans(), st.integers(1, 200))
def test_a_header_block_is_cut_into_frames_that_add_up(
    stream_id: int, block: bytes, end: bool, size: int
) -> None:
    first, *rest = read(frames.header_frames(stream_id, block, end, size))
    assert isinstance(first, HeadersFrame)
    assert all(isinstance(frame, ContinuationFrame) for frame in rest)
    assert all(frame.stream_id == stream_id for frame in rest)
    assert b"".join(frame.data for frame in (first, *rest)) == block
    assert all(len(frame.data) <= size for frame in (first, *rest))
    assert ("END_STREAM" in first.flags) == end
    ends = ["END_HEADERS" in frame.flags for frame in (first, *rest)]
    assert ends == [False] * len(rest) + [True]


@given(st.dictionaries(st.integers(1, 0xFFFF), words, max_size=8))
def test_settings_read_as_they_were_written(values: dict[int, int]) -> None:
    (frame,) = read(frames.settings(values))
    assert isinstance(frame, SettingsFrame)
    assert dict(frame.settings) == values


@given(stream_ids, words, st.integers(1, frames.LARGEST_WINDOW), st.binary(min_size=8, max_size=8))
def test_control_frames_read_as_they_were_written(
    stream_id: int, code: int, increment: int, payload: bytes
) -> None:
    reset, update, ping, pong, goaway, ack = read(
        frames.rst_stream(stream_id, code)
        + frames.window_update(stream_id, increment)
        + frames.ping(payload)
        + frames.ping(payload, ack=True)
        + frames.goaway(stream_id, code, payload)
        + frames.SETTINGS_ACK
    )
    assert (type(reset), reset.stream_id, reset.error_code) == (RstStreamFrame, stream_id, code)
    assert isinstance(update, WindowUpdateFrame)
    assert (update.stream_id, update.window_increment) == (stream_id, increment)
    assert isinstance(ping, PingFrame)
    assert (ping.opaque_data, "ACK" in ping.flags) == (payload, False)
    assert (pong.opaque_data, "ACK" in pong.flags) == (payload, True)
    assert isinstance(goaway, GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code) == (stream_id, code)
    assert goaway.additional_data == payload
    assert "ACK" in ack.flags


def test_an_error_says_its_code_by_name() -> None:
    for kind in (ProtocolError, StreamError):
        error = kind(ErrorCode.FLOW_CONTROL_ERROR, "too much")
        assert str(error) == "FLOW_CONTROL_ERROR: too much"
