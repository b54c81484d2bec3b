"""The floods are what the report calls them, as other people's decoders read them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

import hpack
import pytest
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame, SettingsFrame

from benchmarks.faults.floods import FLOODS, Flood
from tei_manager.wire.frames import PREFACE

NAMES = [flood.name for flood in FLOODS]
BY_NAME = dict(zip(NAMES, FLOODS, strict=True))
LOOKED_AT = 3
"""Units of each flood that are read: they differ in the stream's number alone."""

ONE_PER_UNIT = [
    *("rapid reset", "window update of nothing", "window overflow", "DATA after the end"),
    *("PRIORITY of four octets", "HPACK bomb of 2016", "header bomb of 2026"),
    "fields without a name",
]
"""Floods whose every unit is a call."""


def split(octets: bytes) -> Iterator[tuple[Frame, bytes]]:
    """Cut octets into frame headers, which are not strict, and payloads."""
    while octets:
        frame, length = Frame.parse_frame_header(memoryview(octets[:9]))
        payload = octets[9 : 9 + length]
        assert len(payload) == length, "a frame is cut"
        yield frame, payload
        octets = octets[9 + length :]


def units(flood: Flood) -> list[bytes]:
    return list(islice(flood.units(), LOOKED_AT))


def blocks(flood: Flood) -> Iterator[bytes]:
    """Join the header blocks of a flood's opening and first units."""
    octets = flood.hello.removeprefix(PREFACE) + b"".join(units(flood))
    block = b""
    for frame, payload in split(octets):
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            block += payload
            if "END_HEADERS" in frame.flags:
                yield block
                block = b""


def test_there_are_eighteen_and_no_two_share_a_name() -> None:
    assert len(set(NAMES)) == len(FLOODS) == 18


@pytest.mark.parametrize("flood", FLOODS, ids=NAMES)
def test_a_unit_is_as_many_whole_frames_as_it_says(flood: Flood) -> None:
    for unit in units(flood):
        assert len(list(split(unit))) == flood.frames


@pytest.mark.parametrize("flood", FLOODS, ids=NAMES)
def test_it_opens_with_the_preface_and_settings(flood: Flood) -> None:
    assert flood.hello.startswith(PREFACE)
    first, _ = next(split(flood.hello.removeprefix(PREFACE)))
    assert isinstance(first, SettingsFrame)


@pytest.mark.parametrize("flood", FLOODS, ids=NAMES)
def test_it_ends_after_its_count(flood: Flood) -> None:
    assert sum(1 for _ in flood.units()) == flood.count


@pytest.mark.parametrize("name", ONE_PER_UNIT)
def test_each_unit_of_a_flood_of_calls_opens_the_next_stream(name: str) -> None:
    heads = [next(split(unit))[0] for unit in units(BY_NAME[name])]
    assert all(isinstance(head, HeadersFrame) for head in heads)
    assert all(later.stream_id == head.stream_id + 2 for head, later in pairwise(heads))
    assert heads[0].stream_id in (1, 3)


@pytest.mark.parametrize("name", ONE_PER_UNIT)
def test_its_blocks_are_requests_for_embeddings(name: str) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 30)
    for block in blocks(BY_NAME[name]):
        fields = dict(decoder.decode(block, raw=True))
        assert fields[b":path"] == b"/tei_multiplexer.v1.TeiMultiplexer/EmbedStream"


@pytest.mark.parametrize(
    ("name", "fields", "octets"),
    [("HPACK bomb of 2016", 15_000, 60_000_000), ("header bomb of 2026", 31_000, 31_000)],
)
def test_a_bomb_decodes_to_far_more_than_it_is(name: str, fields: int, octets: int) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 30)
    seed, block, _, _ = blocks(BY_NAME[name])
    decoder.decode(seed, raw=True)
    decoded = [value for key, value in decoder.decode(block, raw=True) if key == b"x"]
    assert len(decoded) == fields
    assert len(block) < 2 * fields
    assert sum(len(value) + 1 for value in decoded) >= octets


@pytest.mark.parametrize("name", ["CONTINUATION of 16 KiB", "CONTINUATION of nothing"])
def test_a_header_block_of_continuations_never_ends(name: str) -> None:
    assert not list(blocks(BY_NAME[name]))


def test_two_floods_do_not_read_what_comes_back() -> None:
    assert [flood.name for flood in FLOODS if not flood.reads] == [
        "PING, not reading",
        "SETTINGS, not reading",
    ]
