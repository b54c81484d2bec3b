from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import models, pre_tokenizers

from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import Direction, Tokenizer, _byte_offsets
from tei_manager.grpc.status import Code, StatusError
from tiny_tokenizers import TOKENIZERS


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    return Tokenizer(minilm / "tokenizer.json", 8)


def test_truncation_keeps_special_tokens_and_cuts_the_end_that_was_asked_for(
    tokenizer: Tokenizer,
) -> None:
    text = "one two three four five six seven eight"
    right = tokenizer.encode("", text, Direction.RIGHT).ids
    left = tokenizer.encode("", text, Direction.LEFT).ids
    assert tokenizer.decode(right, skip_special=False) == "[CLS] one two three four five six [SEP]"
    assert (
        tokenizer.decode(left, skip_special=False) == "[CLS] three four five six seven eight [SEP]"
    )


def test_what_the_file_says_of_padding_and_truncation_has_no_effect(tmp_path: Path) -> None:
    file = TOKENIZERS["bert"]()
    file.save(str(tmp_path / "plain.json"))
    file.enable_padding(direction="left", length=20)
    file.enable_truncation(4, direction="left", stride=1)
    file.save(str(tmp_path / "odd.json"))
    plain, odd = (Tokenizer(tmp_path / f"{name}.json", 6) for name in ("plain", "odd"))
    for cut, text in (
        (None, "a b"),
        (Direction.RIGHT, "a b c " * 9),
        (Direction.LEFT, "a b c d e"),
    ):
        assert odd.encode("", text, cut) == plain.encode("", text, cut)


def test_exactly_the_longest_input_is_allowed_and_one_more_is_not(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("", "a b c d e f", None)) == 8
    with pytest.raises(StatusError) as refusal:
        tokenizer.encode("", "a b c d e f g", None)
    assert refusal.value.code is Code.INVALID_ARGUMENT
    assert refusal.value.message == (
        "Input validation error: `inputs` must have less than 8 tokens. Given: 9"
    )


def test_the_character_guard_counts_the_input_and_not_the_prompt(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("p " * 3000, "x" * 2000, Direction.RIGHT)
    with pytest.raises(StatusError, match=r"less than 2000 characters\. Given: 2001"):
        tokenizer.encode("", "x" * 2001, None)


def test_the_guard_cuts_bytes_and_only_between_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.guard(("x" * 2001,), truncate=True) == ("x" * 2000,)
    assert tokenizer.guard(("é" * 2001,), truncate=True) == ("é" * 1000,)
    odd = "x" + "é" * 2000
    assert tokenizer.guard((odd,), truncate=True) == (odd,)


def test_the_guard_counts_a_pair_together_and_cuts_each_at_half(tokenizer: Tokenizer) -> None:
    assert tokenizer.guard(("x" * 1000, "y" * 1000), truncate=False)[1] == "y" * 1000
    assert tokenizer.guard(("x" * 1500, "y" * 501), truncate=True) == ("x" * 1000, "y" * 501)
    with pytest.raises(StatusError, match=r"less than 2000 characters\. Given: 2001"):
        tokenizer.encode_pair("x" * 1500, "y" * 501, None)


def test_a_pair_loses_tokens_of_its_longer_text_first(tokenizer: Tokenizer) -> None:
    pair = tokenizer.encode_pair("a", "b c d e f g h", Direction.RIGHT)
    assert tokenizer.decode(pair.ids, skip_special=False) == "[CLS] a [SEP] b c d e [SEP]"
    assert pair.type_ids == [0, 0, 0, 1, 1, 1, 1, 1]


def test_offsets_are_utf8_bytes_and_texts_are_what_stands_there(tokenizer: Tokenizer) -> None:
    rows = [(token.text, token.span) for token in tokenizer.tokens("", "Hé 世界", special=True)]
    assert rows == [
        ("[CLS]", None),
        ("Hé", (0, 3)),
        ("世", (4, 7)),
        ("界", (7, 10)),
        ("[SEP]", None),
    ]


def _spans(family: str, text: str, folder: Path) -> list[tuple[str, tuple[int, int] | None]]:
    TOKENIZERS[family]().save(str(folder / "tokenizer.json"))
    found = Tokenizer(folder / "tokenizer.json", 24).tokens("", text, special=False)
    return [(token.text, token.span) for token in found]


def test_each_byte_of_a_character_carries_the_whole_characters_offsets(tmp_path: Path) -> None:
    assert _spans("roberta", "aé世", tmp_path) == [
        ("a", (0, 1)),
        *[("é", (1, 3))] * 2,
        *[("世", (3, 6))] * 3,
    ]


def test_pieces_of_a_unigram_model_have_the_offsets_of_the_text(tmp_path: Path) -> None:
    assert _spans("xlm-roberta", "a 世é b", tmp_path) == [
        ("a", (0, 1)),
        (" ", (1, 2)),
        ("世", (2, 5)),
        ("é", (5, 7)),
        (" b", (7, 9)),
    ]


def test_a_mark_that_the_tokenizer_strips_belongs_to_no_token_at_the_end_of_one(
    tmp_path: Path,
) -> None:
    assert _spans("bert", "é ae\u0301", tmp_path)[1:] == [("a", (3, 4)), ("e", (4, 5))]


def test_a_combining_mark_belongs_to_its_character(tokenizer: Tokenizer) -> None:
    rows = [
        (token.text, token.span) for token in tokenizer.tokens("", "e\u0301tude", special=False)
    ]
    assert rows == [("e\u0301t", (0, 4)), ("ude", (4, 7))]


def test_a_special_token_typed_in_the_text_is_not_special(tokenizer: Tokenizer) -> None:
    first, second, *_ = tokenizer.tokens("", "[SEP]", special=True)
    assert (first.span, second.id, second.span) == (None, 102, (0, 5))


def test_offsets_count_from_the_start_of_the_prompt(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.tokens("query: ", "x", special=False)
    assert tokens[-1].span == (7, 8)


def test_ids_that_the_vocabulary_lacks_are_passed_over(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([101, 7592, 2**32 - 1, 102], skip_special=True) == "hello"


@given(st.text())
def test_byte_offsets_are_those_of_the_encoded_text(text: str) -> None:
    offsets = _byte_offsets(text)
    raw = text.encode("utf-8", "surrogatepass")
    assert len(offsets) == len(text) + 1
    for index, character in enumerate(text):
        piece = raw[offsets[index] : offsets[index + 1]]
        assert piece.decode("utf-8", "surrogatepass") == character


def test_a_text_without_any_token_is_empty(tmp_path: Path) -> None:
    words = TokenizerFile(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StatusError, match="`inputs` cannot be empty"):
        Tokenizer(tmp_path / "tokenizer.json", 8).encode("", "  ", None)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnusable, match="Cannot read the tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json", 8)
