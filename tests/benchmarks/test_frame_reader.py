"""Frames are the same, however the octets come."""

from __future__ import annotations

import itertools

from hyperframe.frame import Frame
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.frames import FrameReader
from tei_manager.wire.frames import frame

FRAMES = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, (1 << 31) - 1),
        st.binary(max_size=40),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_of_the_octets_gives_the_frames_that_were_written(
    written: list[tuple[int, int, int, bytes]], cuts: list[int]
) -> None:
    octets = b"".join(frame(*each) for each in written)
    bounds = sorted({0, len(octets), *(min(cut, len(octets)) for cut in cuts)})
    reader = FrameReader()
    pieces = [octets[a:b] for a, b in itertools.pairwise(bounds)]
    assert [found for piece in pieces for found in reader.feed(piece)] == written


def test_a_frame_is_what_hyperframe_takes_it_for() -> None:
    octets = frame(0x8, 0, 7, b"\0\0\1\0")
    ((kind, _, stream_id, payload),) = FrameReader().feed(octets)
    theirs, length = Frame.parse_frame_header(memoryview(octets[:9]))
    assert (kind, stream_id, len(payload)) == (theirs.type, theirs.stream_id, length)
