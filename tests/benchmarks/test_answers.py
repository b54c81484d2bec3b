"""What the stand-in for TEI answers, read by libraries that know nothing of it."""

from __future__ import annotations

import itertools

import hpack
import pytest

from benchmarks.answers import FLOATS, TRAILERS, VALUES, answer, blocks
from benchmarks.calls import SIZES, SMALL_ANSWER
from tei_manager.grpc.proto.tei.v1 import tei_pb2


def read(decoder: hpack.Decoder, block: bytes) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in decoder.decode(block, raw=True)]


@pytest.mark.parametrize("table_size", [0, 256, 4096])
def test_blocks_go_on_saying_the_values_in_turn_long_after_they_went_round(table_size: int) -> None:
    decoder = hpack.Decoder()
    decoder.header_table_size = table_size
    made = blocks(table_size)
    for _ in range(6):
        for fields in VALUES:
            expected = [(":status", "200"), *fields]
            assert read(decoder, next(made)) == expected


def test_a_larger_table_than_ours_is_not_used() -> None:
    small, large = blocks(4096), blocks(1 << 16)
    assert all(next(small) == next(large) for _ in range(2 * len(VALUES)))


def test_the_values_are_teis_fields_and_change_from_call_to_call() -> None:
    names = [name for name, _ in VALUES[0]]
    assert len([name for name in names if name.startswith("x-")]) == 8
    assert names[-1] == "date"
    assert all(one != other for one, other in itertools.pairwise(VALUES))


def test_trailers_say_that_the_call_is_fine() -> None:
    assert read(hpack.Decoder(), TRAILERS) == [("grpc-status", "0")]


ENDS = {SMALL_ANSWER: FLOATS, **{end: octets // 4 for end, octets in SIZES.items()}}


@pytest.mark.parametrize(("last", "floats"), ENDS.items())
def test_an_answer_is_a_vector_of_the_length_that_the_text_asks_for(last: str, floats: int) -> None:
    framed = answer(last)
    assert framed[:5] == b"\0" + (len(framed) - 5).to_bytes(4, "big")
    assert len(tei_pb2.EmbedResponse.FromString(framed[5:]).embeddings) == floats
