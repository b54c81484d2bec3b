"""The code against the tables and coder of the ``hpack`` package."""

from __future__ import annotations

import pytest
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.wire import huffman

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def test_code_words_are_those_of_the_rfc() -> None:
    words = {symbol: (word, bits) for symbol, word, bits in huffman._code_words()}
    assert words == {
        symbol: (word, bits)
        for symbol, (word, bits) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
    }


@given(st.binary(max_size=80))
def test_every_string_comes_back(text: bytes) -> None:
    assert huffman.decode(ENCODER.encode(text)) == text


@given(st.binary(max_size=12))
def test_arbitrary_octets_decode_as_the_oracle_says_or_are_refused_by_both(data: bytes) -> None:
    try:
        expected = decode_huffman(data)
    except HPACKDecodingError:
        with pytest.raises(huffman.HuffmanError):
            huffman.decode(data)
    else:
        assert huffman.decode(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",  # eight bits of padding
        b"\x1f\xff",  # "a", then eleven
        b"\x18",  # "a", then zeroes
        b"\x1e",  # "a", then ones that end in a zero
        b"\xff\xff\xff\xff",  # the end-of-string word
        b"\x1f\xff\xff\xff\xfc",  # the same behind a letter
    ],
)
def test_wrong_padding_and_end_of_string_are_refused(data: bytes) -> None:
    with pytest.raises(huffman.HuffmanError):
        huffman.decode(data)


def test_all_rows_together_are_bounded() -> None:
    for text in (bytes((a, b)) for a in range(256) for b in range(0, 256, 7)):
        huffman.decode(ENCODER.encode(text))
    assert len(huffman._STATES.rows) <= 256
    assert all(len(row) in (0, 256) for row in huffman._STATES.rows.values())
