"""Answers that are known at a look: never other than what decoding them says."""

from __future__ import annotations

from collections.abc import Iterable

import hpack as oracle
from header_views import CONTENT, outcome, shape, travels
from hypothesis import given
from hypothesis import strategies as st
from wire_pair import block

from tei_manager.wire import answers as answers_module
from tei_manager.wire import hpack
from tei_manager.wire.answers import read_response, recognise_answer


def plain(pairs: Iterable[tuple[bytes, bytes]], huffman: bool) -> bytes:
    """An answer without the dynamic table, as a foreign encoder writes it."""
    wire = [hpack.STATUS_200]
    for pair in pairs:
        never = oracle.Encoder().encode([(*pair, True)], huffman=huffman)
        if never[0] & 0x80:  # the static table has all of it
            wire.append(hpack.literal(*pair))
        else:
            wire.append(bytes((never[0] & 0x0F,)) + never[1:])  # not indexed, but not forbidden
    return b"".join(wire)


answers = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"date", b"content-type", b"server", b"grpc-status", b"te"]),
        st.sampled_from([b"", b"0", b"7", b"application/grpc", b"v" * 40, b"\r"]),
    ),
    max_size=8,
)


@given(st.lists(answers, min_size=1, max_size=4), st.booleans())
def test_an_answer_that_is_recognised_says_what_decoding_says(
    lists: list[list[tuple[bytes, bytes]]], huffman: bool
) -> None:
    """Fields become known in one block and are recognised in another."""
    for pairs in lists:
        wire = plain(pairs, huffman)
        known = recognise_answer(wire)
        want = outcome(read_response, hpack.Decoder().decode(wire))
        if known is not None:
            assert {**shape(known), "forward": ""} == {**want, "forward": ""}
            assert travels(known.forward) == pairs


@given(st.binary(max_size=60), st.integers(0, 40))
def test_recognising_raises_nothing_and_takes_nothing_that_is_cut_short(
    more: bytes, kept: int
) -> None:
    answer = hpack.STATUS_200 + block(CONTENT, (b"x-a", b"1"), (b"date", b"today"))
    read_response(hpack.Decoder().decode(answer))
    whole = recognise_answer(answer)
    assert whole is not None
    assert travels(whole.forward) == [CONTENT, (b"x-a", b"1"), (b"date", b"today")]
    recognise_answer(b"\x88" + more)
    part = recognise_answer(answer[:kept])
    if part is not None:
        read_response(hpack.Decoder().decode(answer[:kept]))


# Names and values whose forms have zeros inside, begin as a status does, or come from the table.
fields = st.tuples(
    st.sampled_from([b"x-a", b"abcdefgh", b"x-\x00", b"date", b"content-type", b"vary", b"age"]),
    st.sampled_from([b"", b"1", b"300", b"\x00", b"a\x00b", b"\x88", b"\x0f\x10\x00", b"v" * 30]),
)


@given(st.lists(st.lists(fields, max_size=6), min_size=1, max_size=4), st.booleans(), st.data())
def test_parts_of_known_answers_in_any_order_say_what_decoding_says(
    taught: list[list[tuple[bytes, bytes]]], huffman: bool, data: st.DataObject
) -> None:
    parts: list[bytes] = []
    for pairs in taught:
        wire = plain(pairs, huffman)
        outcome(read_response, hpack.Decoder().decode(wire))
        recognise_answer(wire)
        parts += wire.split(b"\0")
    mixed = b"\0".join(data.draw(st.lists(st.sampled_from(parts), min_size=1, max_size=12)))
    known = recognise_answer(mixed)
    if known is not None:
        want = outcome(read_response, hpack.Decoder().decode(mixed))
        assert {**shape(known), "forward": ""} == {**want, "forward": ""}
        assert known.forward == mixed[1:]


def test_a_thousand_answers_with_new_digits_are_nearly_all_known_by_their_parts() -> None:
    """What is timed in the benchmark happens: the second half needs no look at single fields."""
    names = [b"x-total-time", b"x-queue-time", b"x-inference-time"]
    wires = [
        plain([CONTENT, *((name, b"%d" % (n * 7 % 40)) for name in names)], True) for n in range(80)
    ]
    for wire in wires:
        read_response(hpack.Decoder().decode(wire))
        assert recognise_answer(wire) is not None
    known = answers_module._PARTS
    assert sum(known.issuperset(wire.split(b"\0")[1:]) for wire in wires) == 80
