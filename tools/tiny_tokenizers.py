"""Tokenizers for the tiny models: one of each sort that encoders use, with very few pieces.

All of them know the letters a to j as whole words, by ids in this order behind the special tokens,
so that a test can say which row of the word embeddings a text reads.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

LETTERS = "abcdefghij"

# Special tokens in the order of their ids: padding, unknown, start, end, mask.
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]


def word_pieces() -> Tokenizer:
    """Return a WordPiece tokenizer as BERT and DistilBERT have it: lower case, no accents."""
    pieces = [*_BERT, *LETTERS, *(f"##{letter}" for letter in LETTERS), "hello", "##é", "[MASK]"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens([*_BERT, "[MASK]"])
    return tokenizer


def byte_pairs() -> Tokenizer:
    """Return a byte-level BPE tokenizer as RoBERTa has it: every text has tokens."""
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(LETTERS))
    merges = [("Ġ", letter) for letter in LETTERS]
    pieces = [*_ROBERTA, *LETTERS, *alphabet, *(f"Ġ{letter}" for letter in LETTERS), "<mask>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.add_special_tokens([*_ROBERTA, "<mask>"])
    return tokenizer


def unigrams() -> Tokenizer:
    """Return a Unigram tokenizer as XLM-RoBERTa has it: spaces are the character U+2581."""
    words = [*LETTERS, "▁", *(f"▁{letter}" for letter in LETTERS), "世", "é"]
    scored = [(piece, 0.0) for piece in _ROBERTA] + [(word, -2.0) for word in words]
    tokenizer = Tokenizer(models.Unigram([*scored, ("<mask>", 0.0)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _template(tokenizer)
    return tokenizer


def mpnet_pieces() -> Tokenizer:
    """Return a WordPiece tokenizer with RoBERTa's special tokens, as MPNet has it."""
    pieces = [*_ROBERTA, *LETTERS, *(f"##{letter}" for letter in LETTERS), "<mask>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _template(tokenizer)
    return tokenizer


def _template(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens([*_ROBERTA, "<mask>"])


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bert": word_pieces,
    "distilbert": word_pieces,
    "mpnet": mpnet_pieces,
    "roberta": byte_pairs,
    "xlm-roberta": unigrams,
}
"""A maker for each ``model_type``."""
