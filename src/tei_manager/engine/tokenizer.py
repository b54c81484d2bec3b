"""Text to token ids and back, as TEI does it: three truncations, byte offsets, a character guard.

The `tokenizers` library keeps truncation as a state of the tokenizer object. Three objects, one
for each way to truncate and never changed after they are made, need no lock and may be used by
several threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.refusals import empty, invalid

# TEI's guard before tokenising: no model has tokens that are longer on average.
CHARACTERS_PER_TOKEN = 250


class Direction(IntEnum):
    """Which end of a text is cut off; numbers as on the wire."""

    RIGHT = 0
    LEFT = 1


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A text as the model reads it: equally long lists, special tokens included."""

    ids: list[int]
    type_ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Token:
    """One token for a person to look at.

    Args:
        id: Its number in the vocabulary.
        text: What it covers of the text; a special token's name.
        span: UTF-8 byte offsets into the text, ``None`` for a token that the tokenizer added.
    """

    id: int
    text: str
    span: tuple[int, int] | None


class Tokenizer:
    """A model's tokenizer, bounded by the model's length.

    Args:
        path: The model's ``tokenizer.json``.
        max_length: Most tokens that an input may have, special tokens counted.

    Raises:
        ModelUnusable: The file is missing or broken.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        self.max_length = max_length
        self.max_characters = CHARACTERS_PER_TOKEN * max_length
        self._whole = _load(path)
        self._whole.no_truncation()
        self._cut = {direction: _load(path) for direction in Direction}
        for direction, tokenizer in self._cut.items():
            tokenizer.enable_truncation(max_length, direction=direction.name.lower())

    def encode(self, prefix: str, text: str, cut: Direction | None) -> TokenIds:
        """Return the ids of a prompt and a text, with special tokens.

        Args:
            prefix: A prompt, or nothing; it is not counted by the character guard.
            text: What the caller sent.
            cut: The end at which a text that is too long loses tokens; ``None`` refuses it.

        Raises:
            StatusError: INVALID_ARGUMENT, the text is too long and must not be cut, or has no
                tokens at all.
        """
        (text,) = self.guard((text,), truncate=cut is not None)
        return self._ids(self._for(cut).encode(prefix + text))

    def encode_pair(self, first: str, second: str, cut: Direction | None) -> TokenIds:
        """Return the ids of two texts that belong together; else as `encode`."""
        first, second = self.guard((first, second), truncate=cut is not None)
        return self._ids(self._for(cut).encode(first, second))

    def _for(self, cut: Direction | None) -> Any:
        return self._whole if cut is None else self._cut[cut]

    def _ids(self, encoding: Any) -> TokenIds:
        count = len(encoding.ids)
        if count == 0:
            raise empty("inputs")
        if count > self.max_length:
            raise invalid(f"`inputs` must have less than {self.max_length} tokens. Given: {count}")
        return TokenIds(encoding.ids, encoding.type_ids)

    def guard(self, texts: tuple[str, ...], *, truncate: bool) -> tuple[str, ...]:
        """Return the texts of one input, cut if they have more characters than the guard allows.

        The cut is TEI's: as many bytes as characters are allowed, half of them for each text of a
        pair, always at the end, and left out where it would split a character.

        Raises:
            StatusError: INVALID_ARGUMENT, there are too many characters and ``truncate`` is off.
        """
        limit, count = self.max_characters, sum(map(len, texts))
        if count <= limit:
            return texts
        if not truncate:
            raise invalid(f"`inputs` must have less than {limit} characters. Given: {count}")
        return tuple(_cut_bytes(text, limit // len(texts)) for text in texts)

    def tokens(self, prefix: str, text: str, *, special: bool) -> list[Token]:
        """Return the tokens of a prompt and a text, never truncated.

        Args:
            prefix: A prompt, or nothing; offsets count from its start.
            text: What the caller sent.
            special: Whether to add the model's special tokens. One that stands in the text is a
                token like any other.

        Raises:
            StatusError: INVALID_ARGUMENT, there are too many characters.
        """
        (text,) = self.guard((text,), truncate=False)
        whole = prefix + text
        found = self._whole.encode(whole, add_special_tokens=special)
        starts = _byte_offsets(whole)
        rows = zip(found.ids, found.tokens, found.offsets, found.special_tokens_mask, strict=True)
        return [
            Token(id_, name, None)
            if added
            else Token(id_, whole[start:stop], (starts[start], starts[stop]))
            for id_, name, (start, stop), added in rows
        ]

    def decode(self, ids: list[int], *, skip_special: bool) -> str:
        """Return the text of token ids; ids that the vocabulary lacks are passed over."""
        return str(self._whole.decode(ids, skip_special_tokens=skip_special))


def _cut_bytes(text: str, size: int) -> str:
    """Return the first bytes of a text, or all of it if the cut would split a character."""
    raw = text.encode()
    splits_character = size < len(raw) and raw[size] & 0xC0 == 0x80
    return text if splits_character else raw[:size].decode()


def _byte_offsets(text: str) -> list[int]:
    """Return where each character starts in UTF-8, and the length of the whole at the end."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    offsets: list[int] = np.concatenate(([0], np.cumsum(sizes))).tolist()
    return offsets


def _load(path: Path) -> Any:
    """Return a new tokenizer object that does not pad; batches are padded by `encoder`."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of mistake
        raise ModelUnusable(f"Cannot read the tokenizer '{path}': {error}") from error
    tokenizer.no_padding()
    return tokenizer
